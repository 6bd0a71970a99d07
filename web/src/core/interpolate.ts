/**
 * Slices between drawn slices: the shape is blended through signed distances (Raya and Udupa, 1990).
 *
 * Distances are exact Euclidean ones in millimetres, by the lower envelope of parabolas (Felzenszwalb and Huttenlocher,
 * 2012).
 */

import { IN_PLANE, strides, type Axis, type Vec3 } from "./geometry";

const FAR = 1e12;

/** Squared distances along a line; `line` is replaced. */
function transformLine(line: Float64Array, spacing: number, vertices: Int32Array, bounds: Float64Array, out: Float64Array): void {
  const n = line.length;
  const square = spacing * spacing;
  let k = 0;
  vertices[0] = 0;
  bounds[0] = -Infinity;
  bounds[1] = Infinity;
  for (let q = 1; q < n; q++) {
    let s: number;
    for (;;) {
      const p = vertices[k]!;
      s = (line[q]! + square * q * q - (line[p]! + square * p * p)) / (2 * square * (q - p));
      if (s > bounds[k]! || k === 0) break;
      k--;
    }
    if (s <= bounds[k]!) {
      vertices[k] = q;
    } else {
      k++;
      vertices[k] = q;
      bounds[k] = s;
    }
    bounds[k + 1] = Infinity;
  }
  for (let q = 0, i = 0; q < n; q++) {
    while (bounds[i + 1]! < q) i++;
    const d = q - vertices[i]!;
    out[q] = square * d * d + line[vertices[i]!]!;
  }
  line.set(out);
}

/** Distance in mm of every pixel to the nearest pixel that is set. */
export function distancesTo(mask: Uint8Array, width: number, height: number, du: number, dv: number): Float64Array {
  const field = new Float64Array(width * height);
  for (let i = 0; i < field.length; i++) field[i] = mask[i] === 0 ? FAR : 0;
  const longest = Math.max(width, height);
  const vertices = new Int32Array(longest);
  const bounds = new Float64Array(longest + 1);
  const out = new Float64Array(longest);
  const column = new Float64Array(height);
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) column[y] = field[y * width + x]!;
    transformLine(column, dv, vertices, bounds, out.subarray(0, height));
    for (let y = 0; y < height; y++) field[y * width + x] = column[y]!;
  }
  for (let y = 0; y < height; y++) {
    transformLine(field.subarray(y * width, (y + 1) * width), du, vertices, bounds, out.subarray(0, width));
  }
  for (let i = 0; i < field.length; i++) field[i] = Math.sqrt(field[i]!);
  return field;
}

/** Positive inside, negative outside, in mm. */
export function signedDistances(mask: Uint8Array, width: number, height: number, du: number, dv: number): Float64Array {
  const outside = distancesTo(mask, width, height, du, dv);
  const inverted = mask.map((value) => (value === 0 ? 1 : 0));
  const inside = distancesTo(inverted, width, height, du, dv);
  return inside.map((value, i) => value - outside[i]!);
}

/** Slices of `axis` that carry `value`. */
export function slicesWith(labels: Uint8Array, dims: Vec3, axis: Axis, value: number): number[] {
  const found: number[] = [];
  for (let slice = 0; slice < dims[axis]; slice++) {
    if (sliceMask(labels, dims, axis, slice, value) !== null) found.push(slice);
  }
  return found;
}

/** Where a slice carries `value`, v by u; null if nowhere. */
function sliceMask(labels: Uint8Array, dims: Vec3, axis: Axis, slice: number, value: number): Uint8Array | null {
  const [u, v] = IN_PLANE[axis];
  const step = strides(dims);
  const mask = new Uint8Array(dims[u] * dims[v]);
  let some = false;
  for (let j = 0, to = 0; j < dims[v]; j++) {
    let from = slice * step[axis] + j * step[v];
    for (let i = 0; i < dims[u]; i++, to++, from += step[u]) {
      if (labels[from] === value) {
        mask[to] = 1;
        some = true;
      }
    }
  }
  return some ? mask : null;
}

/**
 * Tell `reach` of every voxel that belongs to `value` in the empty slices between drawn ones.
 *
 * @returns how many slices were filled
 */
export function interpolateSlices(
  labels: Uint8Array,
  dims: Vec3,
  spacing: Vec3,
  axis: Axis,
  value: number,
  reach: (index: number) => void,
): number {
  const [u, v] = IN_PLANE[axis];
  const step = strides(dims);
  const drawn = slicesWith(labels, dims, axis, value);
  let filled = 0;
  const distances = (slice: number) => {
    const mask = sliceMask(labels, dims, axis, slice, value);
    return mask === null ? null : signedDistances(mask, dims[u], dims[v], spacing[u], spacing[v]);
  };
  let below: { slice: number; field: Float64Array } | null = null;
  for (let n = 0; n + 1 < drawn.length; n++) {
    const [from, to] = [drawn[n]!, drawn[n + 1]!];
    if (to - from < 2) continue;
    const first: Float64Array | null = below?.slice === from ? below.field : distances(from);
    const second = distances(to);
    if (first === null || second === null) continue;
    below = { slice: to, field: second };
    for (let slice = from + 1; slice < to; slice++) {
      const t = (slice - from) / (to - from);
      for (let j = 0, at = 0; j < dims[v]; j++) {
        let index = slice * step[axis] + j * step[v];
        for (let i = 0; i < dims[u]; i++, at++, index += step[u]) {
          if (first[at]! * (1 - t) + second[at]! * t > 0) reach(index);
        }
      }
      filled++;
    }
  }
  return filled;
}
