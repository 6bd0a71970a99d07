/** The labels as surfaces that turn: with the pointer, with the arrow keys. */

import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { drawSurface, surfaceOf, type Camera, type Surface } from "../core/splat";
import { maximised } from "../state/editor";
import { colours, hidden } from "../state/labels";
import type { OpenImage } from "../state/open_image";
import { context, fitCanvas } from "./painter";
import { Icon } from "./icons";

/** Pause after a change before the surface is made anew. */
const PAUSE_MS = 250;
const FIRST: Camera = { yaw: -0.5, pitch: 0.25, zoom: 1 };
/** Pixels drawn at most a side; beyond that the picture is scaled up. */
const MOST = 700;

export function ThreeD({ image }: { image: OpenImage }) {
  const place = useRef<HTMLCanvasElement>(null);
  const camera = useSignal<Camera>(FIRST);
  const surface = useSignal<Surface | null>(null);
  const drag = useRef<{ x: number; y: number; from: Camera } | null>(null);
  const scratch = useRef<{ image: ImageData; depth: Float32Array; canvas: HTMLCanvasElement } | null>(null);

  useSignalEffect(() => {
    void image.edits.value;
    const unseen = hidden.value;
    const timer = window.setTimeout(() => {
      surface.value = surfaceOf(image.map.voxels, image.dims, image.spacing, (value) => !unseen.has(value));
    }, surface.peek() === null ? 0 : PAUSE_MS);
    return () => window.clearTimeout(timer);
  });

  const draw = () => {
    const canvas = place.current;
    const shape = surface.peek();
    if (canvas === null || !fitCanvas(canvas)) return;
    const shrink = Math.min(1, MOST / Math.max(canvas.width, canvas.height));
    const width = Math.max(1, Math.round(canvas.width * shrink));
    const height = Math.max(1, Math.round(canvas.height * shrink));
    if (scratch.current?.image.width !== width || scratch.current.image.height !== height) {
      const own = document.createElement("canvas");
      own.width = width;
      own.height = height;
      scratch.current = { image: new ImageData(width, height), depth: new Float32Array(width * height), canvas: own };
    }
    const { image: pixels, depth, canvas: own } = scratch.current;
    if (shape !== null) drawSurface(new Uint32Array(pixels.data.buffer), depth, width, height, shape, camera.peek(), colours.peek());
    context(own).putImageData(pixels, 0, 0);
    const drawn = context(canvas);
    drawn.fillStyle = "#0a0c10";
    drawn.fillRect(0, 0, canvas.width, canvas.height);
    drawn.drawImage(own, 0, 0, canvas.width, canvas.height);
  };

  useSignalEffect(() => {
    void [surface.value, camera.value, colours.value];
    const frame = requestAnimationFrame(draw);
    return () => cancelAnimationFrame(frame);
  });

  useEffect(() => {
    const watcher = new ResizeObserver(draw);
    watcher.observe(place.current!);
    return () => watcher.disconnect();
  }, [image]);

  const turn = (yaw: number, pitch: number) => {
    const now = camera.peek();
    camera.value = { ...now, yaw: now.yaw + yaw, pitch: Math.max(-1.5, Math.min(1.5, now.pitch + pitch)) };
  };
  const key = (event: KeyboardEvent) => {
    const turns: Record<string, readonly [number, number]> = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] };
    const found = turns[event.key];
    if (found === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    turn(...found);
  };
  const count = surface.value?.count ?? 0;
  return (
    <section class="pane" data-plane="3d" data-points={count}>
      <div class="pane-view turning" tabIndex={0} role="application" aria-roledescription="3-D view"
        aria-label={count === 0 ? "3-D view of the labels: nothing is drawn yet" : "3-D view of the labels; arrow keys turn it"}
        onKeyDown={key}
        onPointerDown={(event) => { drag.current = { x: event.clientX, y: event.clientY, from: camera.peek() }; event.currentTarget.setPointerCapture(event.pointerId); }}
        onPointerMove={(event) => {
          const from = drag.current;
          if (from === null) return;
          camera.value = { ...from.from, yaw: from.from.yaw + (event.clientX - from.x) * 0.01, pitch: Math.max(-1.5, Math.min(1.5, from.from.pitch + (event.clientY - from.y) * 0.01)) };
        }}
        onPointerUp={() => { drag.current = null; }}
        onDblClick={() => { camera.value = FIRST; }}
        onContextMenu={(event) => event.preventDefault()}>
        <canvas ref={place} class="plane" aria-hidden="true" />
        {count === 0 && <p class="pane-hint">The labels appear here in 3-D</p>}
      </div>
      <div class="pane-foot">
        <span class="pane-name">3-D labels</span>
        <span class="grow" />
        <input type="range" class="zoom" min={0.5} max={4} step={0.1} value={camera.value.zoom} aria-label="3-D zoom" tabIndex={-1}
          onInput={(event) => { camera.value = { ...camera.peek(), zoom: Number(event.currentTarget.value) }; }} />
        <button type="button" class="tool small" title="Large or small" aria-label="3-D view large or small" aria-pressed={maximised.value === "3d"}
          onClick={() => { maximised.value = maximised.value === "3d" ? null : "3d"; }}><Icon name="large" size={14} /></button>
      </div>
    </section>
  );
}
