/** The answer of an automatic model, which stands for the whole of its labels. */

import { extractBox, isEmpty, union } from "./boxes";
import { boundsOfValues } from "./bits";
import { boxSize, type Box, type Vec3 } from "./geometry";

/**
 * What the label map shall hold: the model's voxels; where it has none, its labels go and others stay.
 *
 * @returns box and content, or null when nothing is there on either side
 */
export function replacement(
  labels: Uint8Array,
  dims: Vec3,
  box: Box,
  values: Uint8Array,
  own: ReadonlySet<number>,
): { box: Box; values: Uint8Array } | null {
  const old = boundsOfValues(labels, dims, own);
  const whole = isEmpty(box) ? old : old === null ? box : union(box, old);
  if (whole === null) return null;
  const result = extractBox(labels, dims, whole);
  const isOwn = new Uint8Array(256);
  for (const value of own) isOwn[value] = 1;
  for (let i = 0; i < result.length; i++) if (isOwn[result[i]!] === 1) result[i] = 0;
  if (isEmpty(box)) return { box: whole, values: result };
  const [width, height] = boxSize(whole);
  const size = boxSize(box);
  for (let z = 0, from = 0; z < size[2]; z++) {
    for (let y = 0; y < size[1]; y++) {
      let to = box.lo[0] - whole.lo[0] + width * (box.lo[1] + y - whole.lo[1] + height * (box.lo[2] + z - whole.lo[2]));
      for (let x = 0; x < size[0]; x++, from++, to++) if (values[from] !== 0) result[to] = values[from]!;
    }
  }
  return { box: whole, values: result };
}
