/** Masks as bits in base64: x fastest, the first voxel in the lowest bit of a byte. */

import { boundsOf } from "./boxes";
import { boxSize, type Box, type Vec3 } from "./geometry";

export function packedBits(mask: Uint8Array): string {
  const bytes = new Uint8Array(Math.ceil(mask.length / 8));
  for (let i = 0; i < mask.length; i++) if (mask[i] !== 0) bytes[i >> 3]! |= 1 << (i & 7);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

/** The smallest box that holds every voxel whose value is in `values`; null if there is none. */
export function boundsOfValues(labels: Uint8Array, dims: Vec3, values: ReadonlySet<number>): Box | null {
  const wanted = new Uint8Array(256);
  for (const value of values) wanted[value] = 1;
  const corners = new Uint32Array(2 * dims[1] * dims[2]);
  let count = 0;
  for (let row = 0, start = 0; row < dims[1] * dims[2]; row++, start += dims[0]) {
    let first = start;
    const end = start + dims[0];
    while (first < end && wanted[labels[first]!] === 0) first++;
    if (first === end) continue;
    let last = end - 1;
    while (wanted[labels[last]!] === 0) last--;
    corners[count++] = first;
    corners[count++] = last;
  }
  return boundsOf(corners, count, dims);
}

/** Where a label lies, as a prompt carries it; null if nowhere. */
export function maskOf(labels: Uint8Array, dims: Vec3, value: number): { lo: Vec3; shape: Vec3; bits: string } | null {
  const box = boundsOfValues(labels, dims, new Set([value]));
  if (box === null) return null;
  const shape = boxSize(box);
  const mask = new Uint8Array(shape[0] * shape[1] * shape[2]);
  for (let z = box.lo[2], to = 0; z < box.hi[2]; z++) {
    for (let y = box.lo[1]; y < box.hi[1]; y++) {
      let from = box.lo[0] + dims[0] * (y + dims[1] * z);
      for (let x = 0; x < shape[0]; x++, to++, from++) mask[to] = labels[from] === value ? 1 : 0;
    }
  }
  return { lo: box.lo, shape, bits: packedBits(mask) };
}
