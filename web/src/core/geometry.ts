/**
 * Voxels of the RAS+ grid and the three planes through them.
 *
 * A volume is stored x fastest: index = x + X * (y + Y * z). x grows to the patient's right, y to the front, z to the
 * head. A plane has two in-plane axes, u to the side and v upwards; screens grow to the right and downwards, so v is
 * always drawn flipped, and u is flipped in the axial and coronal planes when the radiological convention is on
 * (the patient's right on the left of the screen). Pictures (2-D images) are drawn as stored.
 */

export type Vec3 = readonly [number, number, number];

/** Axis that a plane is perpendicular to: 0 sagittal, 1 coronal, 2 axial. */
export type Axis = 0 | 1 | 2;

export const AXIAL: Axis = 2;
export const CORONAL: Axis = 1;
export const SAGITTAL: Axis = 0;

export const PLANE_NAMES: Record<Axis, string> = { 0: "sagittal", 1: "coronal", 2: "axial" };

/** In-plane axes [u, v] of each plane. */
export const IN_PLANE: Record<Axis, readonly [Axis, Axis]> = { 0: [1, 2], 1: [0, 2], 2: [0, 1] };

export interface Box {
  /** First voxel. */
  readonly lo: Vec3;
  /** One beyond the last voxel. */
  readonly hi: Vec3;
}

/** How one plane lies on the screen. */
export interface Orientation {
  readonly flipU: boolean;
  readonly flipV: boolean;
}

export function voxelCount(dims: Vec3): number {
  return dims[0] * dims[1] * dims[2];
}

export function indexOf(dims: Vec3, x: number, y: number, z: number): number {
  return x + dims[0] * (y + dims[1] * z);
}

export function isInside(dims: Vec3, x: number, y: number, z: number): boolean {
  return x >= 0 && y >= 0 && z >= 0 && x < dims[0] && y < dims[1] && z < dims[2];
}

export function voxelOf(dims: Vec3, index: number): Vec3 {
  const x = index % dims[0];
  const rest = (index - x) / dims[0];
  return [x, rest % dims[1], Math.floor(rest / dims[1])];
}

/** Steps through the flat array along x, y and z. */
export function strides(dims: Vec3): Vec3 {
  return [1, dims[0], dims[0] * dims[1]];
}

export function boxSize(box: Box): Vec3 {
  return [box.hi[0] - box.lo[0], box.hi[1] - box.lo[1], box.hi[2] - box.lo[2]];
}

export function boxVoxels(box: Box): number {
  return voxelCount(boxSize(box));
}

export function wholeBox(dims: Vec3): Box {
  return { lo: [0, 0, 0], hi: [dims[0], dims[1], dims[2]] };
}

export function clampedVoxel(dims: Vec3, voxel: Vec3): Vec3 {
  const clamp = (value: number, size: number) => Math.min(size - 1, Math.max(0, Math.round(value)));
  return [clamp(voxel[0], dims[0]), clamp(voxel[1], dims[1]), clamp(voxel[2], dims[2])];
}

export function orientationOf(axis: Axis, radiological: boolean, picture: boolean): Orientation {
  if (picture) return { flipU: false, flipV: false };
  return { flipU: radiological && axis !== SAGITTAL, flipV: true };
}

/** Patient directions at the edges of a plane: [left, right, top, bottom]. */
export function edgeLetters(axis: Axis, orientation: Orientation): readonly [string, string, string, string] {
  const ends: Record<Axis, readonly [string, string]> = { 0: ["L", "R"], 1: ["P", "A"], 2: ["I", "S"] };
  const [u, v] = IN_PLANE[axis];
  const [uLow, uHigh] = ends[u];
  const [vLow, vHigh] = ends[v];
  const sides: readonly [string, string] = orientation.flipU ? [uHigh, uLow] : [uLow, uHigh];
  const ups: readonly [string, string] = orientation.flipV ? [vHigh, vLow] : [vLow, vHigh];
  return [sides[0], sides[1], ups[0], ups[1]];
}

/** Millimetres of a voxel index by the grid's 4 x 4 affine (rows). */
export function toWorld(affine: readonly (readonly number[])[], voxel: Vec3): Vec3 {
  const row = (r: number) => {
    const a = affine[r] ?? [0, 0, 0, 0];
    return (a[0] ?? 0) * voxel[0] + (a[1] ?? 0) * voxel[1] + (a[2] ?? 0) * voxel[2] + (a[3] ?? 0);
  };
  return [row(0), row(1), row(2)];
}

/** A pane's picture of one plane: where each voxel lies in CSS pixels. */
export class PlaneView {
  readonly #u: Axis;
  readonly #v: Axis;
  /** CSS pixels of one voxel. */
  readonly scaleU: number;
  readonly scaleV: number;
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;

  /**
   * @param paneWidth pane size in CSS pixels
   * @param zoom 1 shows the whole plane
   * @param panX offset of the picture's centre from the pane's centre in CSS pixels
   */
  constructor(
    readonly axis: Axis,
    readonly dims: Vec3,
    readonly spacing: Vec3,
    readonly orientation: Orientation,
    paneWidth: number,
    paneHeight: number,
    zoom: number,
    panX: number,
    panY: number,
  ) {
    [this.#u, this.#v] = IN_PLANE[axis];
    const widthMm = dims[this.#u] * spacing[this.#u];
    const heightMm = dims[this.#v] * spacing[this.#v];
    const fit = Math.min(paneWidth / widthMm, paneHeight / heightMm) * zoom;
    this.scaleU = spacing[this.#u] * fit;
    this.scaleV = spacing[this.#v] * fit;
    this.width = widthMm * fit;
    this.height = heightMm * fit;
    this.left = (paneWidth - this.width) / 2 + panX;
    this.top = (paneHeight - this.height) / 2 + panY;
  }

  /** Continuous voxel coordinates under a point of the pane; voxel centres at integers. */
  toVoxel(px: number, py: number, slice: number): Vec3 {
    let u = (px - this.left) / this.scaleU;
    let v = (py - this.top) / this.scaleV;
    if (this.orientation.flipU) u = this.dims[this.#u] - u;
    if (this.orientation.flipV) v = this.dims[this.#v] - v;
    const voxel: [number, number, number] = [0, 0, 0];
    voxel[this.axis] = slice;
    voxel[this.#u] = u - 0.5;
    voxel[this.#v] = v - 0.5;
    return voxel;
  }

  /** Point of the pane at continuous voxel coordinates. */
  toPane(voxel: Vec3): readonly [number, number] {
    let u = voxel[this.#u] + 0.5;
    let v = voxel[this.#v] + 0.5;
    if (this.orientation.flipU) u = this.dims[this.#u] - u;
    if (this.orientation.flipV) v = this.dims[this.#v] - v;
    return [this.left + u * this.scaleU, this.top + v * this.scaleV];
  }
}
