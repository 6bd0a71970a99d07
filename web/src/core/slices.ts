/**
 * Slices of a volume, for planes that are drawn again and again.
 *
 * A sagittal slice touches as many lines of memory as it has voxels. What was read is therefore kept, and of labels that
 * change only the changed part of the slice is read again. Axial slices lie in one piece and are not copied.
 */

import { intersection, isEmpty } from "./boxes";
import { AXIAL, IN_PLANE, strides, wholeBox, type Axis, type Box, type Vec3 } from "./geometry";
import type { ShownLabels } from "./labelmap";

export interface SliceSource {
  readonly dims: Vec3;
  /** Stored values, x fastest; null for pictures. */
  readonly grey: Int16Array | null;
  /** Red, green, blue of each voxel; null for volumes. */
  readonly rgb: Uint8Array | null;
  /** Grows with every change of `grey` or `rgb`. */
  readonly version: number;
  readonly labels: ShownLabels;
}

/** One slice, u fastest, then v. */
export interface Slice {
  readonly width: number;
  readonly height: number;
  readonly grey: Int16Array | null;
  readonly rgb: Uint8Array | null;
  readonly labels: Uint8Array;
}

/** Which slice of what is kept. */
interface Kept {
  readonly of: Int16Array | Uint8Array;
  readonly slice: number;
  readonly version: number;
}

export class SliceReader {
  #picture: Kept | null = null;
  #grey: Int16Array | null = null;
  #rgb: Uint8Array | null = null;
  #labelled: Kept | null = null;
  #labels = new Uint8Array(0);

  constructor(readonly axis: Axis) {}

  /** The slice as it is now. It is good until the next call. */
  read(source: SliceSource, slice: number): Slice {
    const [u, v] = IN_PLANE[this.axis];
    const [width, height] = [source.dims[u], source.dims[v]];
    if (this.axis === AXIAL) {
      const [from, to] = [slice * width * height, (slice + 1) * width * height];
      return {
        width,
        height,
        grey: source.grey?.subarray(from, to) ?? null,
        rgb: source.rgb?.subarray(from * 3, to * 3) ?? null,
        labels: source.labels.voxels.subarray(from, to),
      };
    }
    this.#readPicture(source, slice, width * height);
    this.#readLabels(source, slice, width * height);
    return { width, height, grey: this.#grey, rgb: this.#rgb, labels: this.#labels };
  }

  #readPicture({ dims, grey, rgb, version }: SliceSource, slice: number, size: number): void {
    const of = (grey ?? rgb)!;
    const kept = this.#picture;
    if (kept?.of === of && kept.slice === slice && kept.version === version) return;
    this.#picture = { of, slice, version };
    const whole = wholeBox(dims);
    if (grey !== null) {
      if (this.#grey?.length !== size) this.#grey = new Int16Array(size);
      takeSlice(this.#grey, grey, dims, this.axis, slice, whole);
    } else if (rgb !== null) {
      if (this.#rgb?.length !== size * 3) this.#rgb = new Uint8Array(size * 3);
      for (let c = 0; c < 3; c++) takeSlice(this.#rgb, rgb, dims, this.axis, slice, whole, 3, c);
    }
  }

  #readLabels({ dims, labels }: SliceSource, slice: number, size: number): void {
    const { voxels, version } = labels;
    const kept = this.#labelled;
    const isKept = kept?.of === voxels && kept.slice === slice;
    const changed = isKept ? labels.changedSince(kept.version) : wholeBox(dims);
    this.#labelled = { of: voxels, slice, version };
    if (this.#labels.length !== size) this.#labels = new Uint8Array(size);
    if (changed !== null) takeSlice(this.#labels, voxels, dims, this.axis, slice, changed);
  }
}

/**
 * Copy what `box` holds of a slice.
 *
 * @param out the whole slice, u fastest
 * @param components numbers of a voxel, of which the one at `component` is copied
 */
function takeSlice<T extends Int16Array | Uint8Array>(
  out: T, from: T, dims: Vec3, axis: Axis, slice: number, box: Box, components = 1, component = 0,
): void {
  const [lo, hi] = [[0, 0, 0], [...dims]] as [[number, number, number], [number, number, number]];
  lo[axis] = slice;
  hi[axis] = slice + 1;
  const part = intersection(box, { lo, hi });
  if (isEmpty(part)) return;
  const [u, v] = IN_PLANE[axis];
  const step = strides(dims)[u] * components;
  for (let row = part.lo[v]; row < part.hi[v]; row++) {
    let at = (slice * strides(dims)[axis] + row * strides(dims)[v]) * components + part.lo[u] * step + component;
    let to = (row * dims[u] + part.lo[u]) * components + component;
    for (let column = part.lo[u]; column < part.hi[u]; column++, at += step, to += components) out[to] = from[at]!;
  }
}
