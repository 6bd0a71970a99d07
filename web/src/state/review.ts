/** Review: labels that wait, two revisions side by side, and what is said about them. */

import { batch, computed, signal } from "@preact/signals";
import { ApiError, getJson, idPath, sendJson, sentence } from "../api/http";
import { FINAL, labelVoxels, listImages, restoreRevision, revisions } from "../api/routes";
import type { Revision } from "../api/wire";
import { fillColours } from "../core/composite";
import { difference, DIFFERENCE_LOOKS, overlaps } from "../core/difference";
import type { Axis } from "../core/geometry";
import { OpenImage } from "./open_image";
import { beginWork, complain, offers, say } from "./page";

export interface ReviewItem {
  readonly image: string;
  readonly tag: string;
  readonly revision: number | null;
  readonly person: string;
  readonly stage: string;
  readonly submittedTs: number;
  readonly comment: string;
}

const LIST = "GET /api/v1/review";
const SAY = "POST /api/v1/images/{}/labels/{}/review";

export const canReview = () => offers(SAY);

export const items = signal<readonly ReviewItem[]>([]);
export const stage = signal("submitted");
export const author = signal("");
export const authors = signal<readonly string[]>([]);
export const chosen = signal<ReviewItem | null>(null);
export const image = signal<OpenImage | null>(null);
export const history = signal<readonly Revision[]>([]);
/** The two revisions that are shown; 0: nothing (an empty label). */
export const left = signal(0);
export const right = signal(0);
export const axis = signal<Axis>(2);
export const loadingItem = signal(false);

const held = signal<{ readonly left: Uint8Array; readonly right: Uint8Array; readonly differing: Uint8Array } | null>(null);
export const sides = computed(() => held.value);
/** Why the two revisions cannot be shown; empty if they can. */
export const unshown = signal("");
export const table = computed(() => (held.value === null ? [] : overlaps(held.value.left, held.value.right)));

export const differenceColours = new Uint8Array(1024);
fillColours(differenceColours, DIFFERENCE_LOOKS, 0.8);

export async function reloadReview(): Promise<void> {
  try {
    const found = offers(LIST) ? await fromReview() : await fromImages();
    authors.value = [...new Set([...authors.peek(), ...found.map((item) => item.person)])].filter(Boolean).sort();
    items.value = author.peek() === "" ? found : found.filter((item) => item.person === author.peek());
  } catch (error) {
    complain(error);
  }
}

interface Submission {
  readonly image: string;
  readonly tag: string;
  readonly revision: number;
  readonly person: string;
  readonly submitted_ts: number;
  readonly state: string;
  readonly review: { readonly comment: string; readonly reviewer: string } | null;
}

/** Everything that fits the filter; a study has thousands of labels at most, a page of the server a thousand. */
async function fromReview(): Promise<ReviewItem[]> {
  const found: ReviewItem[] = [];
  let after = "";
  do {
    const query = new URLSearchParams({ state: stage.peek(), person: author.peek(), after, limit: "1000" });
    const page = await getJson<{ items: readonly Submission[]; next: string | null }>(`api/v1/review?${query.toString()}`);
    for (const one of page.items) {
      found.push({ image: one.image, tag: one.tag, revision: one.revision, person: one.person, stage: one.state, submittedTs: one.submitted_ts, comment: one.review?.comment ?? "" });
    }
    after = page.next ?? "";
  } while (after !== "");
  return found;
}

/** Without a review on the server: everything that is labelled can be looked at. */
async function fromImages(): Promise<ReviewItem[]> {
  const page = await listImages({ state: "labeled", limit: "1000" });
  return page.images.map((one) => ({ image: one.id, tag: FINAL, revision: null, person: "", stage: one.work?.stage ?? "submitted", submittedTs: 0, comment: "" }));
}

export async function look(item: ReviewItem): Promise<void> {
  if (loadingItem.peek()) return;
  loadingItem.value = true;
  const task = beginWork(`Opening ${item.image}`);
  try {
    image.peek()?.close();
    held.value = null;
    unshown.value = "";
    const opened = await OpenImage.open(item.image);
    const pixels = opened.load();
    const all = await revisions(item.image, item.tag);
    batch(() => {
      chosen.value = item;
      image.value = opened;
      history.value = all;
      right.value = all[all.length - 1]?.number ?? 0;
      left.value = all[all.length - 2]?.number ?? 0;
    });
    await showSides();
    centre(opened);
    await pixels;
  } catch (error) {
    if (!(error instanceof DOMException)) complain(error);
  } finally {
    task.end();
    loadingItem.value = false;
  }
}

/** Look where most of the right label lies, so that a reviewer need not search for it. */
function centre(opened: OpenImage): void {
  const now = held.peek();
  if (now === null) return;
  const [width, height, depth] = opened.dims;
  const plane = width * height;
  let best = [0, depth >> 1] as [number, number];
  for (let z = 0; z < depth; z++) {
    let count = 0;
    for (let i = z * plane; i < (z + 1) * plane; i++) if (now.right[i] !== 0) count++;
    if (count > best[0]) best = [count, z];
  }
  opened.cursor.value = [width >> 1, height >> 1, best[1]];
}

async function sideOf(item: ReviewItem, number: number, size: number): Promise<Uint8Array> {
  if (number === 0) return new Uint8Array(size);
  return (await labelVoxels(item.image, item.tag, number))?.voxels ?? new Uint8Array(size);
}

export async function showSides(): Promise<void> {
  const item = chosen.peek();
  const opened = image.peek();
  if (item === null || opened === null) return;
  const size = opened.map.voxels.length;
  const numbers = [left.peek(), right.peek()];
  const stillAsked = () => image.peek() === opened && numbers[0] === left.peek() && numbers[1] === right.peek();
  let read: readonly Uint8Array[];
  try {
    read = await Promise.all(numbers.map((number) => sideOf(item, number, size)));
  } catch (error) {
    if (!(error instanceof ApiError)) complain(error);
    else if (stillAsked()) batch(() => { held.value = null; unshown.value = sentence(error); });
    return;
  }
  if (!stillAsked()) return;
  const [a, b] = read as [Uint8Array, Uint8Array];
  unshown.value = "";
  held.value = { left: a, right: b, differing: difference(a, b) };
  opened.edits.value = opened.edits.peek() + 1;
}

export async function decide(decision: "approve" | "return", comment: string): Promise<void> {
  const item = chosen.peek();
  if (item === null) return;
  const revision = history.peek().find((one) => one.current)?.number ?? right.peek();
  try {
    await sendJson("POST", `api/v1/images/${idPath(item.image)}/labels/${item.tag}/review`, { decision, comment, revision });
    say(decision === "approve" ? `${item.image} is approved.` : `${item.image} goes back to ${item.person || "its annotator"}.`, "good");
    await reloadReview();
    const next = items.peek().find((other) => other.image !== item.image && other.stage === "submitted");
    if (next !== undefined) await look(next);
  } catch (error) {
    complain(error);
  }
}

export async function restore(number: number): Promise<void> {
  const item = chosen.peek();
  if (item === null) return;
  try {
    await restoreRevision(item.image, item.tag, number);
    say(`Revision ${number} is current again, as a new revision.`, "good");
    history.value = await revisions(item.image, item.tag);
  } catch (error) {
    complain(error);
  }
}

/** The review is left: its memory is free for the work. */
export function leaveReview(): void {
  image.peek()?.close();
  batch(() => {
    image.value = null;
    chosen.value = null;
    held.value = null;
  });
}
