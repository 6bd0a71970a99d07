/**
 * One slice of a volume with its labels as pixels, at voxel resolution.
 *
 * Colour, opacity and visibility of every label are one table of 256 x 4 bytes; a hidden label has alpha 0. In outline
 * mode a voxel whose four in-plane neighbours carry the same label keeps a quarter of its alpha.
 */

import type { Orientation } from "./geometry";
import type { Slice } from "./slices";
import { TABLE_OFFSET } from "./windowing";

export interface LabelLook {
  readonly value: number;
  readonly color: readonly [number, number, number];
  readonly visible: boolean;
}

/** Fill the 256 x 4 table: red, green, blue, alpha (0 to 255) of each label value. */
export function fillColours(table: Uint8Array, looks: readonly LabelLook[], opacity: number): void {
  table.fill(0);
  const alpha = Math.round(Math.min(1, Math.max(0, opacity)) * 255);
  for (const look of looks) {
    const at = (look.value & 255) * 4;
    table.set(look.color, at);
    table[at + 3] = look.visible ? alpha : 0;
  }
}

/**
 * Write a slice into `pixels` (little-endian RGBA words, row by row from the top of the screen).
 *
 * @param grey table of 65 536 grey values, see `fillTable`
 * @param colours see `fillColours`
 */
export function compositeSlice(
  pixels: Uint32Array,
  slice: Slice,
  orientation: Orientation,
  grey: Uint8ClampedArray,
  colours: Uint8Array,
  outline: boolean,
): void {
  const { width, height, labels, rgb } = slice;
  const values = slice.grey;
  const step = orientation.flipU ? -1 : 1;
  for (let row = 0, to = 0; row < height; row++) {
    let from = width * (orientation.flipV ? height - 1 - row : row) + (orientation.flipU ? width - 1 : 0);
    for (const end = to + width; to < end; to++, from += step) {
      let red: number, green: number, blue: number;
      if (values !== null) {
        red = green = blue = grey[values[from]! + TABLE_OFFSET]!;
      } else {
        red = rgb![from * 3]!;
        green = rgb![from * 3 + 1]!;
        blue = rgb![from * 3 + 2]!;
      }
      const label = labels[from]!;
      if (label !== 0) {
        let alpha = colours[label * 4 + 3]!;
        if (alpha !== 0) {
          if (outline && isInner(labels, from, label, width)) alpha >>= 2;
          const keep = 255 - alpha;
          red = ((red * keep + colours[label * 4]! * alpha + 127) / 255) | 0;
          green = ((green * keep + colours[label * 4 + 1]! * alpha + 127) / 255) | 0;
          blue = ((blue * keep + colours[label * 4 + 2]! * alpha + 127) / 255) | 0;
        }
      }
      pixels[to] = 0xff000000 | (blue << 16) | (green << 8) | red;
    }
  }
}

/** Whether all four in-plane neighbours exist and carry the same label. */
function isInner(labels: Uint8Array, at: number, label: number, width: number): boolean {
  const column = at % width;
  if (column === 0 || column === width - 1 || at < width || at >= labels.length - width) return false;
  return (
    labels[at - 1] === label && labels[at + 1] === label && labels[at - width] === label && labels[at + width] === label
  );
}
