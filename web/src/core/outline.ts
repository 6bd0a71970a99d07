/** A closed line of points as the voxels inside it: what a lasso marks. */

import { IN_PLANE, type Axis, type Box, type Vec3 } from "./geometry";

export interface Region {
  readonly box: Box;
  /** 1 inside; x fastest. */
  readonly voxels: Uint8Array;
}

/**
 * Voxels of one slice whose centres lie inside the outline, by the even-odd rule; null if none.
 *
 * @param points continuous voxel coordinates in one slice of `axis`
 */
export function regionInside(points: readonly Vec3[], axis: Axis, slice: number, dims: Vec3): Region | null {
  if (points.length < 3) return null;
  const [u, v] = IN_PLANE[axis];
  const clampLow = (a: Axis, value: number) => Math.max(0, Math.min(dims[a], value));
  const u0 = clampLow(u, Math.floor(Math.min(...points.map((p) => p[u]))));
  const u1 = clampLow(u, Math.ceil(Math.max(...points.map((p) => p[u]))) + 1);
  const v0 = clampLow(v, Math.floor(Math.min(...points.map((p) => p[v]))));
  const v1 = clampLow(v, Math.ceil(Math.max(...points.map((p) => p[v]))) + 1);
  if (u1 <= u0 || v1 <= v0) return null;
  const width = u1 - u0;
  const voxels = new Uint8Array(width * (v1 - v0));
  let some = false;
  for (let row = v0; row < v1; row++) {
    const crossings: number[] = [];
    for (let i = 0; i < points.length; i++) {
      const a = points[i]!;
      const b = points[(i + 1) % points.length]!;
      if (a[v] <= row === b[v] <= row) continue;
      crossings.push(a[u] + ((row - a[v]) / (b[v] - a[v])) * (b[u] - a[u]));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(u0, Math.ceil(crossings[i]!));
      const to = Math.min(u1 - 1, Math.floor(crossings[i + 1]!));
      for (let column = from; column <= to; column++) {
        voxels[(row - v0) * width + column - u0] = 1;
        some = true;
      }
    }
  }
  if (!some) return null;
  const lo: [number, number, number] = [0, 0, 0];
  const hi: [number, number, number] = [0, 0, 0];
  lo[axis] = slice;
  hi[axis] = slice + 1;
  [lo[u], hi[u], lo[v], hi[v]] = [u0, u1, v0, v1];
  return { box: { lo, hi }, voxels };
}
