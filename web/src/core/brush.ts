/**
 * The brush: discs and balls measured in millimetres, stamped along the pointer's way closely enough that no gap shows.
 *
 * The brush knows which voxels it reaches; what becomes of them is the writer's business.
 */

import { IN_PLANE, strides, type Axis, type Vec3 } from "./geometry";

export interface Stamp {
  readonly dims: Vec3;
  readonly spacing: Vec3;
  readonly axis: Axis;
  readonly radiusMm: number;
  /** A ball instead of a disc in the plane. */
  readonly ball: boolean;
}

/** Told of each voxel that the brush reaches, by flat index; the same one may come again. */
export type Reach = (index: number) => void;

/**
 * Reach every voxel whose centre lies within the radius of `center`, and in any case the voxel under it.
 *
 * @param center continuous voxel coordinates, voxel centres at integers
 */
export function stampAt(stamp: Stamp, center: Vec3, reach: Reach): void {
  const { dims, spacing, axis, radiusMm, ball } = stamp;
  const nearest: Vec3 = [Math.round(center[0]), Math.round(center[1]), Math.round(center[2])];
  const step = strides(dims);
  const range = (a: Axis): readonly [number, number] => {
    if (a === axis && !ball) return [Math.max(0, nearest[a]), Math.min(dims[a] - 1, nearest[a])];
    const reachVoxels = radiusMm / spacing[a];
    return [Math.max(0, Math.ceil(center[a] - reachVoxels)), Math.min(dims[a] - 1, Math.floor(center[a] + reachVoxels))];
  };
  const [x0, x1] = range(0);
  const [y0, y1] = range(1);
  const [z0, z1] = range(2);
  const limit = radiusMm * radiusMm;
  const square = (a: Axis, at: number) => {
    if (a === axis && !ball) return 0;
    const d = (at - center[a]) * spacing[a];
    return d * d;
  };
  for (let z = z0; z <= z1; z++) {
    const dz = square(2, z);
    for (let y = y0; y <= y1; y++) {
      const dyz = dz + square(1, y);
      if (dyz > limit) continue;
      const row = y * step[1] + z * step[2];
      for (let x = x0; x <= x1; x++) if (dyz + square(0, x) <= limit) reach(row + x);
    }
  }
  const [nx, ny, nz] = nearest;
  if (nx >= 0 && ny >= 0 && nz >= 0 && nx < dims[0] && ny < dims[1] && nz < dims[2]) {
    reach(nx + ny * step[1] + nz * step[2]);
  }
}

/** Stamp from `from` (left out) to `to`, at steps of at most half the radius or half a voxel. */
export function stampLine(stamp: Stamp, from: Vec3, to: Vec3, reach: Reach): void {
  const { spacing, axis, radiusMm } = stamp;
  const [u, v] = IN_PLANE[axis];
  const d = [(to[0] - from[0]) * spacing[0], (to[1] - from[1]) * spacing[1], (to[2] - from[2]) * spacing[2]];
  const lengthMm = Math.hypot(d[0]!, d[1]!, d[2]!);
  const stepMm = Math.max(radiusMm / 2, Math.min(spacing[u], spacing[v]) / 2);
  const count = Math.max(1, Math.ceil(lengthMm / stepMm));
  for (let i = 1; i <= count; i++) {
    const t = i / count;
    stampAt(
      stamp,
      [from[0] + (to[0] - from[0]) * t, from[1] + (to[1] - from[1]) * t, from[2] + (to[2] - from[2]) * t],
      reach,
    );
  }
}
