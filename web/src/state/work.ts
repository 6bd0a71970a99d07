/** The way of an image through the page: next, open, submit, skip, flag; and what happens when two people meet. */

import { batch, effect, signal } from "@preact/signals";
import { gunzipped } from "../api/gzip";
import { ApiError } from "../api/http";
import { draftVoxels, FINAL, flagImage, getSchema, imageRecord, labelVoxels, myDrafts, restoreRevision, revisions, saveLabel, unflagImage } from "../api/routes";
import type { Revision } from "../api/wire";
import type { Vec3 } from "../core/geometry";
import { ANYTHING } from "../core/guards";
import { cornersIn } from "../core/region";
import { noteSign, tellSigns } from "./activity";
import { basis, beginDrafting, draftState, dropWork, markDirty, noteKept, onDraftConflict, saveNow, type Basis } from "./drafting";
import { canEdit, changed, isDrawing, maximised, onChange, open, touch } from "./editor";
import { changeRow, listed, noteDraft, reloadImages } from "./images";
import { active, labels } from "./labels";
import { keptHere } from "./keeping";
import { OpenImage } from "./open_image";
import { beginWork, complain, info, person, say, schema, view, type View } from "./page";
import { choices, leaveSession, modelUsed, runAutomatic } from "./prompting";
import { giveBack, lease, nextFromQueue, skipLease, type Chosen } from "./queue";
import { settings } from "./settings";

/** What stands under the image's name: why it was chosen. */
export const why = signal("");
export const opening = signal<string | null>(null);
/** Somebody else's label that met ours at submit. */
export interface Meeting {
  readonly theirs: Uint8Array;
  readonly revision: Revision | null;
  readonly etag: string;
}

export const meeting = signal<Meeting | null>(null);
export const submitting = signal(false);
/** Why there is no next image; "" when there may be one. */
export const exhausted = signal("");

/** What the open image's label says was looked at, if that is not everything: ids of labels (null: all), and a part or not. */
export const lookedAt = signal<{ readonly labels: readonly string[] | null; readonly part: boolean } | null>(null);
/** The person says that everything was looked at: what is empty is empty. */
export const lookedAtAll = signal(false);

let activeMs = 0;
let lastActMs = 0;
/** What was asked for while another image was being opened. */
let instead: { readonly id: string; readonly chosenBy: Chosen | null } | null = null;

/** Longest pause that still counts as work. */
const PAUSE_MS = 30000;

export function noteActivity(): void {
  const now = Date.now();
  if (now - lastActMs < PAUSE_MS) activeMs += now - lastActMs;
  lastActMs = now;
}

// ---------------------------------------------------------------- open

/** Open an image. While another one is being opened that is given up, and the one asked for last comes. */
export async function openImage(id: string, chosenBy: Chosen | null = null): Promise<void> {
  if (opening.peek() !== null) {
    instead = opening.peek() === id ? null : { id, chosenBy };
    if (instead !== null && open.peek()?.id === opening.peek()) open.peek()?.close();
    return;
  }
  for (let next: typeof instead = { id, chosenBy }; next !== null; next = instead) {
    instead = null;
    await bring(next.id, next.chosenBy);
  }
}

async function bring(id: string, chosenBy: Chosen | null): Promise<void> {
  opening.value = id;
  const task = beginWork(`Opening ${id}`);
  try {
    await leaveImage();
    if (chosenBy === null) await giveBack();
    why.value = chosenBy?.reason ?? "";
    const tag = chosenBy?.tag ?? FINAL;
    const image = await OpenImage.open(id);
    if (instead !== null) return;
    const pixels = image.load();
    showPart(image);
    open.value = image;
    noteSign("open");
    lastActMs = Date.now();
    activeMs = 0;
    location.hash = `#/images/${encodeURIComponent(id)}`;
    task.progress(0.1);
    const stopFollowing = effect(() => task.progress(0.1 + 0.9 * image.loaded.value));
    try {
      const labelled = bringLabels(image, tag).catch((error: unknown) => {
        if (open.peek() === image) {
          closeImage(); // an empty map in place of its label must not be drawn on
          location.hash = "#/images";
        }
        throw error;
      });
      await Promise.all([labelled, pixels]);
    } finally {
      stopFollowing();
    }
    if (settings.peek().runOnOpen && image.map.voxels.every((value) => value === 0)) {
      const automatic = choices.peek().find((model) => model.prompts === null);
      if (automatic !== undefined) await runAutomatic(automatic);
    }
  } catch (error) {
    if (!(error instanceof DOMException)) complain(error);
  } finally {
    task.end();
    opening.value = null;
  }}

/** Begin where the strategy wants something drawn. */
function showPart(image: OpenImage): void {
  const [part] = lease.peek()?.image === image.id ? lease.peek()!.parts : [];
  const corners = part === undefined ? null : cornersIn(part, image.dims);
  if (corners !== null) image.cursor.value = corners[0].map((n, i) => (n + corners[1][i]!) >> 1) as unknown as Vec3;
}

/** Label or draft of the image, whichever the person worked on last. */
async function bringLabels(image: OpenImage, tag: string): Promise<void> {
  const [record, mine] = await Promise.all([imageRecord(image.id), myDrafts()]);
  const others = (record.work?.holders ?? []).filter((holder) => holder !== person.peek());
  if (others.length > 0) say(`${others.join(", ")} has this image now. Whatever you submit is kept beside theirs.`);
  const hasDraft = mine.some((known) => known.image === image.id && known.tag === tag);
  const [label, draft, here] = await Promise.all([
    record.labels.includes(tag) ? labelVoxels(image.id, tag) : null,
    !hasDraft ? null : draftVoxels(image.id, tag).catch((error: unknown) => {
      if (error instanceof ApiError && error.status === 409) say(`Your draft of ${image.id} belongs to other pixels: the image was replaced. It is left alone.`, "bad");
      else throw error;
      return null;
    }),
    keptHere(person.peek(), image.id, tag).catch(() => undefined),
  ]);
  if (open.peek() !== image) return;
  noteLookedAt(label?.info.annotated_labels ?? null, label?.info.annotated_part ?? false);
  const from: Basis = { tag, labelEtag: label?.info.etag ?? null, draft: draft?.info.number ?? 0 };
  const isNewerHere = here !== undefined && here.content === image.header.content && here.savedMs > (draft?.info.updated_ts ?? 0) * 1000;
  if (label !== null && draft === null && !isNewerHere) image.replaceLabels(label.voxels);
  if (draft !== null && !isNewerHere) {
    image.replaceLabels(draft.voxels);
    from.labelEtag = draft.info.label_etag;
    restoreState(image, draft.info.state);
    if (draft.info.label_etag !== (label?.info.etag ?? null)) say("Somebody submitted this image after you began your draft. You will be asked when you submit.");
    else say("Your draft is back.", "good");
  }
  const kept = isNewerHere ? await gunzipped(here.voxels) : null;
  if (open.peek() !== image) return;
  beginDrafting(from, draft === null ? null : draft.info.updated_ts * 1000);
  image.labelled.value = true;
  if (kept !== null && isNewerHere) {
    image.replaceLabels(kept);
    basis.labelEtag = here.labelEtag;
    restoreState(image, here.state);
    markDirty(image);
    say("What the server had not received yet is back.", "good");
  }
}

function noteLookedAt(ids: readonly string[] | null, part: boolean): void {
  lookedAtAll.value = false;
  lookedAt.value = ids === null && !part ? null : { labels: ids, part };
}

function restoreState(image: OpenImage, state: Readonly<Record<string, unknown>> | undefined): void {
  const cursor = state?.["cursor"];
  if (Array.isArray(cursor) && cursor.length === 3 && cursor.every((n) => typeof n === "number")) image.cursor.value = cursor as [number, number, number];
  const value = state?.["active"];
  if (typeof value === "number" && labels.peek().some((label) => label.value === value)) active.value = value;
}

/** Put the open image away; its draft is on its way first. */
async function leaveImage(): Promise<void> {
  await saveNow();
  leaveSession();
  closeImage();
}

function closeImage(): void {
  open.peek()?.close();
  batch(() => {
    meeting.value = null;
    maximised.value = null;
    lookedAt.value = null;
    lookedAtAll.value = false;
    open.value = null;
  });
}

// ---------------------------------------------------------------- next, skip, flag

export async function openNext(): Promise<void> {
  if (opening.peek() !== null) return;
  const task = beginWork("Choosing the next image");
  try {
    await saveNow();
    const next = await nextFromQueue(settings.peek().strategy, open.peek()?.id ?? null);
    if (next.image === null) {
      exhausted.value = next.reason;
      say(next.reason);
      return;
    }
    exhausted.value = "";
    task.end();
    await openImage(next.image, next);
  } catch (error) {
    complain(error);
  } finally {
    task.end();
  }
}

export async function skip(reason: string): Promise<void> {
  const image = open.peek();
  if (image === null) return;
  try {
    await saveNow();
    await skipLease(image.id, reason);
    say(`${image.id} is skipped.`);
    await openNext();
  } catch (error) {
    complain(error);
  }
}

export async function flag(reason: string): Promise<void> {
  const image = open.peek();
  if (image === null) return;
  try {
    changeRow(image.id, await flagImage(image.id, reason));
    say(`${image.id} is flagged: ${reason}`, "good", { text: "Undo", run: () => void unflag(image.id) });
  } catch (error) {
    complain(error);
  }
}

export async function unflag(id: string): Promise<void> {
  try {
    changeRow(id, await unflagImage(id));
  } catch (error) {
    complain(error);
  }
}

// ---------------------------------------------------------------- submit

function describeWork(): { source: "hand" | "prompts" | "model"; model?: string; model_version?: string } {
  const used = modelUsed.peek();
  if (used === null) return { source: "hand" };
  return { source: used.prompted ? "prompts" : "model", model: used.name, model_version: used.version };
}

/** @param onTop of somebody's label that is not in this one */
export async function submit(onTop = false): Promise<void> {
  const image = open.peek();
  if (image === null || submitting.peek() || isDrawing() || !canEdit.peek()) return;
  noteActivity();
  submitting.value = true;
  const task = beginWork(`Submitting ${image.id}`);
  try {
    await saveNow();
    await tellSigns();
    const draft = basis.draft > 0 ? { draft: basis.draft } : {};
    const saved = await saveLabel(image.id, basis.tag, image.map.voxels, basis.labelEtag, { ...describeWork(), ...draft, ...leaseNote(), active_seconds: Math.round(activeMs / 1000) }, annotatedPart(!onTop));
    await accepted(image, saved);
  } catch (error) {
    if (error instanceof ApiError && error.status === 412) await meet(image).catch(complain);
    else complain(error);
  } finally {
    task.end();
    submitting.value = false;
  }
}

function leaseNote(): Record<string, unknown> {
  const held = lease.peek();
  return held === null ? {} : { lease: held.id };
}

/**
 * Who draws some labels alone says so: the others of this image count as not looked at, or as what they were. Without a
 * word the server adds what was changed to what the label said before.
 */
function annotatedPart(adds: boolean): { labels?: string[]; region: { kind: "whole" }; adds?: boolean } | undefined {
  if (lookedAtAll.peek()) return { region: { kind: "whole" } };
  const names = lease.peek()?.labels ?? [];
  if (names.length === 0) return undefined;
  const ids = (schema.peek()?.labels ?? []).filter((label) => names.includes(label.name)).map((label) => label.id);
  return { labels: ids, region: { kind: "whole" }, adds };
}

async function accepted(image: OpenImage, saved: Revision): Promise<void> {
  meeting.value = null;
  await dropWork(image, false);
  basis.labelEtag = saved.etag;
  noteLookedAt(saved.annotated.labels, saved.annotated.region.kind !== "whole");
  noteDraft(image.id, false);
  lease.value = null;
  const row = listed.peek().find((listedImage) => listedImage.id === image.id);
  changeRow(image.id, { labels: [...new Set([...(row?.labels ?? []), saved.tag])] });
  const { parent } = saved;
  const action = parent === null ? undefined : { text: "Undo", run: () => void takeBack(image, saved.tag, parent) };
  say(`${image.id} is submitted as revision ${saved.number}.`, "good", action);
  void reloadImages();
  if (schema.peek()?.version !== undefined) schema.value = await getSchema().catch(() => schema.peek());
  if (settings.peek().nextAfterSubmit) await openNext();
}

async function takeBack(image: OpenImage, tag: string, number: number): Promise<void> {
  try {
    const restored = await restoreRevision(image.id, tag, number);
    if (open.peek() === image) basis.labelEtag = restored.etag;
    say(`Revision ${number} of ${image.id} is current again; what you submitted stays in its history.`, "good");
  } catch (error) {
    complain(error);
  }
}

// ---------------------------------------------------------------- two people, one image

async function meet(image: OpenImage): Promise<void> {
  const [label, all] = await Promise.all([labelVoxels(image.id, basis.tag), revisions(image.id, basis.tag).catch(() => [])]);
  if (label === null) {
    basis.labelEtag = null; // the other's label was removed since: nothing is in the way
    say("The label that was in the way is gone. Submit again.");
    return;
  }
  await saveNow(true);
  meeting.value = { theirs: label.voxels, revision: all.find((r) => r.number === label.info.revision) ?? null, etag: label.info.etag };
}

/** Submit ours on top of theirs; theirs stays as the revision before. */
export async function keepMine(): Promise<void> {
  const met = meeting.peek();
  if (met === null) return;
  basis.labelEtag = met.etag;
  await submit(true);
}

/** Submit theirs with the labels in it that this person draws. Theirs of the same names give way. */
export async function joinBoth(): Promise<void> {
  const met = meeting.peek();
  const image = open.peek();
  const names = lease.peek()?.labels ?? [];
  if (met === null || image === null) return;
  const mine = new Set(labels.peek().filter((label) => names.includes(label.name)).map((label) => label.value));
  const joined = met.theirs.slice();
  image.map.voxels.forEach((value, i) => {
    if (mine.has(value)) joined[i] = value;
    else if (mine.has(joined[i]!)) joined[i] = 0;
  });
  const change = image.map.merge({ lo: [0, 0, 0], hi: image.dims }, joined, null, ANYTHING);
  basis.labelEtag = met.etag;
  meeting.value = null;
  if (change !== null) {
    image.history.push({ kind: "load", change });
    changed(image, "restore");
  }
  await submit();
}

/** Go on with theirs. Ours stays the draft until something is drawn again, and undo brings it back before that. */
export async function takeTheirs(): Promise<void> {
  const met = meeting.peek();
  const image = open.peek();
  if (met === null || image === null) return;
  const { dims } = image;
  const change = image.map.merge({ lo: [0, 0, 0], hi: dims }, met.theirs, null, ANYTHING);
  basis.labelEtag = met.etag;
  meeting.value = null;
  if (change !== null) {
    image.history.push({ kind: "load", change });
    touch(image);
  }
  say("You see their label now. Undo brings yours back.", "good");
}

onDraftConflict((number) => {
  draftConflict.value = number;
});

export const draftConflict = signal(0);

/** This window's drawing is the draft from now on. */
export async function keepThisDraft(): Promise<void> {
  basis.draft = draftConflict.peek();
  draftConflict.value = 0;
  draftState.value = { kind: "waiting" };
  await saveNow(true);
}

/** Bring in the draft of the other window, as one step that undo takes back. */
export async function takeOtherDraft(): Promise<void> {
  const image = open.peek();
  draftConflict.value = 0;
  if (image === null) return;
  try {
    const other = await draftVoxels(image.id, basis.tag);
    if (other === null) return keepThisDraft();
    const change = image.map.merge({ lo: [0, 0, 0], hi: image.dims }, other.voxels, null, ANYTHING);
    basis.draft = other.info.number;
    basis.labelEtag = other.info.label_etag;
    if (change !== null) image.history.push({ kind: "load", change });
    touch(image);
    noteKept(other.info.updated_ts * 1000);
  } catch (error) {
    complain(error);
  }
}

onChange(() => {
  noteActivity();
  const image = open.peek();
  if (image !== null) noteDraft(image.id, true);
});

const PLACES: Readonly<Record<string, View>> = { images: "work", models: "models", review: "review" };

/** Follow the address: #/images/ID, #/models, #/review. */
export async function followAddress(): Promise<void> {
  const [, place = "", id = ""] = location.hash.split("/");
  const next = PLACES[place];
  if (next === undefined) return;
  view.value = next;
  const wanted = decodeURIComponent(id);
  if (next === "work" && wanted !== "" && open.peek()?.id !== wanted && opening.peek() !== wanted && info.peek() !== null) await openImage(wanted);
}
