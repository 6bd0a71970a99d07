import { describe, expect, it } from "vitest";
import { AnswerMask } from "../src/core/answermask";
import { boundsOf, countLabels, extractBox, insertBox, union } from "../src/core/boxes";
import { boxVoxels, indexOf, voxelCount, voxelOf, wholeBox, type Axis, type Box, type Vec3 } from "../src/core/geometry";
import { guardOf, NO_RULES, type Guard } from "../src/core/guards";
import { History } from "../src/core/history";
import { LabelMap, unchanging } from "../src/core/labelmap";
import { decodeRuns, encodeRuns } from "../src/core/runlength";
import { SliceReader } from "../src/core/slices";

const DIMS: Vec3 = [9, 7, 5];
const ANY = guardOf(NO_RULES, null);

/** Numbers that look random and are the same each time. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function blobs(seed: number, size = voxelCount(DIMS)): Uint8Array {
  const next = numbers(seed);
  const values = new Uint8Array(size);
  for (let i = 0, value = 0; i < values.length; i++) {
    if (next() < 0.2) value = Math.floor(next() * 4);
    values[i] = value;
  }
  return values;
}

function someBox(next: () => number): Box {
  const ends = DIMS.map((size) => {
    const lo = Math.floor(next() * size);
    return [lo, lo + 1 + Math.floor(next() * (size - lo))] as const;
  });
  return { lo: ends.map(([lo]) => lo) as unknown as Vec3, hi: ends.map(([, hi]) => hi) as unknown as Vec3 };
}

/** What a merge shall do, voxel by voxel. */
function merged(labels: Uint8Array, box: Box, values: Uint8Array, mask: Uint8Array | null, guard: Guard): Uint8Array {
  const now = extractBox(labels, DIMS, box);
  const was = mask === null ? null : extractBox(mask, DIMS, box);
  const result = labels.slice();
  insertBox(result, DIMS, box, now.map((old, i) => {
    const next = values[i]!;
    if (was !== null && (was[i] === next || (next === 0 && was[i] !== old))) return old;
    return guard(0, old, next) ? next : old;
  }));
  return result;
}

describe("run-length coding", () => {
  it("gives back what it took", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const values = blobs(seed);
      expect(decodeRuns(encodeRuns(values), values.length)).toEqual(values);
    }
  });

  it("keeps a long run in a few bytes", () => {
    const values = new Uint8Array(5_000_000).fill(3);
    expect(encodeRuns(values).length).toBeLessThan(8);
    expect(Buffer.from(decodeRuns(encodeRuns(values), values.length)).equals(values)).toBe(true);
    expect(encodeRuns(new Uint8Array(0)).length).toBe(0);
  });

  it("refuses runs that do not fit", () => {
    const runs = encodeRuns(new Uint8Array(300).fill(1));
    expect(() => decodeRuns(runs, 299)).toThrow(/more values/);
    expect(() => decodeRuns(runs, 301)).toThrow(/fewer values/);
    expect(() => decodeRuns(runs.slice(0, 2), 300)).toThrow(/cut short/);
  });
});

describe("boxes", () => {
  const box: Box = { lo: [2, 1, 1], hi: [6, 5, 4] };

  it("come out and go in again", () => {
    const labels = blobs(7);
    const content = extractBox(labels, DIMS, box);
    expect(content[0]).toBe(labels[indexOf(DIMS, 2, 1, 1)]);
    expect(content[content.length - 1]).toBe(labels[indexOf(DIMS, 5, 4, 3)]);
    const copy = labels.slice();
    insertBox(copy, DIMS, box, new Uint8Array(content.length).fill(9));
    expect(copy.filter((value) => value === 9).length).toBe(content.length);
    insertBox(copy, DIMS, box, content);
    expect(copy).toEqual(labels);
  });

  it("have bounds and unions", () => {
    const indices = Uint32Array.from([indexOf(DIMS, 3, 2, 1), indexOf(DIMS, 1, 6, 4), 0]);
    expect(boundsOf(indices, 2, DIMS)).toEqual({ lo: [1, 2, 1], hi: [4, 7, 5] });
    expect(boundsOf(indices, 0, DIMS)).toBeNull();
    expect(union(box, { lo: [0, 3, 2], hi: [3, 7, 3] })).toEqual({ lo: [0, 1, 1], hi: [6, 7, 4] });
  });
});

describe("a label map", () => {
  it("keeps its counts right through gestures, undo and redo", () => {
    const map = new LabelMap(DIMS, blobs(3));
    const history = new History();
    const next = numbers(11);
    const states = [map.voxels.slice()];
    for (let gesture = 0; gesture < 12; gesture++) {
      const value = Math.floor(next() * 4);
      for (let i = 0; i < 20; i++) map.write(Math.floor(next() * map.voxels.length), value, ANY);
      const change = map.commit();
      expect(change).not.toBeNull();
      history.push({ kind: "paint", change });
      states.push(map.voxels.slice());
      expect(map.counts).toEqual(countLabels(map.voxels));
    }
    for (let i = states.length - 2; i >= 0; i--) {
      map.apply(history.undo()!.change!, "before");
      expect(map.voxels).toEqual(states[i]);
      expect(map.counts).toEqual(countLabels(map.voxels));
    }
    expect(history.canUndo).toBe(false);
    for (let i = 1; i < states.length; i++) {
      map.apply(history.redo()!.change!, "after");
      expect(map.voxels).toEqual(states[i]);
    }
    expect(history.canRedo).toBe(false);
  });

  it("records a voxel that a gesture changed twice with what was there first", () => {
    const map = new LabelMap(DIMS, blobs(5));
    const before = map.voxels.slice();
    map.write(30, 7, ANY);
    map.write(30, 8, ANY);
    map.write(31, 8, ANY);
    map.apply(map.commit()!, "before");
    expect(map.voxels).toEqual(before);
  });

  it("forgets a gesture that is abandoned", () => {
    const map = new LabelMap(DIMS, blobs(6));
    const before = map.voxels.slice();
    for (let i = 0; i < 3000; i++) map.write((i * 7) % before.length, i % 5, ANY);
    map.abandon();
    expect(map.voxels).toEqual(before);
    expect(map.counts).toEqual(countLabels(before));
    expect(map.commit()).toBeNull();
  });

  it("says that nothing changed when nothing changed", () => {
    const map = new LabelMap(DIMS);
    map.write(4, 0, ANY);
    expect(map.commit()).toBeNull();
    expect(map.merge({ lo: [0, 0, 0], hi: [2, 2, 2] }, new Uint8Array(8), null, ANY)).toBeNull();
  });

  it("merges a model's box as one change that undo takes back", () => {
    const map = new LabelMap(DIMS, blobs(8));
    const before = map.voxels.slice();
    const box: Box = { lo: [1, 1, 1], hi: [5, 5, 4] };
    const values = new Uint8Array(4 * 4 * 3).fill(2);
    const change = map.merge(box, values, null, ANY)!;
    expect(extractBox(map.voxels, DIMS, box)).toEqual(values);
    expect(map.counts).toEqual(countLabels(map.voxels));
    map.apply(change, "before");
    expect(map.voxels).toEqual(before);
    map.apply(change, "after");
    expect(extractBox(map.voxels, DIMS, box)).toEqual(values);
  });

  it("leaves hand-drawn voxels alone that the model did not change", () => {
    const map = new LabelMap([4, 1, 1]);
    map.write(0, 5, ANY);
    map.write(3, 5, ANY);
    map.commit();
    const previous = Uint8Array.from([1, 0, 0, 0]);
    const answer = Uint8Array.from([1, 1, 0, 1]);
    map.merge({ lo: [0, 0, 0], hi: [4, 1, 1] }, answer, previous, ANY);
    expect([...map.voxels]).toEqual([5, 1, 0, 1]);
    expect(previous).toEqual(answer);
  });

  it("merges in one pass what voxel by voxel it should, and keeps the author's mask", () => {
    const locked = guardOf({ ...NO_RULES, locked: new Set([2]) }, null);
    for (let seed = 1; seed <= 200; seed++) {
      const next = numbers(seed);
      const box = someBox(next);
      const values = blobs(seed + 1000, boxVoxels(box));
      const mask = seed % 4 === 0 ? null : blobs(seed + 2000);
      const guard = seed % 3 === 0 ? locked : seed % 3 === 1 ? ANY : Object.assign((...of: [number, number, number]) => ANY(...of));
      const map = new LabelMap(DIMS, blobs(seed));
      const before = map.voxels.slice();
      const expected = merged(before, box, values, mask, guard);
      const maskAfter = mask?.slice();
      if (maskAfter !== undefined) insertBox(maskAfter, DIMS, box, values);
      const change = map.merge(box, values, mask, guard);
      expect(map.voxels).toEqual(expected);
      expect(map.counts).toEqual(countLabels(expected));
      if (maskAfter !== undefined) expect(mask).toEqual(maskAfter);
      expect(change === null).toBe(expected.every((value, i) => value === before[i]));
      if (change !== null) map.apply(change, "before");
      expect(map.voxels).toEqual(before);
    }
  });

  it("does not erase another label where the model takes its own back", () => {
    const map = new LabelMap([3, 1, 1], Uint8Array.from([1, 5, 1]));
    map.merge({ lo: [0, 0, 0], hi: [3, 1, 1] }, new Uint8Array(3), Uint8Array.from([1, 1, 0]), ANY);
    expect([...map.voxels]).toEqual([0, 5, 1]);
  });
});

describe("the mask of a model's answers", () => {
  it("is what the answers say, boxes and whole ones in any order", () => {
    for (let seed = 1; seed <= 60; seed++) {
      const next = numbers(seed);
      const mask = new AnswerMask(DIMS);
      const map = new LabelMap(DIMS);
      const plain = new Uint8Array(voxelCount(DIMS));
      for (let answer = 0; answer < 8; answer++) {
        const box = next() < 0.2 ? { lo: [0, 0, 0], hi: [0, 0, 0] } as Box : someBox(next);
        const voxels = blobs(seed * 100 + answer, boxVoxels(box));
        const whole = next() < 0.4;
        if (whole) plain.fill(0);
        insertBox(plain, DIMS, box, voxels);
        if (next() < 0.5) {
          mask.take({ box, voxels }, whole);
          insertBox(map.voxels, DIMS, wholeBox(DIMS), mask.voxels);
        } else {
          const write = mask.next({ box, voxels }, whole);
          if (write !== null) map.merge(write.box, write.voxels, mask.voxels, ANY);
        }
        expect(mask.voxels).toEqual(plain);
        expect(map.voxels).toEqual(plain);
      }
    }
  });
});

describe("a plane's slice", () => {
  it("is the volume's, whatever changed since it was read", () => {
    const grey = Int16Array.from({ length: voxelCount(DIMS) }, (_, i) => i * 7 - 900);
    for (const axis of [0, 1, 2] as const) {
      const reader = new SliceReader(axis);
      const map = new LabelMap(DIMS, blobs(4));
      const history = new History();
      const next = numbers(axis + 5);
      let slice = 2;
      let version = 0;
      for (let round = 0; round < 300; round++) {
        const many = next() < 0.1 ? 40 : 1; // more changes than are remembered
        for (let change = 0; change < many; change++) oneChange(map, history, next);
        if (next() < 0.1) slice = Math.floor(next() * DIMS[axis]);
        if (next() < 0.1) {
          grey[Math.floor(next() * grey.length)] = round;
          version++;
        }
        const shown = next() < 0.1 ? unchanging(blobs(round)) : map;
        const seen = reader.read({ dims: DIMS, grey, rgb: null, version, labels: shown }, slice);
        expect(seen.labels).toEqual(plainSlice(shown.voxels, axis, slice));
        expect(seen.grey).toEqual(plainSlice(grey, axis, slice));
      }
    }
  });

  it("has the colours of a picture", () => {
    const rgb = Uint8Array.from({ length: 3 * voxelCount(DIMS) }, (_, i) => i % 251);
    const labels = unchanging(blobs(1));
    const { rgb: seen, width } = new SliceReader(0).read({ dims: DIMS, grey: null, rgb, version: 0, labels }, 3);
    const at = 3 * indexOf(DIMS, 3, 4, 2);
    expect([...seen!.subarray(3 * (4 + 2 * width), 3 * (5 + 2 * width))]).toEqual([...rgb.subarray(at, at + 3)]);
  });
});

function oneChange(map: LabelMap, history: History, next: () => number): void {
  const what = next();
  if (what < 0.5) {
    map.write(Math.floor(next() * map.voxels.length), Math.floor(next() * 4), ANY);
  } else if (what < 0.6) {
    map.abandon();
  } else {
    const change = map.commit();
    if (change !== null) history.push({ kind: "paint", change });
    const entry = what < 0.7 ? history.undo() : what < 0.8 ? history.redo() : undefined;
    if (entry !== undefined) map.apply(entry.change!, what < 0.7 ? "before" : "after");
    const box = someBox(next);
    const answer = what > 0.9 ? map.merge(box, blobs(Math.floor(next() * 1e6), boxVoxels(box)), null, ANY) : null;
    if (answer !== null) history.push({ kind: "model", change: answer });
  }
}

function plainSlice<T extends Uint8Array | Int16Array>(volume: T, axis: Axis, slice: number): T {
  return volume.filter((_, index) => voxelOf(DIMS, index)[axis] === slice) as T;
}

describe("guards", () => {
  const grey = Int16Array.from({ length: voxelCount(DIMS) }, (_, i) => i);

  it("protect locked labels, both ways", () => {
    const guard = guardOf({ ...NO_RULES, locked: new Set([2]) }, null);
    const map = new LabelMap(DIMS, blobs(9));
    const kept = map.counts[2];
    for (let i = 0; i < map.voxels.length; i++) map.write(i, 1, guard);
    expect(map.counts[2]).toBe(kept);
    for (let i = 0; i < map.voxels.length; i++) map.write(i, 2, guard);
    expect(map.counts[2]).toBe(kept);
  });

  it("paint only what is empty, and still erase", () => {
    const guard = guardOf({ ...NO_RULES, onlyEmpty: true }, null);
    expect(guard(0, 0, 1)).toBe(true);
    expect(guard(0, 3, 1)).toBe(false);
    expect(guard(0, 3, 0)).toBe(true);
  });

  it("paint only a range of intensities, and erase everywhere", () => {
    const guard = guardOf({ ...NO_RULES, range: [10, 20] }, grey);
    expect([9, 10, 20, 21].map((index) => guard(index, 0, 1))).toEqual([false, true, true, false]);
    expect(guard(300, 1, 0)).toBe(true);
  });
});

describe("the history", () => {
  it("forgets what was undone once something new is done", () => {
    const history = new History<string>();
    history.push({ kind: "paint", change: null, note: "a" });
    history.push({ kind: "model", change: null, note: "b" });
    expect(history.undo()?.note).toBe("b");
    history.push({ kind: "fill", change: null, note: "c" });
    expect(history.canRedo).toBe(false);
    expect(history.last?.note).toBe("c");
    expect([history.undo()?.note, history.undo()?.note, history.undo()]).toEqual(["c", "a", undefined]);
    expect(history.next?.note).toBe("a");
  });

  it("lets the oldest go when it is full, never the last one", () => {
    const change = { box: { lo: [0, 0, 0], hi: [1, 1, 1] } as Box, before: new Uint8Array(400), after: new Uint8Array(400) };
    const history = new History<number>(2000);
    for (let i = 0; i < 5; i++) history.push({ kind: "paint", change, note: i });
    expect(history.undo()?.note).toBe(4);
    expect(history.undo()?.note).toBe(3);
    expect(history.undo()).toBeUndefined();
    const small = new History<number>(10);
    small.push({ kind: "paint", change, note: 1 });
    expect(small.canUndo).toBe(true);
  });
});
