import { describe, expect, it } from "vitest";
import { slabOrder } from "../src/api/volumes";
import { boundsOfValues, maskOf, packedBits } from "../src/core/bits";
import { difference, ONLY_FIRST, ONLY_SECOND, OTHER_LABEL, overlaps } from "../src/core/difference";
import { indexOf, type Vec3 } from "../src/core/geometry";
import { replacement } from "../src/core/replacing";
import { metricName, seriesOf } from "../src/state/training";
import { bodyOf, placed } from "../src/state/placed";

const DIMS: Vec3 = [6, 5, 4];

function labelled(...voxels: readonly [number, number, number, number][]): Uint8Array {
  const labels = new Uint8Array(120);
  for (const [x, y, z, value] of voxels) labels[indexOf(DIMS, x, y, z)] = value;
  return labels;
}

describe("the answer of an automatic model", () => {
  it("replaces its own labels everywhere and leaves others where it has nothing", () => {
    const labels = labelled([0, 0, 0, 1], [5, 4, 3, 2], [2, 2, 2, 2]);
    const box = { lo: [2, 2, 2], hi: [4, 3, 3] } as const;
    const next = replacement(labels, DIMS, box, Uint8Array.from([1, 0]), new Set([1]))!;
    expect(next.box).toEqual({ lo: [0, 0, 0], hi: [4, 3, 3] });
    const at = (x: number, y: number, z: number) => next.values[x + 4 * (y + 3 * z)];
    expect([at(0, 0, 0), at(2, 2, 2), at(3, 2, 2)]).toEqual([0, 1, 0]);
  });

  it("that is empty takes its labels away, and says so when there is nothing to take", () => {
    const none = { lo: [0, 0, 0], hi: [0, 0, 0] } as const;
    const next = replacement(labelled([1, 1, 1, 1], [3, 1, 1, 2]), DIMS, none, new Uint8Array(0), new Set([1]))!;
    expect(next).toEqual({ box: { lo: [1, 1, 1], hi: [2, 2, 2] }, values: Uint8Array.from([0]) });
    expect(replacement(labelled([3, 1, 1, 2]), DIMS, none, new Uint8Array(0), new Set([1]))).toBeNull();
  });
});

describe("masks in prompts", () => {
  it("are bits, x fastest, the first in the lowest", () => {
    const bytes = (text: string) => [...atob(text)].map((c) => c.charCodeAt(0));
    expect(bytes(packedBits(Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 1, 0, 1])))).toEqual([0b10000001, 0b10]);
  });

  it("hold the label's bounds", () => {
    const labels = labelled([1, 2, 1, 3], [4, 2, 2, 3], [0, 0, 0, 7]);
    expect(boundsOfValues(labels, DIMS, new Set([9]))).toBeNull();
    expect(boundsOfValues(labels, DIMS, new Set([3]))).toEqual({ lo: [1, 2, 1], hi: [5, 3, 3] });
    expect(maskOf(labels, DIMS, 3)).toEqual({ lo: [1, 2, 1], shape: [4, 1, 2], bits: btoa(String.fromCharCode(0b10000001)) });
    expect(maskOf(labels, DIMS, 9)).toBeNull();
  });

  it("are whole voxels for points and boxes", () => {
    expect(bodyOf(placed("point", 2, 1, "liver", false, [[1.4, 2.6, 3]]))).toEqual({ kind: "point", label: "liver", positive: false, points: [[1, 3, 3]] });
    expect(bodyOf(placed("scribble", 2, 1, "liver", true, [[1.44, 2.66, 3]])).points).toEqual([[1.4, 2.7, 3]]);
  });
});

describe("two labels", () => {
  const first = Uint8Array.from([0, 1, 1, 0, 2]);
  const second = Uint8Array.from([0, 1, 0, 2, 1]);

  it("differ where they differ", () => {
    expect([...difference(first, second)]).toEqual([0, 0, ONLY_FIRST, ONLY_SECOND, OTHER_LABEL]);
    expect(() => difference(first, new Uint8Array(4))).toThrow(RangeError);
  });

  it("overlap by Dice", () => {
    expect(overlaps(first, second)).toEqual([
      { value: 1, first: 2, second: 2, dice: 0.5 },
      { value: 2, first: 1, second: 1, dice: 0 },
    ]);
  });
});

describe("loading an image", () => {
  it("asks for the middle slice first, then for each slab once, outwards", () => {
    const order = slabOrder(50, 8);
    expect(order[0]).toEqual([25, 26]);
    expect(order[1]).toEqual([24, 32]);
    const seen = order.slice(1).flatMap(([z0, z1]) => Array.from({ length: z1 - z0 }, (_, i) => z0 + i)).sort((a, b) => a - b);
    expect(seen).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(slabOrder(1, 8)).toEqual([[0, 1]]);
  });
});

describe("the curve of a training", () => {
  it("keeps loss and metrics apart and leaves out what is no number", () => {
    const found = seriesOf([
      { epoch: 1, loss: 2, metrics: { train_mean_dice: 0.1, val_left_kidney_mean_dice: null } },
      { epoch: 2, loss: 1, metrics: { train_mean_dice: 0.3, val_left_kidney_mean_dice: 0.5 } },
    ]);
    expect(found.loss).toEqual([{ name: "loss", points: [[1, 2], [2, 1]] }]);
    expect(found.metrics).toEqual([
      { name: "mean (training)", points: [[1, 0.1], [2, 0.3]] },
      { name: "left_kidney", points: [[2, 0.5]] },
    ]);
    expect(metricName("surface_distance")).toBe("surface_distance");
  });
});
