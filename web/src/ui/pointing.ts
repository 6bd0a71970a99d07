/** What the pointer does in a plane: the armed tool, and the buttons that do the same whatever the tool. */

import { signal } from "@preact/signals";
import { PLANE_NAMES, type Axis, type PlaneView, type Vec3 } from "../core/geometry";
import { draggedWindow, type Window } from "../core/windowing";
import { ball, beginStroke, endStroke, fillAt, focusedAxis, hover, moveCursor, moveSlice, moveStroke, open, tool } from "../state/editor";
import { FITTED, type PaneLook } from "../state/open_image";
import { addPrompt } from "../state/prompting";
import { regionInside } from "../core/outline";
import { say } from "../state/page";

/** A box, scribble or lasso that is being drawn. */
export interface Sketch {
  readonly kind: "box" | "scribble" | "lasso";
  readonly axis: Axis;
  readonly points: readonly Vec3[];
  readonly invert: boolean;
}

export const sketch = signal<Sketch | null>(null);

type Drag =
  | { readonly kind: "stroke" | "cursor" | "sketch" }
  | { readonly kind: "pan"; readonly x: number; readonly y: number; readonly look: PaneLook }
  | { readonly kind: "window"; readonly x: number; readonly y: number; readonly from: Window };

const SMALLEST_ZOOM = 0.5;
const LARGEST_ZOOM = 30;
/** A pixel wheel (trackpad) turns this many pixels for a slice. */
const PIXELS_A_SLICE = 40;

export class Pointing {
  #drag: Drag | null = null;
  #wheel = 0;

  constructor(readonly axis: Axis, readonly view: () => PlaneView | null) {}

  #at(event: PointerEvent | MouseEvent): Vec3 | null {
    const image = open.peek();
    const view = this.view();
    if (image === null || view === null) return null;
    return view.toVoxel(event.offsetX, event.offsetY, image.cursor.peek()[this.axis]);
  }

  down(event: PointerEvent): void {
    const image = open.peek();
    const at = this.#at(event);
    if (image === null || at === null || this.#drag !== null) return;
    focusedAxis.value = this.axis;
    const target = event.currentTarget as HTMLElement;
    target.setPointerCapture(event.pointerId);
    const [x, y] = [event.clientX, event.clientY];
    if (event.button === 1) this.#drag = { kind: "pan", x, y, look: image.looks[this.axis].peek() };
    else if (event.button === 2) this.#drag = { kind: "window", x, y, from: image.window.peek() };
    else if (event.button === 0) this.#begin(event, at);
    if (event.button === 1) event.preventDefault();
  }

  #begin(event: PointerEvent, at: Vec3): void {
    const armed = event.shiftKey ? "cursor" : tool.peek();
    const invert = event.ctrlKey || event.metaKey;
    if (armed === "cursor") {
      this.#drag = { kind: "cursor" };
      moveCursor(at);
    } else if (armed === "brush" || armed === "eraser") {
      this.#drag = { kind: "stroke" };
      beginStroke(this.axis, at, (armed === "eraser") !== invert, ball.peek() !== event.altKey);
    } else if (armed === "fill") {
      fillAt(this.axis, at, invert, ball.peek());
    } else if (armed === "point") {
      if (this.#isInside(at)) addPrompt("point", this.axis, [at], invert);
    } else {
      this.#drag = { kind: "sketch" };
      sketch.value = { kind: armed, axis: this.axis, points: armed === "box" ? [at, at] : [at], invert };
    }
  }

  #isInside(at: Vec3): boolean {
    const image = open.peek();
    if (image === null) return false;
    const inside = at.every((value, a) => value >= -0.5 && value < image.dims[a]! - 0.5);
    if (!inside) say("That place lies outside the image.");
    return inside;
  }

  move(event: PointerEvent): void {
    const image = open.peek();
    const at = this.#at(event);
    if (image === null || at === null) return;
    hover.value = { axis: this.axis, at };
    const drag = this.#drag;
    if (drag === null) return;
    if (drag.kind === "cursor") moveCursor(at);
    else if (drag.kind === "stroke") moveStroke(this.#coalesced(event, at));
    else if (drag.kind === "sketch") this.#extend(event, at);
    else if (drag.kind === "pan") {
      image.looks[this.axis].value = { ...drag.look, panX: drag.look.panX + event.clientX - drag.x, panY: drag.look.panY + event.clientY - drag.y };
    } else if (drag.kind === "window") {
      image.window.value = draggedWindow(drag.from, event.clientX - drag.x, event.clientY - drag.y);
    }
  }

  /** All places the pointer was at since the last event, not only where it is. */
  #coalesced(event: PointerEvent, at: Vec3): readonly Vec3[] {
    const view = this.view();
    const events = event.getCoalescedEvents?.() ?? [];
    if (view === null || events.length < 2) return [at];
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    return events.map((one) => view.toVoxel(one.clientX - box.left, one.clientY - box.top, at[this.axis]));
  }

  #extend(event: PointerEvent, at: Vec3): void {
    const drawn = sketch.peek();
    if (drawn === null) return;
    const points = drawn.kind === "box" ? [drawn.points[0]!, at] : [...drawn.points, ...this.#coalesced(event, at)];
    sketch.value = { ...drawn, points };
  }

  up(event: PointerEvent): void {
    const drag = this.#drag;
    this.#drag = null;
    if (drag?.kind === "stroke") endStroke();
    if (drag?.kind === "sketch") finishSketch();
    const target = event.currentTarget as HTMLElement;
    if (target.hasPointerCapture(event.pointerId)) target.releasePointerCapture(event.pointerId);
  }

  leave(): void {
    if (this.#drag === null) hover.value = null;
  }

  wheel(event: WheelEvent): void {
    const image = open.peek();
    const view = this.view();
    if (image === null || view === null) return;
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      zoomAt(this.axis, Math.exp(-event.deltaY * 0.0025), event.offsetX - view.left - view.width / 2, event.offsetY - view.top - view.height / 2);
      return;
    }
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / PIXELS_A_SLICE : event.deltaY;
    this.#wheel += Math.abs(event.deltaY) >= 100 && event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? Math.sign(event.deltaY) : lines;
    const whole = Math.trunc(this.#wheel);
    if (whole === 0) return;
    this.#wheel -= whole;
    moveSlice(this.axis, -whole);
  }
}

/** Zoom by `factor`; what lies `x`, `y` pixels from the picture's centre stays where it is. */
export function zoomAt(axis: Axis, factor: number, x = 0, y = 0): void {
  const image = open.peek();
  if (image === null) return;
  const look = image.looks[axis].peek();
  const zoom = Math.min(LARGEST_ZOOM, Math.max(SMALLEST_ZOOM, look.zoom * factor));
  const real = zoom / look.zoom;
  image.looks[axis].value = { zoom, panX: look.panX + x * (1 - real), panY: look.panY + y * (1 - real) };
}

export function fitPane(axis: Axis): void {
  const image = open.peek();
  if (image !== null) image.looks[axis].value = FITTED;
}

/** The sketch becomes a prompt. */
export function finishSketch(): void {
  const drawn = sketch.peek();
  const image = open.peek();
  sketch.value = null;
  if (drawn === null || image === null) return;
  const clamped = drawn.points.map((at) => at.map((value, a) => Math.min(image.dims[a]! - 1, Math.max(0, value))) as unknown as Vec3);
  if (drawn.kind === "lasso" && regionInside(clamped, drawn.axis, image.cursor.peek()[drawn.axis], image.dims) === null) {
    say("Draw the lasso round something.");
    return;
  }
  addPrompt(drawn.kind, drawn.axis, clamped, drawn.invert);
}

/** The keyboard's way: the armed tool at the crosshair. */
export function actAtCursor(axis: Axis, finish: boolean): void {
  const image = open.peek();
  if (image === null) return;
  const at = image.cursor.peek();
  const armed = tool.peek();
  if (armed === "brush" || armed === "eraser") {
    beginStroke(axis, at, armed === "eraser", ball.peek());
    endStroke();
  } else if (armed === "fill") fillAt(axis, at, false, ball.peek());
  else if (armed === "point") addPrompt("point", axis, [at], false);
  else if (armed === "box" || armed === "scribble" || armed === "lasso") sketchByKey(armed, axis, at, finish);
  else say("Choose a tool first: B brush, F fill, P point, X box, S scribble, L lasso.");
}

function sketchByKey(kind: Sketch["kind"], axis: Axis, at: Vec3, finish: boolean): void {
  const drawn = sketch.peek();
  if (drawn === null || drawn.kind !== kind || drawn.axis !== axis) {
    sketch.value = { kind, axis, points: [at], invert: false };
    say(kind === "box" ? "First corner set. Move the crosshair and press Space for the other." : "Space adds a place, Enter ends.");
    return;
  }
  sketch.value = { ...drawn, points: [...drawn.points, at] };
  if (kind === "box" || finish) finishSketch();
}

/** The plane in words, for people who do not see it. */
export function describePlane(axis: Axis): string {
  const image = open.value;
  if (image === null) return `${PLANE_NAMES[axis]} plane, no image is open`;
  const at = image.cursor.value;
  return `${image.isPicture ? "picture" : `${PLANE_NAMES[axis]} plane, slice ${at[axis] + 1} of ${image.dims[axis]}`}, crosshair at ${at.join(", ")}`;
}
