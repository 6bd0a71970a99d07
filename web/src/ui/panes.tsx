/** The planes of the open image, linked by the crosshair, and the 3-D view of its labels. */

import { useEffect, useMemo, useRef } from "preact/hooks";
import { edgeLetters, IN_PLANE, orientationOf, PLANE_NAMES, type Axis, type PlaneView, type Vec3 } from "../core/geometry";
import { cssColour } from "../core/palette";
import { cornersIn } from "../core/region";
import { activeLabel } from "../state/labels";
import { focusedAxis, hover, maximised, moveCursor, open, tool } from "../state/editor";
import type { OpenImage } from "../state/open_image";
import { prompts } from "../state/prompting";
import { lease } from "../state/queue";
import { settings } from "../state/settings";
import { shownLabels, shownColours } from "../state/showing";
import { Icon } from "./icons";
import { drawBrush, drawCrosshair, drawLine, drawPrompt, drawRectangle } from "./painter";
import { Plane } from "./plane";
import { describePlane, Pointing, sketch } from "./pointing";
import { ThreeD } from "./threed";

export function Panes() {
  const image = open.value;
  if (image === null) return <Welcome />;
  const large = maximised.value;
  const axes = image.axes;
  const single = axes.length === 1;
  const shown: readonly (Axis | "3d")[] = single ? axes : large === null ? [2, 1, 0, "3d"] : [large];
  return (
    <div class={shown.length === 1 ? "panes single" : "panes"} data-state={image.loaded.value === 1 && image.labelled.value ? "ready" : "loading"} data-image={image.id}>
      {shown.map((pane) => pane === "3d" ? <ThreeD key={`${image.id} 3d`} image={image} /> : <Pane key={`${image.id} ${pane}`} image={image} axis={pane} />)}
    </div>
  );
}

function Welcome() {
  return (
    <div class="panes single" data-state="empty">
      <div class="welcome">
        <Icon name="layers" size={44} />
        <p>No image is open.</p>
        <p class="muted">Press <kbd>N</kbd> for the image that teaches the model most, or choose one from the list.</p>
      </div>
    </div>
  );
}

/** Of the frame round what a strategy asks for. */
const PART_COLOUR = "#ff9f43";

export function Pane({ image, axis }: { image: OpenImage; axis: Axis }) {
  const view = useRef<PlaneView | null>(null);
  const pointing = useMemo(() => new Pointing(axis, () => view.current), [image, axis]);
  const canvas = useRef<HTMLCanvasElement | null>(null);

  const over = (drawn: CanvasRenderingContext2D, at: PlaneView) => {
    const slice = image.cursor.value[axis];
    const under = hover.value;
    const armed = tool.value;
    drawCrosshair(drawn, at, image.cursor.value, canvas.current?.clientWidth ?? 0, canvas.current?.clientHeight ?? 0);
    const parts = lease.value?.image === image.id ? lease.value.parts : [];
    for (const part of parts) {
      const corners = cornersIn(part, image.dims);
      if (corners !== null && slice >= corners[0][axis] && slice <= corners[1][axis]) drawRectangle(drawn, at, ...corners, PART_COLOUR);
    }
    for (const prompt of prompts.value) drawPrompt(drawn, at, slice, prompt);
    const drawing = sketch.value;
    if (drawing !== null && drawing.axis === axis) {
      const colour = "#ffd95d";
      if (drawing.kind === "box") drawRectangle(drawn, at, drawing.points[0]!, drawing.points[drawing.points.length - 1]!, colour);
      else drawLine(drawn, at, drawing.points, colour, drawing.kind === "lasso");
    }
    if (under?.axis === axis && (armed === "brush" || armed === "eraser")) {
      drawBrush(drawn, at, under.at, settings.value.brushMm / 2, cssColour(activeLabel.value?.colour ?? [255, 255, 255]), armed === "eraser");
    }
  };

  const letters = edgeLetters(axis, orientationOf(axis, settings.value.radiological, image.isPicture));
  const position = image.cursor.value[axis];
  const isFocused = focusedAxis.value === axis;
  return (
    <section class={isFocused ? "pane focused" : "pane"} data-plane={image.isPicture ? "picture" : PLANE_NAMES[axis]}>
      <div class="pane-view" tabIndex={0} role="application" aria-roledescription="image pane" aria-label={describePlane(axis)}
        data-tool={tool.value} data-axis={axis}
        onFocus={() => { focusedAxis.value = axis; }}
        onPointerDown={(event) => pointing.down(event)} onPointerMove={(event) => pointing.move(event)}
        onPointerUp={(event) => pointing.up(event)} onPointerCancel={(event) => pointing.up(event)} onPointerLeave={() => pointing.leave()}
        onContextMenu={(event) => event.preventDefault()}
        onDblClick={() => { if (tool.peek() === "cursor" && !image.isPicture) maximised.value = maximised.value === axis ? null : axis; }}>
        <Wheel onWheel={(event) => pointing.wheel(event)} />
        <Plane image={image} axis={axis} labels={() => shownLabels(image)} colours={() => shownColours.value} look={() => image.looks[axis].value}
          over={over} onView={(now) => { view.current = now; }} canvasRef={(now) => { canvas.current = now; }} />
      </div>
      {!image.isPicture && <Letters letters={letters} />}
      <div class="pane-foot">
        <span class="pane-name">{image.isPicture ? "picture" : PLANE_NAMES[axis]}</span>
        {image.dims[axis] > 1 && (
          <>
            <input type="range" class="slice" min={1} max={image.dims[axis]} value={position + 1} aria-label={`${PLANE_NAMES[axis]} slice`} tabIndex={-1}
              onInput={(event) => moveCursor(withAxis(image.cursor.peek(), axis, Number(event.currentTarget.value) - 1))} />
            <span class="slice-number">{position + 1}<span class="muted">/{image.dims[axis]}</span></span>
          </>
        )}
        {image.axes.length > 1 && (
          <button type="button" class="tool small" title="Large or small (M)" aria-label={`${PLANE_NAMES[axis]} large or small`} aria-pressed={maximised.value === axis}
            onClick={() => { maximised.value = maximised.value === axis ? null : axis; }}><Icon name="large" size={14} /></button>
        )}
      </div>
    </section>
  );
}

/** The wheel must be heard by a listener that may stop the page from scrolling. */
function Wheel({ onWheel }: { onWheel: (event: WheelEvent) => void }) {
  const place = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    const box = place.current?.parentElement;
    box?.addEventListener("wheel", onWheel, { passive: false });
    return () => box?.removeEventListener("wheel", onWheel);
  }, []);
  return <span ref={place} hidden />;
}

function Letters({ letters }: { letters: readonly [string, string, string, string] }) {
  const places = ["left", "right", "top", "bottom"];
  return <>{letters.map((letter, i) => <span key={places[i]} class={`letter at-${places[i]}`} aria-hidden="true">{letter}</span>)}</>;
}

function withAxis(at: Vec3, axis: Axis, value: number): Vec3 {
  const next = [...at] as [number, number, number];
  next[axis] = value;
  return next;
}

/** Arrow keys: a voxel to the side as it is seen. */
export function stepCursor(image: OpenImage, axis: Axis, dx: number, dy: number): void {
  const orientation = orientationOf(axis, settings.peek().radiological, image.isPicture);
  const [u, v] = IN_PLANE[axis];
  const next = [...image.cursor.peek()] as [number, number, number];
  next[u] += orientation.flipU ? -dx : dx;
  next[v] += orientation.flipV ? -dy : dy;
  moveCursor(next);
}
