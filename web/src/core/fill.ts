/** Filling an enclosed region, in the slice or in the volume. */

import { IN_PLANE, indexOf, strides, voxelOf, type Axis, type Vec3 } from "./geometry";

export interface FillResult {
  /** Flat indices of the region, in no order. */
  readonly indices: Uint32Array;
  /** Whether the region reaches the edge of the slice or volume: then nothing encloses it. */
  readonly open: boolean;
}

/**
 * The connected region of `seed`: voxels of the seed's label that `accepts` lets through, by 4 (6) neighbours.
 *
 * @param axis the plane to stay in; null: the whole volume
 */
export function regionOf(
  labels: Uint8Array,
  dims: Vec3,
  seed: Vec3,
  axis: Axis | null,
  accepts: (index: number) => boolean,
): FillResult {
  const start = indexOf(dims, seed[0], seed[1], seed[2]);
  const label = labels[start]!;
  const axes: readonly Axis[] = axis === null ? [0, 1, 2] : IN_PLANE[axis];
  const step = strides(dims);
  if (!accepts(start)) return { indices: new Uint32Array(0), open: false };
  const seen = new Uint8Array(Math.ceil(labels.length / 8));
  const mark = (i: number) => {
    seen[i >> 3]! |= 1 << (i & 7);
  };
  let stack = new Uint32Array(4096);
  let height = 0;
  let found = new Uint32Array(4096);
  let count = 0;
  let open = false;
  stack[height++] = start;
  mark(start);
  while (height > 0) {
    const index = stack[--height]!;
    if (count === found.length) found = doubled(found);
    found[count++] = index;
    const at = voxelOf(dims, index);
    for (const a of axes) {
      for (const direction of [-1, 1]) {
        const next = at[a] + direction;
        if (next < 0 || next >= dims[a]) {
          open = true;
          continue;
        }
        const neighbour = index + direction * step[a];
        if (labels[neighbour] !== label || (seen[neighbour >> 3]! & (1 << (neighbour & 7))) !== 0) continue;
        if (!accepts(neighbour)) continue;
        mark(neighbour);
        if (height === stack.length) stack = doubled(stack);
        stack[height++] = neighbour;
      }
    }
  }
  return { indices: found.slice(0, count), open };
}

function doubled(array: Uint32Array): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(array.length * 2);
  larger.set(array);
  return larger;
}
