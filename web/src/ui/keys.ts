/** Key presses become actions. Fields that take text keep theirs. */

import { submit } from "../state/work";
import { openNext } from "../state/work";
import { saveNow } from "../state/drafting";
import { abandonStroke, focusedAxis, interpolate, isDrawing, maximised, moveSlice, open, positive, redo, resizeBrush, tool, type Tool } from "../state/editor";
import { active, activeLabel, labels, toggleAllHidden, toggleHidden, toggleLocked } from "../state/labels";
import { closeDialog, dialog, view } from "../state/page";
import { arm, cancelRun, clearPrompts, run, running } from "../state/prompting";
import { keyMap, setSettings, settings } from "../state/settings";
import { actAtCursor, fitPane, sketch, zoomAt } from "./pointing";
import { stepCursor } from "./panes";
import { nextWindow, undoStep } from "./toolbar";

const TOOLS = new Set<string>(["cursor", "brush", "eraser", "fill", "point", "box", "scribble", "lasso"]);
const LARGER = 1.25;

type Act = (event: KeyboardEvent) => void;

const withLabel = (act: (value: number) => void): Act => () => {
  const label = activeLabel.peek();
  if (label !== undefined) act(label.value);
};

const move = (dx: number, dy: number): Act => () => {
  const image = open.peek();
  if (image !== null) stepCursor(image, focusedAxis.peek(), dx, dy);
};

const slice = (by: number): Act => () => moveSlice(focusedAxis.peek(), by);

const ACTS: Readonly<Record<string, Act>> = {
  left: move(-1, 0), right: move(1, 0), up: move(0, -1), down: move(0, 1),
  "slice-up": slice(1), "slice-down": slice(-1), "slice-up-10": slice(10), "slice-down-10": slice(-10),
  "zoom-in": () => zoomAt(focusedAxis.peek(), 1.25), "zoom-out": () => zoomAt(focusedAxis.peek(), 0.8), "zoom-fit": () => fitPane(focusedAxis.peek()),
  maximise: () => { maximised.value = maximised.peek() === null ? focusedAxis.peek() : null; },
  act: (event) => actAtCursor(focusedAxis.peek(), event.key === "Enter"),
  smaller: () => resizeBrush(1 / LARGER), larger: () => resizeBrush(LARGER),
  interpolate, undo: undoStep, redo,
  sign: () => { positive.value = !positive.peek(); },
  run: () => void run(), "clear-prompts": () => void clearPrompts(),
  window: nextWindow, hide: withLabel(toggleHidden), "hide-all": toggleAllHidden, lock: withLabel(toggleLocked),
  outline: () => setSettings({ outline: !settings.peek().outline }),
  next: () => void openNext(), "save-draft": () => void saveNow(true), submit: () => void submit(),
  help: () => { dialog.value = { name: "help", content: () => null }; },
  cancel,
};

/** Esc ends what is going on, the innermost first. */
function cancel(): void {
  if (dialog.peek() !== null) closeDialog();
  else if (isDrawing()) abandonStroke();
  else if (sketch.peek() !== null) sketch.value = null;
  else if (running.peek() !== null) cancelRun();
  else if (maximised.peek() !== null) maximised.value = null;
  else tool.value = "cursor";
}

/** Actions that mean the same in every view. */
const EVERYWHERE = new Set(["help", "cancel"]);
/** Actions of the focused pane: elsewhere the keys are the browser's. */
const IN_PANES = new Set(["left", "right", "up", "down", "act", "slice-up", "slice-down", "slice-up-10", "slice-down-10"]);

export function heardKey(event: KeyboardEvent): void {
  if (event.defaultPrevented || dialog.peek() !== null) return;
  const target = event.target as HTMLElement;
  const id = keyMap.peek().action(event);
  if (takesText(target) && !(id === "submit" || id === "save-draft")) return;
  if (id === undefined) {
    chooseByDigit(event);
    return;
  }
  if (view.peek() !== "work" && !EVERYWHERE.has(id)) return;
  if (IN_PANES.has(id) && !isPaneOrBody(target)) return;
  event.preventDefault();
  if (TOOLS.has(id)) arm(id as Tool);
  else ACTS[id]?.(event);
}

function chooseByDigit(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey || view.peek() !== "work" || !/^[1-9]$/.test(event.key)) return;
  const label = labels.peek()[Number(event.key) - 1];
  if (label === undefined) return;
  event.preventDefault();
  active.value = label.value;
}

function takesText(target: HTMLElement): boolean {
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "range", "button"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

function isPaneOrBody(target: HTMLElement): boolean {
  return target === document.body || target.closest(".pane-view") !== null;
}
