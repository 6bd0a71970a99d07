/**
 * The conversation with a model about one image. Requests carry numbers, and an answer that is older than one already
 * shown is dropped: the server then sends the whole mask with the next.
 *
 * The page holds a copy of the session's mask. What the model changed since is merged into the label map; what was drawn by
 * hand stays unless the model changes its mind there, and is told to the model with the next prompt.
 */

import { signal } from "@preact/signals";
import { ApiError, isAbort } from "../api/http";
import { closeSession, openSession, sendPrompts, stepSession, type AnswerVoxels } from "../api/routes";
import type { PromptBody, PromptModel } from "../api/wire";
import { AnswerMask } from "../core/answermask";
import { maskOf } from "../core/bits";
import { changed, modelGuard } from "./editor";
import type { OpenImage, PromptNote } from "./open_image";
import { complain, say } from "./page";
import { bodyOf, type PlacedPrompt } from "./placed";

/** Prompts that count now, sent or not. */
export const prompts = signal<readonly PlacedPrompt[]>([]);
export const running = signal<{ readonly since: number; readonly what: string } | null>(null);
export const lastRun = signal<{ readonly seconds: number; readonly version: string; readonly model: string } | null>(null);
export const modelUsed = signal<{ readonly name: string; readonly version: string; readonly prompted: boolean } | null>(null);

interface Sent {
  readonly prompts: readonly PlacedPrompt[];
  readonly at: number | null;
  readonly stop: AbortController;
}

export class PromptSession {
  id = "";
  at: number | null = 0;
  #seq = 0;
  #shown = 0;
  #sent = new Map<number, Sent>();
  #mask: AnswerMask | null = null;
  #opening: Promise<string> | null = null;
  #steps: Promise<unknown> = Promise.resolve();
  /** Values that were drawn by hand since the model last saw them. */
  readonly drawn = new Set<number>();

  constructor(readonly image: OpenImage, readonly model: PromptModel) {}

  /** What is waited for. */
  get waiting(): number {
    return this.#sent.size;
  }

  async ask(fresh: readonly PlacedPrompt[], again = false): Promise<void> {
    const seq = ++this.#seq;
    const stop = new AbortController();
    const sent: Sent = { prompts: fresh, at: this.at, stop };
    this.#sent.set(seq, sent);
    try {
      await this.#steps;
      const id = await this.#opened();
      const bodies: PromptBody[] = [...this.#corrections(fresh), ...fresh.map(bodyOf)];
      const answer = await sendPrompts(id, { seq, at: sent.at, predict: true, prompts: bodies }, stop.signal);
      this.#take(seq, sent, answer);
    } catch (error) {
      this.#sent.delete(seq);
      if (error instanceof ApiError && error.status === 404 && this.id !== "" && !again) {
        this.#forget();
        await this.ask([...prompts.peek()], true); // the session is gone (kept too long, server lost it): begin anew with all prompts
        return;
      }
      if (isAbort(error)) return;
      prompts.value = prompts.peek().filter((prompt) => !fresh.includes(prompt));
      throw error;
    }
  }

  /** What was drawn by hand, for a model that understands masks. */
  #corrections(fresh: readonly PlacedPrompt[]): PromptBody[] {
    const bodies: PromptBody[] = [];
    if (this.model.prompt_kinds.includes("mask")) {
      for (const value of new Set(fresh.map((prompt) => prompt.value))) {
        if (!this.drawn.has(value)) continue;
        const mask = maskOf(this.image.map.voxels, this.image.dims, value);
        const label = fresh.find((prompt) => prompt.value === value)!.label;
        if (mask !== null) bodies.push({ kind: "mask", label, positive: true, mask });
        this.drawn.delete(value);
      }
    }
    return bodies;
  }

  #take(seq: number, sent: Sent, got: AnswerVoxels): void {
    if (seq < this.#shown || !this.#sent.has(seq)) {
      this.#sent.delete(seq);
      return; // a newer answer is shown already
    }
    this.#shown = seq;
    const covered: PlacedPrompt[] = [];
    let steps = 0;
    for (const [number, earlier] of [...this.#sent]) {
      if (number > seq) continue;
      covered.push(...earlier.prompts);
      steps++;
      this.#sent.delete(number);
    }
    if (got.answer.whole !== true && sent.at !== null && this.at !== sent.at) {
      this.at = null; // not what this answer starts from: the next one shall be whole
      return;
    }
    const change = this.#merge(got);
    const note: PromptNote = { prompts: covered, steps, session: this.id };
    this.image.history.push({ kind: "model", change, note });
    lastRun.value = { seconds: got.answer.seconds?.["total"] ?? 0, version: got.answer.model_version ?? "", model: this.model.name };
    modelUsed.value = { name: this.model.name, version: got.answer.model_version ?? "", prompted: true };
    sayUnknown(got);
    changed(this.image, "model");
  }

  /** Bring the copy of the session's mask up to date; merge what changed into the label map. */
  #merge(got: AnswerVoxels) {
    const { dims, map } = this.image;
    this.at = got.answer.at ?? null;
    this.#mask ??= new AnswerMask(dims);
    const next = this.#mask.next(got, got.answer.whole === true);
    return next === null ? null : map.merge(next.box, next.voxels, this.#mask.voxels, modelGuard());
  }

  /** Let the session follow undo and redo; the label map has done so already. */
  follow(direction: "undo" | "redo", steps: number): void {
    this.#steps = this.#steps.then(async () => {
      for (let i = 0; i < steps; i++) {
        const got = await stepSession(this.id, direction, { seq: ++this.#seq, at: this.at });
        this.#shown = this.#seq;
        this.#copy(got);
      }
    }).catch((error: unknown) => {
      this.at = null;
      if (!(error instanceof ApiError)) complain(error);
    });
  }

  #copy(got: AnswerVoxels): void {
    this.at = got.answer.at ?? null;
    this.#mask ??= new AnswerMask(this.image.dims);
    this.#mask.take(got, got.answer.whole === true);
  }

  /** Give up what is being waited for. */
  cancel(): void {
    const lost = new Set<PlacedPrompt>();
    for (const sent of this.#sent.values()) {
      sent.stop.abort();
      for (const prompt of sent.prompts) lost.add(prompt);
    }
    this.#sent.clear();
    this.at = null; // whether the server had done it the next answer tells
    prompts.value = prompts.peek().filter((prompt) => !lost.has(prompt));
  }

  /** Forget prompts and mask; what is drawn stays. */
  async reset(): Promise<void> {
    this.cancel();
    this.#mask = null;
    if (this.id === "") return;
    const got = await stepSession(this.id, "reset", { seq: ++this.#seq, at: this.at });
    this.#shown = this.#seq;
    this.at = got.answer.at ?? null;
    for (const { value } of this.model.prompt_kinds.includes("mask") ? valuesOf(this.image) : []) this.drawn.add(value);
  }

  #opened(): Promise<string> {
    if (this.id !== "") return Promise.resolve(this.id);
    this.#opening ??= openSession(this.model.name, this.image.id).then(({ id }) => {
      this.id = id;
      return id;
    }).finally(() => {
      this.#opening = null;
    });
    this.#mask ??= new AnswerMask(this.image.dims); // now, while the server is at work, not when its answer is here
    return this.#opening;
  }

  #forget(): void {
    this.id = "";
    this.at = 0;
    this.#mask = null;
    this.#opening = null;
  }

  close(): void {
    this.cancel();
    if (this.id !== "") void closeSession(this.id).catch(() => undefined);
  }
}

export function valuesOf(image: OpenImage): { value: number }[] {
  return [...image.map.counts].map((count, value) => ({ count, value })).filter(({ count, value }) => count > 0 && value > 0);
}

export function sayUnknown(got: AnswerVoxels): void {
  const unknown = got.answer.unknown ?? [];
  if (unknown.length > 0) say(`The model also marks ${unknown.join(", ")}, which this project's labels do not have.`);
}
