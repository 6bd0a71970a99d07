/** Drawing by hand: the tool that is armed, what it may write over, gestures and the history that takes them back. */

import { computed, effect, signal } from "@preact/signals";
import { stampAt, stampLine, type Stamp } from "../core/brush";
import { regionOf } from "../core/fill";
import { clampedVoxel, indexOf, isInside, type Axis, type Vec3 } from "../core/geometry";
import { guardOf, NO_RULES, type Guard } from "../core/guards";
import type { ChangeKind, HistoryEntry } from "../core/history";
import { interpolateSlices } from "../core/interpolate";
import { activeLabel, locked } from "./labels";
import type { OpenImage, PromptNote } from "./open_image";
import { say } from "./page";
import { settings, setSettings } from "./settings";

export type Tool = "cursor" | "brush" | "eraser" | "fill" | "point" | "box" | "scribble" | "lasso";

export const PROMPT_TOOLS: ReadonlySet<Tool> = new Set(["point", "box", "scribble", "lasso"]);

export const open = signal<OpenImage | null>(null);
export const tool = signal<Tool>("cursor");
export const positive = signal(true);
export const ball = signal(false);
export const onlyEmpty = signal(false);
/** Real intensities that may be painted; null: any. */
export const range = signal<readonly [number, number] | null>(null);
/** The pane that has, or last had, the focus. */
export const focusedAxis = signal<Axis>(2);
export const maximised = signal<Axis | "3d" | null>(null);

/** What is under the pointer, in continuous voxel coordinates. */
export const hover = signal<{ readonly axis: Axis; readonly at: Vec3 } | null>(null);
/** Grows with each gesture, undo and redo: what can be undone has changed. */
export const historyTick = signal(0);

export const SMALLEST_MM = 0.5;
export const LARGEST_MM = 60;

type Changed = (kind: ChangeKind | "undo" | "redo") => void;
const listeners = new Set<Changed>();

/** Be told after each change of the labels. */
export function onChange(told: Changed): void {
  listeners.add(told);
}

export function changed(image: OpenImage, kind: ChangeKind | "undo" | "redo"): void {
  touch(image);
  for (const told of listeners) told(kind);
}

/** The labels look different now, whoever changed them. */
export function touch(image: OpenImage): void {
  image.edits.value = image.edits.peek() + 1;
  historyTick.value = historyTick.peek() + 1;
}

export const canEdit = computed(() => open.value?.labelled.value === true && activeLabel.value !== undefined);

/** The open image; null, and that is said, while what was drawn in it before is still on its way. */
export function drawable(): OpenImage | null {
  const image = open.peek();
  if (image?.labelled.peek() === false) {
    say("What was drawn here before is still on its way. Draw when it is there.");
    return null;
  }
  return image;
}

function guardNow(image: OpenImage, threshold: boolean): Guard {
  const limits = threshold && range.value !== null ? ([image.stored(range.value[0]), image.stored(range.value[1])] as const) : null;
  const ordered = limits === null ? null : ([Math.min(...limits), Math.max(...limits)] as const);
  return guardOf({ ...NO_RULES, locked: locked.value, onlyEmpty: onlyEmpty.value, range: ordered }, image.voxels.grey);
}

/** The guard for what a model answers: locked labels stay, the brush's other rules are the brush's. */
export function modelGuard(): Guard {
  return guardOf({ ...NO_RULES, locked: locked.value }, null);
}

// ---------------------------------------------------------------- strokes

interface Stroke {
  readonly stamp: Stamp;
  readonly value: number;
  readonly kind: ChangeKind;
  readonly guard: Guard;
  last: Vec3;
}

let stroke: Stroke | null = null;

export function isDrawing(): boolean {
  return stroke !== null;
}

/** Begin to paint (or erase) at continuous voxel coordinates. */
export function beginStroke(axis: Axis, at: Vec3, erase: boolean, asBall: boolean): void {
  const image = drawable();
  const label = activeLabel.peek();
  if (image === null || label === undefined) return;
  if (locked.peek().has(label.value)) {
    say(`${label.name} is locked. Unlock it to draw (K).`);
    return;
  }
  const stamp: Stamp = {
    dims: image.dims, spacing: image.spacing, axis, radiusMm: settings.peek().brushMm / 2, ball: asBall && !image.isPicture,
  };
  stroke = { stamp, value: erase ? 0 : label.value, kind: erase ? "erase" : "paint", guard: guardNow(image, true), last: at };
  stampAt(stamp, at, reach(image, stroke));
  touch(image);
}

/** Paint on to these places, in order. */
export function moveStroke(places: readonly Vec3[]): void {
  const image = open.peek();
  if (image === null || stroke === null) return;
  for (const place of places) {
    stampLine(stroke.stamp, stroke.last, place, reach(image, stroke));
    stroke.last = place;
  }
  touch(image);
}

export function endStroke(): void {
  const image = open.peek();
  if (image === null || stroke === null) return;
  const { kind } = stroke;
  stroke = null;
  commit(image, kind);
}

/** Take the open stroke back. */
export function abandonStroke(): void {
  if (stroke === null) return;
  stroke = null;
  const image = open.peek();
  image?.map.abandon();
  if (image) touch(image);
}

function reach(image: OpenImage, of: Stroke): (index: number) => void {
  return (index) => image.map.write(index, of.value, of.guard);
}

function commit(image: OpenImage, kind: ChangeKind): boolean {
  const change = image.map.commit();
  if (change === null) return false;
  image.history.push({ kind, change });
  changed(image, kind);
  return true;
}

// ---------------------------------------------------------------- fill, interpolation, clear

export function fillAt(axis: Axis, at: Vec3, erase: boolean, inVolume: boolean): void {
  const image = drawable();
  const label = activeLabel.peek();
  if (image === null || label === undefined) return;
  const seed = clampedVoxel(image.dims, at);
  const guard = guardNow(image, true);
  const value = erase ? 0 : label.value;
  const from = image.map.voxels[indexOf(image.dims, ...seed)]!;
  if (from === value) {
    say(erase ? "There is nothing to erase here." : `This is ${label.name} already.`);
    return;
  }
  const region = regionOf(image.map.voxels, image.dims, seed, inVolume ? null : axis, (index) => guard(index, from, value));
  if (region.open && from === 0 && range.peek() === null) {
    say("Nothing encloses this place: draw a closed outline first, or set a range of intensities.");
    return;
  }
  for (const index of region.indices) image.map.write(index, value, guard);
  if (!commit(image, "fill")) say("Nothing was filled: what is here is locked or outside the range.");
}

/** Fill in the slices between drawn ones, along the focused pane. */
export function interpolate(): void {
  const image = drawable();
  const label = activeLabel.peek();
  if (image === null || label === undefined) return;
  const guard = guardNow(image, false);
  const reached: number[] = [];
  const filled = interpolateSlices(image.map.voxels, image.dims, image.spacing, focusedAxis.peek(), label.value, (index) => reached.push(index));
  for (const index of reached) image.map.write(index, label.value, guard);
  if (filled === 0) say(`Draw ${label.name} in two slices of this plane with empty ones between, then fill in.`);
  else if (commit(image, "interpolate")) say(`${filled} ${filled === 1 ? "slice" : "slices"} filled in.`, "good");
}

/** Remove every voxel of a label. */
export function clearLabel(value: number): void {
  const image = drawable();
  if (image === null) return;
  const guard = modelGuard();
  const { voxels } = image.map;
  for (let index = 0; index < voxels.length; index++) if (voxels[index] === value) image.map.write(index, 0, guard);
  commit(image, "clear");
}

// ---------------------------------------------------------------- history

type Stepped = (direction: "undo" | "redo", entry: HistoryEntry<PromptNote>) => void;
let stepped: Stepped = () => undefined;

/** Be told when an entry is taken back or made again; a session of a model follows. */
export function onStep(told: Stepped): void {
  stepped = told;
}

export function undo(): void {
  const image = open.peek();
  if (image === null || stroke !== null) return;
  const entry = image.history.undo();
  if (entry === undefined) return;
  if (entry.change !== null) image.map.apply(entry.change, "before");
  stepped("undo", entry);
  changed(image, "undo");
}

export function redo(): void {
  const image = open.peek();
  if (image === null || stroke !== null) return;
  const entry = image.history.redo();
  if (entry === undefined) return;
  if (entry.change !== null) image.map.apply(entry.change, "after");
  stepped("redo", entry);
  changed(image, "redo");
}

// ---------------------------------------------------------------- crosshair and size

export function moveCursor(to: Vec3): void {
  const image = open.peek();
  if (image !== null) image.cursor.value = clampedVoxel(image.dims, to);
}

export function moveSlice(axis: Axis, by: number): void {
  const image = open.peek();
  if (image === null) return;
  const next = [...image.cursor.peek()] as [number, number, number];
  next[axis] += by;
  moveCursor(next);
}

export function resizeBrush(factor: number): void {
  const size = settings.peek().brushMm * factor;
  setSettings({ brushMm: Math.round(Math.min(LARGEST_MM, Math.max(SMALLEST_MM, size)) * 10) / 10 });
}

export function labelAt(image: OpenImage, voxel: Vec3): number {
  return isInside(image.dims, ...voxel) ? image.map.voxels[indexOf(image.dims, ...voxel)]! : 0;
}

effect(() => {
  if (open.value?.isPicture === true) {
    ball.value = false;
    focusedAxis.value = 2;
  }
});
