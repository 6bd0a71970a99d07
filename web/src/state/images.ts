/** The list of images: pages as they are scrolled to, states, who has what. */

import { batch, computed, signal } from "@preact/signals";
import { isAbort } from "../api/http";
import { listImages, myDrafts, scoreNames } from "../api/routes";
import type { ListedImage } from "../api/wire";
import { complain } from "./page";

/** Which images are listed: "" all, "unlabeled" and "labeled" by their label, others by the stage of work. */
export type StateFilter = "" | "unlabeled" | "labeled" | "draft" | "submitted" | "approved" | "returned" | "flagged";

export const listed = signal<readonly ListedImage[]>([]);
export const complete = signal(false);
export const loading = signal(false);
export const search = signal("");
export const stateFilter = signal<StateFilter>("");
export const sort = signal("id");
/** Scores that strategies and scorings left at images: what the list can be sorted by beside the name. */
export const scores = signal<readonly string[]>([]);
export const drafts = signal<ReadonlyMap<string, number>>(new Map());
/** Images that are labelled, and all; null until counted. */
export const progress = signal<{ readonly done: number; readonly all: number } | null>(null);

const PAGE = 200;
let after = "";
let stop = new AbortController();

export type RowState = "flagged" | "returned" | "approved" | "submitted" | "draft" | "open";

export function rowState(image: ListedImage, mine: ReadonlyMap<string, number>): RowState {
  const stage = image.work?.stage;
  if (stage === "flagged") return "flagged";
  if (mine.has(image.id)) return "draft";
  if (stage === "returned" || stage === "approved" || stage === "submitted") return stage;
  if (image.labels.includes("final")) return "submitted";
  return stage === "draft" ? "draft" : "open";
}

export const rows = computed<readonly ListedImage[]>(() => {
  const wanted = search.value.trim().toLowerCase();
  if (wanted === "") return listed.value;
  return listed.value.filter((image) => image.id.toLowerCase().includes(wanted) || image.name.toLowerCase().includes(wanted));
});

function query(limit: number): Record<string, string> {
  const asked: Record<string, string> = { limit: String(limit), sort: sort.peek() };
  const wanted = stateFilter.peek();
  if (wanted === "unlabeled" || wanted === "labeled") asked["state"] = wanted;
  else if (wanted !== "") asked["stage"] = wanted;
  if (after !== "") asked["after"] = after;
  return asked;
}

/** Begin the list anew. What is shown stays until the first page has come. */
export async function reloadImages(): Promise<void> {
  stop.abort();
  stop = new AbortController();
  after = "";
  const shown = listed.peek().length;
  loading.value = true;
  const { signal } = stop;
  try {
    const wanted = query(Math.min(1000, Math.max(PAGE, shown)));
    const [page, mine, names] = await Promise.all([listImages(wanted, signal), myDrafts().catch(() => []), scoreNames().catch(() => scores.peek())]);
    batch(() => {
      listed.value = page.images;
      complete.value = page.next === null;
      drafts.value = new Map(mine.map((draft) => [draft.image, draft.updated_ts]));
      scores.value = names;
      loading.value = false;
    });
    after = page.next ?? "";
  } catch (error) {
    if (isAbort(error)) return;
    loading.value = false;
    complain(error);
  }
}

/** The next page, when the end of the list is scrolled to or a search needs it. */
export async function moreImages(): Promise<void> {
  if (complete.peek() || loading.peek()) return;
  loading.value = true;
  const { signal } = stop;
  try {
    const page = await listImages(query(1000), signal);
    batch(() => {
      listed.value = [...listed.peek(), ...page.images];
      complete.value = page.next === null;
      loading.value = false;
    });
    after = page.next ?? "";
  } catch (error) {
    if (isAbort(error)) return;
    loading.value = false;
    complain(error);
  }
}

/** A search looks through everything: fetch page by page until it is all here. */
export async function searchFor(text: string): Promise<void> {
  search.value = text;
  while (search.peek() === text && text.trim() !== "" && !complete.peek()) {
    const before = listed.peek().length;
    await moreImages();
    if (listed.peek().length === before) return;
  }
}

export function changeRow(id: string, change: Partial<ListedImage>): void {
  listed.value = listed.peek().map((image) => (image.id === id ? { ...image, ...change } : image));
}

export function noteDraft(id: string, there: boolean): void {
  if (drafts.peek().has(id) === there) return;
  const next = new Map(drafts.peek());
  if (there) next.set(id, Date.now() / 1000);
  else next.delete(id);
  drafts.value = next;
}
