import { describe, expect, it } from "vitest";
import { compositeSlice, fillColours } from "../src/core/composite";
import { indexOf, orientationOf, type Axis, type Vec3 } from "../src/core/geometry";
import { unchanging } from "../src/core/labelmap";
import { SliceReader } from "../src/core/slices";
import { draggedWindow, fillTable, percentileWindow, sampled, TABLE_SIZE } from "../src/core/windowing";

const DIMS: Vec3 = [4, 3, 2];

function table(center: number, width: number, slope = 1, intercept = 0): Uint8ClampedArray {
  const result = new Uint8ClampedArray(TABLE_SIZE);
  fillTable(result, { center, width }, slope, intercept);
  return result;
}

interface Pictured {
  readonly dims: Vec3;
  readonly grey: Int16Array | null;
  readonly rgb: Uint8Array | null;
  readonly labels: Uint8Array;
}

function source(): Pictured {
  return { dims: DIMS, grey: Int16Array.from({ length: 24 }, (_, i) => i), rgb: null, labels: new Uint8Array(24) };
}

function drawn(from: Pictured, axis: Axis, slice: number, colours: Uint8Array, outline = false, radiological = false): Uint32Array {
  const seen = new SliceReader(axis).read({ ...from, version: 0, labels: unchanging(from.labels) }, slice);
  const pixels = new Uint32Array(seen.width * seen.height);
  compositeSlice(pixels, seen, orientationOf(axis, radiological, from.rgb !== null), table(127.5, 255), colours, outline);
  return pixels;
}

const red = (word: number) => word & 255;
const rgb = (word: number) => [word & 255, (word >>> 8) & 255, (word >>> 16) & 255];

describe("the window table", () => {
  it("gives full white and full black", () => {
    const grey = table(40, 400);
    expect(grey[240 + 32768]).toBe(255);
    expect(grey[-160 + 32768]).toBe(0);
    expect(grey[40 + 32768]).toBe(128);
    expect(grey[-32768 + 32768]).toBe(0);
    expect(grey[32767 + 32768]).toBe(255);
  });

  it("rounds, so that the upper end is white and not almost white", () => {
    const grey = table(0.5, 1, 1 / 3000, 0);
    expect(grey[3000 + 32768]).toBe(255);
    expect(grey[2999 + 32768]).toBe(255);
    expect(grey[1500 + 32768]).toBe(128);
  });

  it("follows slope and intercept", () => {
    const scaled = table(40, 400, 0.5, -100);
    const plain = table(40, 400);
    for (const real of [-160, -50, 0, 40, 113, 240]) {
      expect(scaled[(real + 100) / 0.5 + 32768]).toBe(plain[real + 32768]);
    }
  });

  it("can be found from the values of a volume without a usual window", () => {
    const values = Int16Array.from({ length: 10000 }, (_, i) => i);
    const window = percentileWindow(sampled(values, 1000), 2, 10);
    expect(window.center - window.width / 2).toBeCloseTo(10 + 2 * 100, -2);
    expect(window.center + window.width / 2).toBeCloseTo(10 + 2 * 9900, -2);
  });

  it("becomes wider to the right and brighter upwards", () => {
    expect(draggedWindow({ center: 40, width: 256 }, 10, -5)).toEqual({ center: 35, width: 266 });
    expect(draggedWindow({ center: 40, width: 256 }, -9999, 0).width).toBeGreaterThan(0);
  });
});

describe("a composited slice", () => {
  const none = new Uint8Array(1024);

  it("shows each plane's voxels, v flipped", () => {
    const from = source();
    const axial = drawn(from, 2, 1, none);
    expect(red(axial[0]!)).toBe(indexOf(DIMS, 0, 2, 1));
    expect(red(axial[11]!)).toBe(indexOf(DIMS, 3, 0, 1));
    const coronal = drawn(from, 1, 2, none);
    expect(red(coronal[0]!)).toBe(indexOf(DIMS, 0, 2, 1));
    const sagittal = drawn(from, 0, 3, none);
    expect(red(sagittal[0]!)).toBe(indexOf(DIMS, 3, 0, 1));
    expect(red(sagittal[2]!)).toBe(indexOf(DIMS, 3, 2, 1));
  });

  it("is mirrored in the radiological convention", () => {
    const from = source();
    expect(red(drawn(from, 2, 1, none, false, true)[0]!)).toBe(indexOf(DIMS, 3, 2, 1));
  });

  it("blends a label by its alpha and leaves hidden ones out", () => {
    const from = source();
    from.labels[indexOf(DIMS, 0, 2, 0)] = 5;
    from.labels[indexOf(DIMS, 1, 2, 0)] = 6;
    const colours = new Uint8Array(1024);
    fillColours(colours, [
      { value: 5, color: [250, 100, 0], visible: true },
      { value: 6, color: [250, 100, 0], visible: false },
    ], 0.4);
    const pixels = drawn(from, 2, 0, colours);
    const grey = indexOf(DIMS, 0, 2, 0);
    const expected = [250, 100, 0].map((c) => Math.round((grey * 153 + c * 102) / 255));
    expect(rgb(pixels[0]!)).toEqual(expected);
    expect(rgb(pixels[1]!)).toEqual([9, 9, 9]);
  });

  it("draws outlines: the inside keeps a quarter of the alpha, the rim all of it", () => {
    const dims: Vec3 = [5, 5, 1];
    const from: Pictured = { dims, grey: new Int16Array(25), rgb: null, labels: new Uint8Array(25) };
    for (let y = 1; y < 4; y++) for (let x = 1; x < 4; x++) from.labels[indexOf(dims, x, y, 0)] = 1;
    const colours = new Uint8Array(1024);
    fillColours(colours, [{ value: 1, color: [200, 0, 0], visible: true }], 1);
    const pixels = drawn(from, 2, 0, colours, true);
    expect(red(pixels[6]!)).toBe(200);
    expect(red(pixels[12]!)).toBe(Math.round((200 * 63) / 255));
    from.labels.fill(1); // at the edge of the picture there is always a rim
    const full = drawn(from, 2, 0, colours, true);
    expect([0, 2, 4, 10, 14, 20, 22, 24].map((at) => red(full[at]!))).toEqual(new Array(8).fill(200));
    expect(red(full[6]!)).toBe(Math.round((200 * 63) / 255));
  });

  it("shows a picture's own colours, as stored", () => {
    const from: Pictured = { dims: [2, 1, 1], grey: null, rgb: Uint8Array.from([1, 2, 3, 4, 5, 6]), labels: new Uint8Array(2) };
    const pixels = drawn(from, 2, 0, none, false, true);
    expect(rgb(pixels[0]!)).toEqual([1, 2, 3]);
    expect(rgb(pixels[1]!)).toEqual([4, 5, 6]);
  });
});
