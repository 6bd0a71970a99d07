/** One history for hand and model: each entry is one gesture or one answer, and can be taken back and made again. */

import type { ChangeRecord } from "./labelmap";

/** What made a change; shown in the undo button. */
export type ChangeKind = "paint" | "erase" | "fill" | "interpolate" | "model" | "clear" | "load" | "restore";

export interface HistoryEntry<Note = unknown> {
  readonly kind: ChangeKind;
  /** Null for an entry that changed no voxel but has a note, such as a prompt without an answer. */
  readonly change: ChangeRecord | null;
  readonly note?: Note;
}

/** Bytes kept; beyond it the oldest entries go. */
export const MAX_HISTORY_BYTES = 64 * 2 ** 20;

export class History<Note = unknown> {
  #done: HistoryEntry<Note>[] = [];
  #undone: HistoryEntry<Note>[] = [];
  #bytes = 0;

  constructor(readonly maxBytes = MAX_HISTORY_BYTES) {}

  get canUndo(): boolean {
    return this.#done.length > 0;
  }

  get canRedo(): boolean {
    return this.#undone.length > 0;
  }

  /** What undo would take back. */
  get last(): HistoryEntry<Note> | undefined {
    return this.#done[this.#done.length - 1];
  }

  /** What redo would make again. */
  get next(): HistoryEntry<Note> | undefined {
    return this.#undone[this.#undone.length - 1];
  }

  push(entry: HistoryEntry<Note>): void {
    for (const lost of this.#undone) this.#bytes -= sizeOf(lost);
    this.#undone = [];
    this.#done.push(entry);
    this.#bytes += sizeOf(entry);
    while (this.#bytes > this.maxBytes && this.#done.length > 1) this.#bytes -= sizeOf(this.#done.shift()!);
  }

  /** Moves the last entry to the undone ones. The caller applies its `before`. */
  undo(): HistoryEntry<Note> | undefined {
    const entry = this.#done.pop();
    if (entry !== undefined) this.#undone.push(entry);
    return entry;
  }

  /** The inverse of `undo`. The caller applies its `after`. */
  redo(): HistoryEntry<Note> | undefined {
    const entry = this.#undone.pop();
    if (entry !== undefined) this.#done.push(entry);
    return entry;
  }

  clear(): void {
    this.#done = [];
    this.#undone = [];
    this.#bytes = 0;
  }
}

function sizeOf(entry: HistoryEntry): number {
  return entry.change === null ? 64 : 64 + entry.change.before.length + entry.change.after.length;
}
