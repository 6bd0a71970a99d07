/** A part of an image that a strategy asks for, and how a plane frames it. */

import type { Axis, Box, Vec3 } from "./geometry";

/** As the server tells it, in voxels of the grid. */
export type Region =
  | { readonly kind: "whole" | "mask" }
  | { readonly kind: "boxes"; readonly boxes: readonly (readonly [Vec3, Vec3])[] }
  | { readonly kind: "slices"; readonly axis: Axis; readonly slices: readonly number[] };

/** Boxes of a region; slices reach without end to their sides. Masks cannot be framed. */
export function partsOf(region: Region | null): Box[] {
  if (region?.kind === "boxes") return region.boxes.map(([lo, hi]) => ({ lo, hi }));
  if (region?.kind !== "slices") return [];
  return region.slices.map((slice) => {
    const [lo, hi] = [[-Infinity, -Infinity, -Infinity], [Infinity, Infinity, Infinity]] as [[number, number, number], [number, number, number]];
    lo[region.axis] = slice;
    hi[region.axis] = slice + 1;
    return { lo, hi };
  });
}

/** First and last voxel of what `part` holds of an image; null if nothing. */
export function cornersIn(part: Box, dims: Vec3): readonly [Vec3, Vec3] | null {
  const first = part.lo.map((n) => Math.max(n, 0)) as unknown as Vec3;
  const last = part.hi.map((n, i) => Math.min(n, dims[i]!) - 1) as unknown as Vec3;
  return first.every((n, i) => n <= last[i]!) ? [first, last] : null;
}
