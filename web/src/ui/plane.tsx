/** A plane on a canvas that redraws when what it shows has changed, at most once a frame. */

import { useSignalEffect } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Axis, PlaneView } from "../core/geometry";
import type { ShownLabels } from "../core/labelmap";
import type { OpenImage, PaneLook } from "../state/open_image";
import { settings } from "../state/settings";
import { fitCanvas, SlicePainter, viewOf } from "./painter";

export interface PlaneProps {
  readonly image: OpenImage;
  readonly axis: Axis;
  /** Read what else the picture depends on; called where signals are followed. */
  readonly labels: () => ShownLabels;
  readonly colours: () => Uint8Array;
  readonly look: () => PaneLook;
  /** Draw over the slice. */
  readonly over?: (drawn: CanvasRenderingContext2D, view: PlaneView) => void;
  readonly canvasRef?: (canvas: HTMLCanvasElement | null) => void;
  readonly onView?: (view: PlaneView) => void;
}

export function Plane({ image, axis, labels, colours, look, over, canvasRef, onView }: PlaneProps) {
  const place = useRef<HTMLCanvasElement>(null);
  const painter = useMemo(() => new SlicePainter(), [image]);
  const frame = useRef(0);
  const draw = useRef<() => void>(() => undefined);

  const paint = () => {
    const canvas = place.current;
    if (canvas === null || !fitCanvas(canvas)) return;
    const { radiological, smooth, outline } = settings.peek();
    const view = viewOf(canvas, axis, image.dims, image.spacing, look(), radiological, image.isPicture);
    onView?.(view);
    const source = { dims: image.dims, ...image.voxels, version: image.pixels.peek(), labels: labels() };
    const drawn = painter.paint(canvas, view, source, image.cursor.peek()[axis], { grey: image.grey(), colours: colours(), outline, smooth });
    over?.(drawn, view);
  };
  draw.current = paint;

  useSignalEffect(() => {
    // Read all that the picture depends on; drawing itself waits for the next frame.
    void [image.pixels.value, image.edits.value, image.cursor.value, image.window.value, look(), settings.value, labels(), colours()];
    over?.(NOWHERE, viewOf(place.current ?? document.createElement("canvas"), axis, image.dims, image.spacing, look(), true, false));
    schedule();
  });

  function schedule(): void {
    if (frame.current !== 0) return;
    frame.current = requestAnimationFrame(() => {
      frame.current = 0;
      draw.current();
    });
  }

  useEffect(() => {
    const canvas = place.current!;
    canvasRef?.(canvas);
    const watcher = new ResizeObserver(() => draw.current());
    watcher.observe(canvas);
    return () => {
      watcher.disconnect();
      cancelAnimationFrame(frame.current);
      frame.current = 0;
      canvasRef?.(null);
    };
  }, [image]);

  return <canvas ref={place} class="plane" aria-hidden="true" />;
}

/** Swallows drawing: `over` is run once outside a frame, so that the signals it reads are followed. */
const NOWHERE = context2dOfNothing();

function context2dOfNothing(): CanvasRenderingContext2D {
  const canvas = document.createElement("canvas");
  canvas.width = 1;
  canvas.height = 1;
  return canvas.getContext("2d", { willReadFrequently: true })!;
}
