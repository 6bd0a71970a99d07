/** The labels of the project as the page shows them: number, name, colour, eye, lock. */

import { computed, signal } from "@preact/signals";
import { addToSchema, getSchema } from "../api/routes";
import { ApiError } from "../api/http";
import { fillColours } from "../core/composite";
import { LARGEST_VALUE } from "../core/labelmap";
import { paletteColour, type Colour } from "../core/palette";
import { say, schema } from "./page";
import { settings } from "./settings";

export interface Label {
  readonly value: number;
  readonly name: string;
  readonly colour: Colour;
}

/** Labels of the project that do not fit into a byte of the label map. They are left alone. */
export const undrawable = computed<readonly string[]>(() =>
  (schema.value?.labels ?? []).filter((label) => label.value > LARGEST_VALUE).map((label) => label.name),
);

export const labels = computed<readonly Label[]>(() =>
  (schema.value?.labels ?? [])
    .filter((label) => label.value <= LARGEST_VALUE)
    .map((label) => ({ value: label.value, name: label.name, colour: label.color ?? paletteColour(label.value) })),
);

export const active = signal(0);
export const hidden = signal<ReadonlySet<number>>(new Set());
export const locked = signal<ReadonlySet<number>>(new Set());

/** The label that is drawn with; the first one until somebody chose. */
export const activeLabel = computed<Label | undefined>(
  () => labels.value.find((label) => label.value === active.value) ?? labels.value[0],
);

export function nameOf(value: number): string {
  if (value === 0) return "no label";
  return labels.peek().find((label) => label.value === value)?.name ?? `value ${value}`;
}

function toggled(set: ReadonlySet<number>, value: number): ReadonlySet<number> {
  const next = new Set(set);
  if (!next.delete(value)) next.add(value);
  return next;
}

export function toggleHidden(value: number): void {
  hidden.value = toggled(hidden.value, value);
}

export function toggleLocked(value: number): void {
  locked.value = toggled(locked.value, value);
}

/** Show this label alone; again: all. */
export function solo(value: number): void {
  const others = labels.value.filter((label) => label.value !== value).map((label) => label.value);
  const isSolo = !hidden.value.has(value) && others.every((other) => hidden.value.has(other));
  hidden.value = isSolo ? new Set() : new Set(others);
}

export function toggleAllHidden(): void {
  const all = labels.value.map((label) => label.value);
  hidden.value = all.every((value) => hidden.value.has(value)) ? new Set() : new Set(all);
}

/** Colour, opacity and visibility of each value, for the compositor. */
export const colours = computed(() => {
  const table = new Uint8Array(1024);
  const looks = labels.value.map((label) => ({ value: label.value, color: label.colour, visible: !hidden.value.has(label.value) }));
  fillColours(table, looks, settings.value.opacity);
  return table;
});

/** Add a label to the project. */
export async function addLabel(name: string): Promise<void> {
  const current = schema.peek();
  if (current === null) return;
  const next = Math.max(0, ...current.labels.map((label) => label.value)) + 1;
  try {
    schema.value = await addToSchema(current, { name, color: paletteColour(next) });
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 409) throw error;
    schema.value = await getSchema(); // somebody changed it meanwhile: once more on top of that
    schema.value = await addToSchema(schema.value, { name });
  }
  const added = labels.peek().find((label) => label.name === name.trim());
  if (added !== undefined) active.value = added.value;
  say(`The label ${name.trim()} belongs to the project now.`, "good");
}
