/** Tools in one row, what the armed tool can be told in a second. */

import type { Tool } from "../state/editor";
import { ball, historyTick, interpolate, LARGEST_MM, maximised, onlyEmpty, open, positive, range, redo, SMALLEST_MM, tool, undo, PROMPT_TOOLS } from "../state/editor";
import { activeLabel } from "../state/labels";
import { arm, takeBackWaiting, whyNot } from "../state/prompting";
import { keyMap, setSettings, settings } from "../state/settings";
import { Select, Swatch, Switch, ToolButton } from "./bits";

const HAND: readonly (readonly [Tool, string, string])[] = [
  ["cursor", "cursor", "Crosshair"],
  ["brush", "brush", "Brush"],
  ["eraser", "eraser", "Eraser"],
  ["fill", "fill", "Fill a closed outline"],
];

const PROMPTS: readonly (readonly [Tool, string, string])[] = [
  ["point", "point", "Point prompt"],
  ["box", "box", "Box prompt"],
  ["scribble", "scribble", "Scribble prompt"],
  ["lasso", "lasso", "Lasso prompt"],
];

export function undoStep(): void {
  if (!takeBackWaiting()) undo();
}

export function Toolbar() {
  const image = open.value;
  const none = image === null ? "No image is open" : "";
  const noLabel = image !== null && activeLabel.value === undefined ? "Add a label first" : none;
  void historyTick.value;
  return (
    <div class="toolbar" role="toolbar" aria-label="Tools">
      <div class="group">
        <ToolButton icon="undo" title="Undo" action="undo" why={none || (image!.history.canUndo ? "" : "Nothing to undo")} onClick={undoStep} />
        <ToolButton icon="redo" title="Redo" action="redo" why={none || (image!.history.canRedo ? "" : "Nothing to redo")} onClick={redo} />
      </div>
      <div class="group">
        {HAND.map(([id, icon, title]) => (
          <ToolButton key={id} icon={icon} title={title} action={id} pressed={tool.value === id} why={id === "cursor" ? none : noLabel} onClick={() => arm(id)} />
        ))}
        <ToolButton icon="between" title="Fill in between drawn slices" action="interpolate" why={noLabel || (image!.axes.length === 1 ? "A picture has one slice" : "")} onClick={interpolate} />
      </div>
      <div class="group">
        {PROMPTS.map(([id, icon, title]) => (
          <ToolButton key={id} icon={icon} title={title} action={id} pressed={tool.value === id} why={noLabel || whyNot(id)} onClick={() => arm(id)} />
        ))}
        <button type="button" class={positive.value ? "tool sign adds" : "tool sign removes"} aria-pressed={!positive.value} aria-disabled={noLabel !== "" || undefined}
          title={`Prompts ${positive.value ? "add" : "remove"} (${keyMap.value.shown("sign")}); hold Ctrl for the other`}
          onClick={() => { positive.value = !positive.value; }}>{positive.value ? "+ adds" : "− removes"}</button>
      </div>
      <div class="group last">
        <WindowChoice />
        {maximised.value !== null && <button type="button" class="quiet" onClick={() => { maximised.value = null; }}>All panes</button>}
      </div>
    </div>
  );
}

function WindowChoice() {
  const image = open.value;
  if (image === null) return null;
  if (image.voxels.rgb !== null) return <span class="muted small-text">colour picture</span>;
  const now = image.window.value;
  const found = image.header.windows.findIndex((window) => window.center === now.center && window.width === now.width);
  const options = image.header.windows.map((window, i) => ({ value: String(i), text: `${window.name}  ${Math.round(window.center)} / ${Math.round(window.width)}` }));
  if (found < 0) options.unshift({ value: "-1", text: `own  ${Math.round(now.center)} / ${Math.round(now.width)}` });
  return (
    <Select label="Window" value={String(found)} options={options}
      onChange={(value) => { const window = image.header.windows[Number(value)]; if (window !== undefined) image.window.value = window; }} />
  );
}

/** W: the next window of the list. */
export function nextWindow(): void {
  const image = open.peek();
  if (image === null || image.header.windows.length === 0) return;
  const now = image.window.peek();
  const found = image.header.windows.findIndex((window) => window.center === now.center && window.width === now.width);
  image.window.value = image.header.windows[(found + 1) % image.header.windows.length]!;
}

export function ToolOptions() {
  const image = open.value;
  const armed = tool.value;
  if (image === null) return <div class="options" />;
  const label = activeLabel.value;
  const paints = armed === "brush" || armed === "eraser";
  return (
    <div class="options" aria-label="Options of the tool">
      {label !== undefined && <span class="chip"><Swatch colour={label.colour} />{label.name}</span>}
      {paints && <BrushSize />}
      {(paints || armed === "fill") && !image.isPicture && (
        <Switch on={ball.value} onChange={(on) => { ball.value = on; }} title="Paint a ball, fill through the slices (hold Alt)">3-D</Switch>
      )}
      {(paints || armed === "fill") && <Switch on={onlyEmpty.value} onChange={(on) => { onlyEmpty.value = on; }} title="Do not paint over other labels">only empty</Switch>}
      {(paints || armed === "fill") && image.voxels.grey !== null && <Range />}
      {armed === "cursor" && <span class="muted">Drag moves the crosshair; wheel: slice; right drag: window; Ctrl + wheel: zoom</span>}
      {PROMPT_TOOLS.has(armed) && <span class="muted">{HINTS[armed]}</span>}
    </div>
  );
}

const HINTS: Readonly<Partial<Record<Tool, string>>> = {
  point: "Click what belongs to the label; hold Ctrl for what does not",
  box: "Drag a box round it; hold Ctrl for what does not belong to it",
  scribble: "Draw a line over what belongs to the label; hold Ctrl for what does not",
  lasso: "Draw round what belongs to the label; hold Ctrl for what does not",
};

function BrushSize() {
  const mm = settings.value.brushMm;
  const unit = open.value?.isPicture === true ? "px" : "mm";
  return (
    <label class="range-field" title={`Smaller ${keyMap.value.shown("smaller")}, larger ${keyMap.value.shown("larger")}`}>
      <span>size</span>
      <input type="range" min={0} max={100} step={1} value={toSlider(mm)} aria-label="Brush diameter" aria-valuetext={`${mm} ${unit}`}
        onInput={(event) => setSettings({ brushMm: fromSlider(Number(event.currentTarget.value)) })} />
      <output class="brush-size">{mm} {unit}</output>
    </label>
  );
}

/** The slider grows by factors, so that small brushes can be set finely. */
function toSlider(mm: number): number {
  return (100 * Math.log(mm / SMALLEST_MM)) / Math.log(LARGEST_MM / SMALLEST_MM);
}

function fromSlider(place: number): number {
  return Math.round(SMALLEST_MM * (LARGEST_MM / SMALLEST_MM) ** (place / 100) * 10) / 10;
}

function Range() {
  const image = open.value!;
  const now = range.value;
  const unit = image.header.unit;
  const set = (index: 0 | 1, text: string) => {
    const value = Number(text);
    if (text === "" || !Number.isFinite(value) || now === null) return;
    range.value = index === 0 ? [value, now[1]] : [now[0], value];
  };
  const toggle = (on: boolean) => {
    const { center, width } = image.window.peek();
    range.value = on ? [Math.round(center - width / 4), Math.round(center + width / 2)] : null;
  };
  return (
    <span class="range-limits">
      <Switch on={now !== null} onChange={toggle} title="Paint only these intensities">range</Switch>
      {now !== null && (
        <>
          <input type="number" value={now[0]} aria-label="Lowest intensity that is painted" onChange={(event) => set(0, event.currentTarget.value)} />
          <span class="muted">to</span>
          <input type="number" value={now[1]} aria-label="Highest intensity that is painted" onChange={(event) => set(1, event.currentTarget.value)} />
          <span class="muted">{unit}</span>
        </>
      )}
    </span>
  );
}
