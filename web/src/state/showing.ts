/** Which labels the planes show: the person's own, or, when two people met, theirs or the difference. */

import { computed, effect, signal } from "@preact/signals";
import { fillColours } from "../core/composite";
import { difference, DIFFERENCE_LOOKS } from "../core/difference";
import { unchanging, type ShownLabels } from "../core/labelmap";
import { colours } from "./labels";
import type { OpenImage } from "./open_image";
import { meeting } from "./work";

export type Shown = "mine" | "theirs" | "difference";

export const shown = signal<Shown>("mine");

const differenceColours = new Uint8Array(1024);
fillColours(differenceColours, DIFFERENCE_LOOKS, 0.75);

export const shownColours = computed(() => (meeting.value !== null && shown.value === "difference" ? differenceColours : colours.value));

let differing: { readonly of: Uint8Array; readonly to: Uint8Array; readonly edits: number; readonly voxels: Uint8Array } | null = null;

export function shownLabels(image: OpenImage): ShownLabels {
  const met = meeting.value;
  const edits = image.edits.value;
  if (met === null || shown.value === "mine") return image.map;
  if (shown.value === "theirs") return unchanging(met.theirs);
  if (differing === null || differing.of !== image.map.voxels || differing.to !== met.theirs || differing.edits !== edits) {
    differing = { of: image.map.voxels, to: met.theirs, edits, voxels: difference(met.theirs, image.map.voxels) };
  }
  return unchanging(differing.voxels);
}

effect(() => {
  if (meeting.value !== null) return;
  shown.value = "mine";
  differing = null; // its memory is free again
});
