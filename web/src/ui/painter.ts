/** One plane on a canvas: the slice at voxel resolution, scaled once, then what is drawn over it. */

import { compositeSlice } from "../core/composite";
import { orientationOf, PlaneView, type Axis, type Vec3 } from "../core/geometry";
import { SliceReader, type SliceSource } from "../core/slices";
import type { PaneLook } from "../state/open_image";
import type { PlacedPrompt } from "../state/placed";

/** `willReadFrequently` keeps the canvas on the CPU: three planes in 4 ms instead of 49 ms where there is no GPU. */
export function context(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  return canvas.getContext("2d", { willReadFrequently: true })!;
}

/** Size the canvas to its box in device pixels. Says whether there is anything to draw on. */
export function fitCanvas(canvas: HTMLCanvasElement): boolean {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (width === 0 || height === 0) return false;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return true;
}

export function viewOf(
  canvas: HTMLCanvasElement, axis: Axis, dims: Vec3, spacing: Vec3, look: PaneLook, radiological: boolean, picture: boolean,
): PlaneView {
  const orientation = orientationOf(axis, radiological, picture);
  return new PlaneView(axis, dims, spacing, orientation, canvas.clientWidth, canvas.clientHeight, look.zoom, look.panX, look.panY);
}

export interface SliceStyle {
  readonly grey: Uint8ClampedArray;
  readonly colours: Uint8Array;
  readonly outline: boolean;
  readonly smooth: boolean;
}

export class SlicePainter {
  readonly #canvas = document.createElement("canvas");
  #image: ImageData | null = null;
  #words = new Uint32Array(0);
  #reader: SliceReader | null = null;

  paint(target: HTMLCanvasElement, view: PlaneView, source: SliceSource, slice: number, style: SliceStyle): CanvasRenderingContext2D {
    if (this.#reader?.axis !== view.axis) this.#reader = new SliceReader(view.axis);
    const seen = this.#reader.read(source, slice);
    const { width, height } = seen;
    const own = context(this.#canvas);
    if (this.#image?.width !== width || this.#image.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
      this.#image = own.createImageData(width, height);
      this.#words = new Uint32Array(this.#image.data.buffer);
    }
    compositeSlice(this.#words, seen, view.orientation, style.grey, style.colours, style.outline);
    own.putImageData(this.#image, 0, 0);
    const drawn = context(target);
    const ratio = window.devicePixelRatio || 1;
    drawn.setTransform(1, 0, 0, 1, 0, 0);
    drawn.fillStyle = "#000";
    drawn.fillRect(0, 0, target.width, target.height);
    drawn.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawn.imageSmoothingEnabled = style.smooth || view.scaleU < 1 || view.scaleV < 1;
    drawn.drawImage(this.#canvas, view.left, view.top, view.width, view.height);
    return drawn;
  }
}

export function drawCrosshair(drawn: CanvasRenderingContext2D, view: PlaneView, cursor: Vec3, width: number, height: number): void {
  const [x, y] = view.toPane(cursor);
  const gap = Math.max(6, Math.max(view.scaleU, view.scaleV) * 1.5);
  drawn.lineWidth = 1;
  for (const [colour, shift] of [["rgba(0,0,0,.55)", 1], ["rgba(120,200,255,.85)", 0]] as const) {
    drawn.strokeStyle = colour;
    drawn.beginPath();
    const [cx, cy] = [Math.round(x) + 0.5 + shift, Math.round(y) + 0.5 + shift];
    drawn.moveTo(0, cy);
    drawn.lineTo(x - gap, cy);
    drawn.moveTo(x + gap, cy);
    drawn.lineTo(width, cy);
    drawn.moveTo(cx, 0);
    drawn.lineTo(cx, y - gap);
    drawn.moveTo(cx, y + gap);
    drawn.lineTo(cx, height);
    drawn.stroke();
  }
}

/** The brush as a ring of its true size. */
export function drawBrush(drawn: CanvasRenderingContext2D, view: PlaneView, at: Vec3, radiusMm: number, colour: string, erase: boolean): void {
  const [x, y] = view.toPane(at);
  const [u, v] = view.axis === 0 ? [1, 2] : view.axis === 1 ? [0, 2] : [0, 1];
  const rx = Math.max(1.5, (radiusMm / view.spacing[u]!) * view.scaleU);
  const ry = Math.max(1.5, (radiusMm / view.spacing[v]!) * view.scaleV);
  drawn.setLineDash(erase ? [4, 3] : []);
  for (const [stroke, width] of [["rgba(0,0,0,.7)", 3], [erase ? "#fff" : colour, 1.5]] as const) {
    drawn.strokeStyle = stroke;
    drawn.lineWidth = width;
    drawn.beginPath();
    drawn.ellipse(x, y, rx, ry, 0, 0, 2 * Math.PI);
    drawn.stroke();
  }
  drawn.setLineDash([]);
}

/** A prompt where this slice meets it; points also one slice away, paler. */
export function drawPrompt(drawn: CanvasRenderingContext2D, view: PlaneView, slice: number, prompt: PlacedPrompt): void {
  const near = (at: Vec3) => Math.abs(Math.round(at[view.axis]) - slice);
  const colour = prompt.positive ? "#5dff8f" : "#ff7a7a";
  if (prompt.kind === "point") {
    for (const at of prompt.points) {
      const distance = near(at);
      if (distance > 1) continue;
      drawn.globalAlpha = distance === 0 ? 1 : 0.45;
      drawPoint(drawn, view.toPane(at), colour, prompt.positive);
      drawn.globalAlpha = 1;
    }
    return;
  }
  if (prompt.kind === "box") {
    const [a, b] = prompt.points as readonly [Vec3, Vec3];
    const low = Math.min(a[view.axis], b[view.axis]);
    const high = Math.max(a[view.axis], b[view.axis]);
    if (slice >= Math.round(low) && slice <= Math.round(high)) drawRectangle(drawn, view, a, b, colour);
    return;
  }
  if (prompt.axis !== view.axis || prompt.points.length === 0 || near(prompt.points[0]!) !== 0) return;
  drawLine(drawn, view, prompt.points, colour, prompt.kind === "lasso");
}

function drawPoint(drawn: CanvasRenderingContext2D, [x, y]: readonly [number, number], colour: string, positive: boolean): void {
  drawn.beginPath();
  drawn.arc(x, y, 6, 0, 2 * Math.PI);
  drawn.fillStyle = colour;
  drawn.fill();
  drawn.lineWidth = 2;
  drawn.strokeStyle = "rgba(0,0,0,.8)";
  drawn.stroke();
  drawn.strokeStyle = "#000";
  drawn.lineWidth = 1.8;
  drawn.beginPath();
  drawn.moveTo(x - 3, y);
  drawn.lineTo(x + 3, y);
  if (positive) {
    drawn.moveTo(x, y - 3);
    drawn.lineTo(x, y + 3);
  }
  drawn.stroke();
}

export function drawRectangle(drawn: CanvasRenderingContext2D, view: PlaneView, a: Vec3, b: Vec3, colour: string): void {
  const [x0, y0] = view.toPane(a);
  const [x1, y1] = view.toPane(b);
  const left = Math.min(x0, x1) - view.scaleU / 2;
  const top = Math.min(y0, y1) - view.scaleV / 2;
  const width = Math.abs(x1 - x0) + view.scaleU;
  const height = Math.abs(y1 - y0) + view.scaleV;
  for (const [stroke, line] of [["rgba(0,0,0,.7)", 3.5], [colour, 1.5]] as const) {
    drawn.strokeStyle = stroke;
    drawn.lineWidth = line;
    drawn.strokeRect(left, top, width, height);
  }
}

export function drawLine(drawn: CanvasRenderingContext2D, view: PlaneView, points: readonly Vec3[], colour: string, closed: boolean): void {
  for (const [stroke, line] of [["rgba(0,0,0,.6)", 5], [colour, 2.5]] as const) {
    drawn.strokeStyle = stroke;
    drawn.lineWidth = line;
    drawn.lineJoin = "round";
    drawn.lineCap = "round";
    drawn.beginPath();
    points.forEach((point, i) => {
      const [x, y] = view.toPane(point);
      if (i === 0) drawn.moveTo(x, y);
      else drawn.lineTo(x, y);
    });
    if (closed) drawn.closePath();
    drawn.stroke();
  }
}
