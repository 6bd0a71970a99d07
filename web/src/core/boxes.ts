/** Parts of a label map: taking a box out, putting a box in, the bounds of voxels. */

import { boxSize, boxVoxels, voxelCount, type Box, type Vec3 } from "./geometry";

/**
 * A grid of zeros, all of it in memory already: writing to a page of memory for the first time takes some microseconds,
 * and a box of 128 voxels a side lies on 2000 of them.
 */
export function emptyGrid(dims: Vec3): Uint8Array {
  return new Uint8Array(voxelCount(dims)).fill(0);
}

/** The content of `box`, x fastest. */
export function extractBox(labels: Uint8Array, dims: Vec3, box: Box): Uint8Array {
  const [width, height, depth] = boxSize(box);
  const result = new Uint8Array(boxVoxels(box));
  for (let z = 0, to = 0; z < depth; z++) {
    for (let y = 0; y < height; y++, to += width) {
      const from = box.lo[0] + dims[0] * (box.lo[1] + y + dims[1] * (box.lo[2] + z));
      result.set(labels.subarray(from, from + width), to);
    }
  }
  return result;
}

/** Write `values` (x fastest) into `box`. */
export function insertBox(labels: Uint8Array, dims: Vec3, box: Box, values: Uint8Array): void {
  const [width, height, depth] = boxSize(box);
  if (values.length !== width * height * depth) throw new RangeError("The values do not fill the box.");
  for (let z = 0, from = 0; z < depth; z++) {
    for (let y = 0; y < height; y++, from += width) {
      const to = box.lo[0] + dims[0] * (box.lo[1] + y + dims[1] * (box.lo[2] + z));
      labels.set(values.subarray(from, from + width), to);
    }
  }
}

export function isEmpty(box: Box): boolean {
  return box.hi[0] <= box.lo[0] || box.hi[1] <= box.lo[1] || box.hi[2] <= box.lo[2];
}

/** The smallest box that holds both. */
export function union(a: Box, b: Box): Box {
  return {
    lo: [Math.min(a.lo[0], b.lo[0]), Math.min(a.lo[1], b.lo[1]), Math.min(a.lo[2], b.lo[2])],
    hi: [Math.max(a.hi[0], b.hi[0]), Math.max(a.hi[1], b.hi[1]), Math.max(a.hi[2], b.hi[2])],
  };
}

/** What both hold; empty where they do not meet. */
export function intersection(a: Box, b: Box): Box {
  return {
    lo: [Math.max(a.lo[0], b.lo[0]), Math.max(a.lo[1], b.lo[1]), Math.max(a.lo[2], b.lo[2])],
    hi: [Math.min(a.hi[0], b.hi[0]), Math.min(a.hi[1], b.hi[1]), Math.min(a.hi[2], b.hi[2])],
  };
}

/** Whether `outer` holds all of `inner`. */
export function holds(outer: Box, inner: Box): boolean {
  return inner.lo.every((lo, i) => lo >= outer.lo[i]! && inner.hi[i]! <= outer.hi[i]!);
}

/** Bounds of flat indices; null without any. */
export function boundsOf(indices: Uint32Array, count: number, dims: Vec3): Box | null {
  if (count === 0) return null;
  const [width, height] = dims;
  let [x0, y0, z0, x1, y1, z1] = [Infinity, Infinity, Infinity, -1, -1, -1];
  for (let i = 0; i < count; i++) {
    const index = indices[i]!;
    const x = index % width;
    const rest = (index - x) / width;
    const y = rest % height;
    const z = (rest - y) / height;
    if (x < x0) x0 = x;
    if (x > x1) x1 = x;
    if (y < y0) y0 = y;
    if (y > y1) y1 = y;
    if (z < z0) z0 = z;
    if (z > z1) z1 = z;
  }
  return { lo: [x0, y0, z0], hi: [x1 + 1, y1 + 1, z1 + 1] };
}

/** Voxels of each label value. */
export function countLabels(labels: Uint8Array): Float64Array {
  const counts = new Float64Array(256);
  for (let i = 0; i < labels.length; ) {
    const value = labels[i]!;
    let end = i + 1;
    while (end < labels.length && labels[end] === value) end++;
    counts[value]! += end - i;
    i = end;
  }
  return counts;
}
