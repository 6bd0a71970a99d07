/** Where two label maps differ, as a label map of its own. */

import type { LabelLook } from "./composite";

export const ONLY_FIRST = 1;
export const ONLY_SECOND = 2;
export const OTHER_LABEL = 3;

/** Orange, blue and pink of Okabe and Ito: told apart with any colour vision. */
export const DIFFERENCE_LOOKS: readonly (LabelLook & { readonly text: string })[] = [
  { value: ONLY_FIRST, color: [230, 120, 0], visible: true, text: "only in the first" },
  { value: ONLY_SECOND, color: [86, 180, 233], visible: true, text: "only in the second" },
  { value: OTHER_LABEL, color: [204, 121, 167], visible: true, text: "another label" },
];

export function difference(first: Uint8Array, second: Uint8Array): Uint8Array {
  if (first.length !== second.length) throw new RangeError("The two labels are of different images.");
  const result = new Uint8Array(first.length);
  for (let i = 0; i < first.length; i++) {
    const a = first[i]!;
    const b = second[i]!;
    if (a !== b) result[i] = b === 0 ? ONLY_FIRST : a === 0 ? ONLY_SECOND : OTHER_LABEL;
  }
  return result;
}

export interface Overlap {
  readonly value: number;
  readonly first: number;
  readonly second: number;
  /** 1: equal; NaN: neither has it. */
  readonly dice: number;
}

/** Voxels and Dice of each label that one of the two has. */
export function overlaps(first: Uint8Array, second: Uint8Array): Overlap[] {
  const a = new Float64Array(256);
  const b = new Float64Array(256);
  const both = new Float64Array(256);
  for (let i = 0; i < first.length; i++) {
    const x = first[i]!;
    const y = second[i]!;
    a[x]!++;
    b[y]!++;
    if (x === y) both[x]!++;
  }
  const result: Overlap[] = [];
  for (let value = 1; value < 256; value++) {
    if (a[value]! + b[value]! === 0) continue;
    result.push({ value, first: a[value]!, second: b[value]!, dice: (2 * both[value]!) / (a[value]! + b[value]!) });
  }
  return result;
}
