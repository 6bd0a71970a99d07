/**
 * Prompts to a model. Each change of the prompts asks at once (after a short pause); without prompts the model draws by
 * itself. The conversation with the server is `PromptSession`'s.
 */

import { batch, computed } from "@preact/signals";
import { isAbort } from "../api/http";
import { predict } from "../api/routes";
import type { PromptModel } from "../api/wire";
import type { Axis, Vec3 } from "../core/geometry";
import { replacement } from "../core/replacing";
import { noteSign } from "./activity";
import { changed, drawable, modelGuard, onChange, onStep, open, positive, tool, type Tool } from "./editor";
import { activeLabel } from "./labels";
import type { OpenImage } from "./open_image";
import { app, complain, interactive, say } from "./page";
import { placed, type DrawnKind, type PlacedPrompt } from "./placed";
import { lastRun, modelUsed, prompts, PromptSession, running, sayUnknown, valuesOf } from "./session";
import { settings } from "./settings";

/** Pause after the last prompt before the model is asked. */
const PAUSE_MS = 150;

export interface ModelChoice {
  readonly name: string;
  readonly description: string;
  readonly prompts: PromptModel | null;
  readonly dimension: number;
}

/** Models that fit the open image; interactive ones first. */
export const choices = computed<readonly ModelChoice[]>(() => {
  const dimension = open.value?.isPicture === true ? 2 : 3;
  const takers = new Map(interactive.value.map((model) => [model.name, model]));
  const all = Object.entries(app.value?.models ?? {}).map(([name, model]) => ({
    name, description: model.description, prompts: takers.get(name) ?? null, dimension: model.dimension, type: model.type,
  }));
  const fits = all.filter((model) =>
    model.type !== "classification" && (model.prompts !== null ? model.prompts.dimensions.includes(dimension) : model.dimension === dimension || (dimension === 3 && model.dimension === 2)));
  return fits.sort((a, b) => Number(b.prompts !== null) - Number(a.prompts !== null));
});

export const chosen = computed<ModelChoice | undefined>(
  () => choices.value.find((model) => model.name === settings.value.model) ?? choices.value[0],
);

/** Why a tool cannot be used with the chosen model; "" when it can. */
export function whyNot(kind: Tool): string {
  if (kind !== "point" && kind !== "box" && kind !== "scribble" && kind !== "lasso") return "";
  const model = chosen.value;
  if (model === undefined) return "No model is offered for this image";
  if (model.prompts === null) return `${model.name} takes no prompts; run it with R`;
  return model.prompts.prompt_kinds.includes(kind) ? "" : `${model.name} takes no ${kind}`;
}

let session: PromptSession | null = null;
let waiting: PlacedPrompt[] = [];
let timer = 0;
let automatic: AbortController | null = null;

function sessionNow(image: OpenImage, model: PromptModel): PromptSession {
  if (session?.image !== image || session.model.name !== model.name) {
    session?.close();
    session = new PromptSession(image, model);
    for (const { value } of valuesOf(image)) session.drawn.add(value);
  }
  return session;
}

/** Place a prompt for the active label. */
export function addPrompt(kind: DrawnKind, axis: Axis, points: readonly Vec3[], invert: boolean): void {
  const label = activeLabel.peek();
  const reason = whyNot(kind);
  if (label === undefined || drawable() === null) return;
  if (reason !== "") {
    say(`${reason}.`);
    return;
  }
  const prompt = placed(kind, axis, label.value, label.name, positive.peek() !== invert, points);
  prompts.value = [...prompts.peek(), prompt];
  waiting.push(prompt);
  noteSign("prompt");
  if (!settings.peek().live) return;
  window.clearTimeout(timer);
  timer = window.setTimeout(() => void sendWaiting(), PAUSE_MS);
}

async function sendWaiting(): Promise<void> {
  const image = open.peek();
  const model = chosen.peek()?.prompts;
  const fresh = waiting;
  waiting = [];
  if (image === null || model === undefined || model === null || fresh.length === 0) return;
  const mine = sessionNow(image, model);
  running.value ??= { since: performance.now(), what: model.name };
  const began = performance.now();
  try {
    await mine.ask(fresh);
    if (lastRun.peek() !== null) lastRun.value = { ...lastRun.peek()!, seconds: (performance.now() - began) / 1000 };
  } catch (error) {
    complain(error);
  } finally {
    if (mine.waiting === 0) running.value = null;
  }
}

/** R: send the prompts that wait; without any run the model on the whole image. */
export async function run(): Promise<void> {
  if (waiting.length > 0) {
    window.clearTimeout(timer);
    await sendWaiting();
    return;
  }
  const model = chosen.peek();
  if (model !== undefined) await runAutomatic(model);
}

export async function runAutomatic(model: ModelChoice): Promise<void> {
  const image = drawable();
  if (image === null || running.peek() !== null) return;
  automatic = new AbortController();
  const began = performance.now();
  running.value = { since: began, what: model.name };
  try {
    const params = model.prompts !== null && activeLabel.peek() !== undefined ? { label: activeLabel.peek()!.name } : {};
    const got = await predict(image.id, model.name, params, automatic.signal);
    if (open.peek() !== image) return;
    const own = new Set(Object.values(got.answer.labels));
    const next = replacement(image.map.voxels, image.dims, got.box, got.voxels, own);
    const change = next === null ? null : image.map.merge(next.box, next.values, null, modelGuard());
    if (change === null) say(`${model.name} found nothing to change.`);
    else image.history.push({ kind: "model", change });
    lastRun.value = { seconds: (performance.now() - began) / 1000, version: got.answer.model_version ?? "", model: model.name };
    modelUsed.value = { name: model.name, version: got.answer.model_version ?? "", prompted: false };
    noteSign("proposal", model.name, got.answer.model_version ?? "");
    sayUnknown(got);
    for (const value of own) session?.drawn.add(value);
    changed(image, "model");
  } catch (error) {
    if (!isAbort(error)) complain(error);
  } finally {
    automatic = null;
    running.value = null;
  }
}

export function cancelRun(): void {
  automatic?.abort();
  session?.cancel();
  window.clearTimeout(timer);
  prompts.value = prompts.peek().filter((prompt) => !waiting.includes(prompt));
  waiting = [];
  running.value = null;
}

/** Forget all prompts; what they made stays drawn. */
export async function clearPrompts(): Promise<void> {
  cancelRun();
  prompts.value = [];
  await session?.reset().catch(complain);
}

/** When another image is opened, or another model chosen. */
export function leaveSession(): void {
  cancelRun();
  session?.close();
  session = null;
  batch(() => {
    prompts.value = [];
    lastRun.value = null;
    modelUsed.value = null;
  });
}

/** A prompt that waits is taken back before anything that is drawn. */
export function takeBackWaiting(): boolean {
  if (waiting.length === 0 && (session?.waiting ?? 0) === 0) return false;
  cancelRun();
  return true;
}

onStep((direction, entry) => {
  const { note } = entry;
  if (note === undefined) {
    noteDrawn();
    return;
  }
  prompts.value = direction === "undo"
    ? prompts.peek().filter((prompt) => !note.prompts.includes(prompt))
    : [...prompts.peek(), ...note.prompts];
  if (session !== null && session.id === note.session) session.follow(direction, note.steps);
});

onChange((kind) => {
  if (kind !== "model" && kind !== "undo" && kind !== "redo") noteDrawn();
});

/** The model shall hear with the next prompt what is drawn now. */
function noteDrawn(): void {
  const label = activeLabel.peek();
  if (label !== undefined) session?.drawn.add(label.value);
}

/** Arm a tool, if the model can use it. */
export function arm(next: Tool): void {
  const reason = whyNot(next);
  if (reason !== "") say(`${reason}.`);
  else tool.value = next;
}

export { lastRun, modelUsed, prompts, running };
