/**
 * The label map of the open image: the voxels, their counts, and the gesture that is changing them.
 *
 * Every change goes through a gesture, so that the counts are right and one record takes the whole gesture back.
 */

import { boundsOf, countLabels, emptyGrid, extractBox, insertBox, union } from "./boxes";
import { boxSize, voxelCount, wholeBox, type Box, type Vec3 } from "./geometry";
import type { Guard } from "./guards";
import { decodeRuns, encodeRuns, RunWriter } from "./runlength";

/** What a gesture changed: enough to take it back and to make it again. */
export interface ChangeRecord {
  readonly box: Box;
  /** Run-length coded content of the box. */
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

/** Labels that a plane shows, and how they have changed. */
export interface ShownLabels {
  readonly voxels: Uint8Array;
  /** Grows with every change. */
  readonly version: number;
  /** Holds all that changed after `version`; null if nothing did. */
  changedSince(version: number): Box | null;
}

/** Labels that do not change. */
export function unchanging(voxels: Uint8Array): ShownLabels {
  return { voxels, version: 0, changedSince: () => null };
}

/** What is drawn fits into a byte; 255 stands for "not annotated". */
export const LARGEST_VALUE = 254;

/** Changes whose boxes are remembered; whoever looks more seldom reads everything again. */
const REMEMBERED = 16;

export class LabelMap implements ShownLabels {
  readonly voxels: Uint8Array;
  readonly counts: Float64Array;
  #indices = new Uint32Array(1024);
  #old = new Uint8Array(1024);
  #changed = 0;
  /** Of the voxels the gesture changed, those that are in `#recent` already. */
  #noted = 0;
  #version = 0;
  #recent: Box[] = [];

  constructor(
    readonly dims: Vec3,
    voxels?: Uint8Array,
  ) {
    if (voxels !== undefined && voxels.length !== voxelCount(dims)) throw new RangeError("The labels do not fill the grid.");
    this.voxels = voxels ?? emptyGrid(dims);
    this.counts = voxels === undefined ? new Float64Array(256).fill(this.voxels.length, 0, 1) : countLabels(voxels);
  }

  /** Voxels changed since the gesture began. */
  get changed(): number {
    return this.#changed;
  }

  get version(): number {
    this.#noteGesture();
    return this.#version;
  }

  changedSince(version: number): Box | null {
    const missed = this.version - version;
    if (missed <= 0) return null;
    return missed > this.#recent.length ? wholeBox(this.dims) : this.#recent.slice(-missed).reduce(union);
  }

  /** Give the voxel at `index` a label, if `guard` allows it. */
  write(index: number, value: number, guard: Guard): void {
    const old = this.voxels[index]!;
    if (old === value || !guard(index, old, value)) return;
    if (this.#changed === this.#indices.length) this.#grow();
    this.#indices[this.#changed] = index;
    this.#old[this.#changed++] = old;
    this.voxels[index] = value;
    this.counts[old]!--;
    this.counts[value]!++;
  }

  /** End the gesture. Null if it changed nothing. */
  commit(): ChangeRecord | null {
    const box = boundsOf(this.#indices, this.#changed, this.dims);
    if (box === null) return null;
    this.#noteGesture();
    const content = extractBox(this.voxels, this.dims, box);
    const after = encodeRuns(content);
    const [width, height] = boxSize(box);
    for (let i = this.#changed - 1; i >= 0; i--) {
      // backwards: of a voxel that changed twice the first old value stays
      const index = this.#indices[i]!;
      const x = index % this.dims[0];
      const rest = (index - x) / this.dims[0];
      const y = rest % this.dims[1];
      const z = (rest - y) / this.dims[1];
      content[x - box.lo[0] + width * (y - box.lo[1] + height * (z - box.lo[2]))] = this.#old[i]!;
    }
    this.#forget();
    return { box, before: encodeRuns(content), after };
  }

  /** Take back what the open gesture has done. */
  abandon(): void {
    for (let i = this.#changed - 1; i >= 0; i--) {
      const index = this.#indices[i]!;
      const old = this.#old[i]!;
      this.counts[this.voxels[index]!]!--;
      this.counts[old]!++;
      this.voxels[index] = old;
    }
    this.#noted = 0;
    this.#noteGesture();
    this.#forget();
  }

  /** Put back what a record says; the record of a gesture that has ended. */
  apply(record: ChangeRecord, which: "before" | "after"): void {
    if (this.#changed !== 0) throw new Error("A gesture is open.");
    const [width, height, depth] = boxSize(record.box);
    const next = decodeRuns(record[which], width * height * depth);
    const now = extractBox(this.voxels, this.dims, record.box);
    for (let i = 0; i < now.length; i++) {
      if (now[i] === next[i]) continue;
      this.counts[now[i]!]!--;
      this.counts[next[i]!]!++;
    }
    insertBox(this.voxels, this.dims, record.box, next);
    this.#note(record.box);
  }

  /**
   * Write a whole box as one gesture.
   *
   * @param values content of the box, x fastest
   * @param mask what the author of the values had everywhere before, and afterwards has: voxels that it did not change
   *   are left alone, and where it takes back a label that is not there any more nothing is erased; null: all of
   *   `values` count
   */
  merge(box: Box, values: Uint8Array, mask: Uint8Array | null, guard: Guard): ChangeRecord | null {
    const { dims, voxels, counts } = this;
    const [width, height, depth] = boxSize(box);
    if (values.length !== width * height * depth) throw new RangeError("The values do not fill the box.");
    const before = new RunWriter();
    const after = new RunWriter();
    const steady = guard.byValue === true; // neighbours that change alike need be asked about once
    const seen = mask ?? voxels;
    let changed = false;
    for (let row = 0, i = 0; row < height * depth; row++) {
      const y = row % height;
      let at = box.lo[0] + dims[0] * (box.lo[1] + y + dims[1] * (box.lo[2] + (row - y) / height));
      for (const rowEnd = at + width; at < rowEnd; ) {
        const next = values[i]!;
        const old = voxels[at]!;
        const shown = seen[at]!;
        const run = steady ? alike(values, i, voxels, seen, at, rowEnd - at) : 1;
        const keep = old === next || (mask !== null && (shown === next || (next === 0 && old !== shown)));
        const result = !keep && guard(at, old, next) ? next : old;
        before.add(old, run);
        after.add(result, run);
        if (result !== old) {
          voxels.fill(result, at, at + run);
          counts[old]! -= run;
          counts[result]! += run;
          changed = true;
        }
        if (mask !== null && shown !== next) mask.fill(next, at, at + run);
        at += run;
        i += run;
      }
    }
    if (!changed) return null;
    this.#note(box);
    return { box, before: before.finish(), after: after.finish() };
  }

  /** Remember where the labels have just changed. */
  #note(box: Box): void {
    this.#version++;
    this.#recent.push(box);
    if (this.#recent.length > REMEMBERED) this.#recent.shift();
  }

  #noteGesture(): void {
    const box = boundsOf(this.#indices.subarray(this.#noted, this.#changed), this.#changed - this.#noted, this.dims);
    this.#noted = this.#changed;
    if (box !== null) this.#note(box);
  }

  #forget(): void {
    this.#changed = 0;
    this.#noted = 0;
    if (this.#indices.length > 1 << 20) {
      this.#indices = new Uint32Array(1024);
      this.#old = new Uint8Array(1024);
    }
  }

  #grow(): void {
    const indices = new Uint32Array(this.#indices.length * 2);
    const old = new Uint8Array(this.#old.length * 2);
    indices.set(this.#indices);
    old.set(this.#old);
    this.#indices = indices;
    this.#old = old;
  }
}

/** How many voxels in a row are like the first in all three; a function of its own, because browsers make those quick. */
function alike(values: Uint8Array, i: number, voxels: Uint8Array, seen: Uint8Array, at: number, most: number): number {
  const next = values[i];
  const old = voxels[at];
  const shown = seen[at];
  let n = 1;
  while (n < most && values[i + n] === next && voxels[at + n] === old && seen[at + n] === shown) n++;
  return n;
}
