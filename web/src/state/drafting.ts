/**
 * Drafts: after each gesture, debounced, one at a time. While the server does not answer they stay in the browser and go
 * out when it is back; a draft that another window has saved meanwhile is never overwritten without a question.
 */

import { signal } from "@preact/signals";
import { gzipped } from "../api/gzip";
import { ApiError, Unreachable } from "../api/http";
import { dropDraft, saveDraft } from "../api/routes";
import { changed, onChange, open } from "./editor";
import { active } from "./labels";
import { forgetHere, keepHere } from "./keeping";
import type { OpenImage } from "./open_image";
import { complain, onRecovery, person } from "./page";

/** Pause after the last gesture before the draft is saved. */
const PAUSE_MS = 600;

export type DraftState =
  | { readonly kind: "none" }
  | { readonly kind: "waiting" }
  | { readonly kind: "saving" }
  | { readonly kind: "saved"; readonly atMs: number }
  | { readonly kind: "here"; readonly atMs: number }
  | { readonly kind: "conflict" };

export const draftState = signal<DraftState>({ kind: "none" });

export interface Basis {
  tag: string;
  /** Of the label that the work began with; null: there was none. */
  labelEtag: string | null;
  /** Number of the draft that this window saw last; 0: none. */
  draft: number;
}

/** What the open image's work stands on. */
export const basis: Basis = { tag: "final", labelEtag: null, draft: 0 };

let timer = 0;
let dirty = false;
let saving: Promise<void> | null = null;
let onConflict: (number: number) => void = () => undefined;

export function onDraftConflict(told: (number: number) => void): void {
  onConflict = told;
}

export function hasUnsaved(): boolean {
  return dirty || saving !== null;
}

/** A new image is open: nothing of it waits. */
export function beginDrafting(from: Basis, atMs: number | null): void {
  window.clearTimeout(timer);
  dirty = false;
  Object.assign(basis, from);
  draftState.value = atMs === null ? { kind: "none" } : { kind: "saved", atMs };
}

onChange(() => {
  dirty = true;
  if (draftState.peek().kind === "conflict") return;
  draftState.value = { kind: "waiting" };
  window.clearTimeout(timer);
  timer = window.setTimeout(() => void saveNow(), PAUSE_MS);
});

function stateOf(image: OpenImage): Record<string, unknown> {
  return { cursor: image.cursor.peek(), active: active.peek() };
}

/** Save what is drawn now. Ends when it is on the server, or kept here because the server does not answer. */
export async function saveNow(force = false): Promise<void> {
  window.clearTimeout(timer);
  while (saving !== null) await saving;
  const image = open.peek();
  if (image === null || (!dirty && !force)) return;
  saving = save(image, force).finally(() => {
    saving = null;
  });
  await saving;
}

async function save(image: OpenImage, force: boolean): Promise<void> {
  dirty = false;
  draftState.value = { kind: "saving" };
  const { tag, labelEtag } = basis;
  const state = stateOf(image);
  const voxels = await gzipped(image.map.voxels);
  const { content } = image.header;
  try {
    const kept = await saveDraft(image.id, tag, voxels, { based_on: basis.draft, force, label_etag: labelEtag, content, state });
    if (open.peek() === image) {
      basis.draft = kept.number;
      draftState.value = dirty ? { kind: "waiting" } : { kind: "saved", atMs: kept.updated_ts * 1000 };
    }
    void forgetHere(person.peek(), image.id, tag).catch(() => undefined);
  } catch (error) {
    dirty = true;
    if (error instanceof ApiError && error.status === 409) {
      draftState.value = { kind: "conflict" };
      onConflict(Number(error.fields["number"] ?? 0));
      return;
    }
    const savedMs = Date.now();
    await keepHere(person.peek(), image.id, tag, { voxels, content, labelEtag, basedOn: basis.draft, savedMs, state }).catch(() => undefined);
    draftState.value = { kind: "here", atMs: savedMs };
    if (!(error instanceof Unreachable)) complain(error);
  }
}

/** What is shown is what the server has, since then. */
export function noteKept(atMs: number): void {
  window.clearTimeout(timer);
  dirty = false;
  draftState.value = { kind: "saved", atMs };
}

/** Work that came from a kept draft is the server's to have. */
export function markDirty(image: OpenImage): void {
  changed(image, "restore");
}

/** The label is submitted, or the work given up: no draft any more. */
export async function dropWork(image: OpenImage, tell: boolean): Promise<void> {
  window.clearTimeout(timer);
  while (saving !== null) await saving;
  dirty = false;
  basis.draft = 0;
  draftState.value = { kind: "none" };
  await forgetHere(person.peek(), image.id, basis.tag).catch(() => undefined);
  if (tell) await dropDraft(image.id, basis.tag);
}

onRecovery(() => {
  if (dirty) void saveNow();
});

/** Before the page goes: save what waits; the browser asks if that cannot be known to arrive. */
export function guardLeaving(): void {
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden" && dirty) void saveNow();
  });
  window.addEventListener("beforeunload", (event) => {
    if (hasUnsaved()) {
      void saveNow();
      event.preventDefault();
    }
  });
}
