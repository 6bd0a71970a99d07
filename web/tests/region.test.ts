import { describe, expect, it } from "vitest";
import { cornersIn, partsOf } from "../src/core/region";

describe("a part that is asked for", () => {
  it("is framed by the first and the last voxel of each box", () => {
    const [part, other] = partsOf({ kind: "boxes", boxes: [[[1, 2, 3], [4, 5, 9]], [[20, 0, 0], [30, 1, 1]]] });
    expect(cornersIn(part!, [10, 10, 6])).toEqual([[1, 2, 3], [3, 4, 5]]);
    expect(cornersIn(other!, [10, 10, 6])).toBeNull();
  });

  it("reaches to the sides of the image in slices", () => {
    const parts = partsOf({ kind: "slices", axis: 1, slices: [4, 7] });
    expect(parts.map((part) => cornersIn(part, [10, 11, 6]))).toEqual([[[0, 4, 0], [9, 4, 5]], [[0, 7, 0], [9, 7, 5]]]);
  });

  it("has no frame when it is the whole, a mask, or not asked for", () => {
    for (const region of [null, { kind: "whole" }, { kind: "mask" }] as const) expect(partsOf(region)).toEqual([]);
  });
});
