import { describe, expect, it } from "vitest";
import { clampedVoxel, edgeLetters, orientationOf, PlaneView, toWorld, voxelOf, indexOf, type Axis, type Vec3 } from "../src/core/geometry";

const DIMS: Vec3 = [40, 30, 20];
const SPACING: Vec3 = [0.8, 1, 2.5];

describe("a plane on the screen", () => {
  const axes: Axis[] = [0, 1, 2];
  for (const axis of axes) {
    for (const radiological of [true, false]) {
      it(`takes a voxel of plane ${axis} there and back (radiological ${radiological})`, () => {
        const view = new PlaneView(axis, DIMS, SPACING, orientationOf(axis, radiological, false), 333, 417, 1.7, 13, -9);
        const voxel: Vec3 = [11, 22, 7];
        const [px, py] = view.toPane(voxel);
        const back = view.toVoxel(px, py, voxel[axis]);
        for (const a of axes) expect(back[a]).toBeCloseTo(voxel[a], 9);
      });
    }
  }

  it("shows the patient's right on the left in the radiological convention, and the front on top", () => {
    const orientation = orientationOf(2, true, false);
    expect(edgeLetters(2, orientation)).toEqual(["R", "L", "A", "P"]);
    const view = new PlaneView(2, DIMS, SPACING, orientation, 400, 400, 1, 0, 0);
    expect(view.toPane([39, 0, 0])[0]).toBeLessThan(view.toPane([0, 0, 0])[0]);
    expect(view.toPane([0, 29, 0])[1]).toBeLessThan(view.toPane([0, 0, 0])[1]);
  });

  it("shows a sagittal plane the same in both conventions", () => {
    expect(edgeLetters(0, orientationOf(0, true, false))).toEqual(edgeLetters(0, orientationOf(0, false, false)));
  });

  it("draws pictures as stored", () => {
    const view = new PlaneView(2, [10, 8, 1], [1, 1, 1], orientationOf(2, true, true), 100, 80, 1, 0, 0);
    expect(view.toVoxel(5, 5, 0)).toEqual([0, 0, 0]);
    expect(view.toVoxel(95, 75, 0)).toEqual([9, 7, 0]);
  });

  it("keeps millimetres square, whatever the spacing", () => {
    const view = new PlaneView(1, DIMS, SPACING, orientationOf(1, true, false), 300, 300, 1, 0, 0);
    expect(view.scaleU / SPACING[0]).toBeCloseTo(view.scaleV / SPACING[2], 12);
    expect(Math.max(view.width, view.height)).toBeCloseTo(300, 9);
  });
});

describe("voxels", () => {
  it("go from index to place and back", () => {
    for (const index of [0, 1, 39, 40, 1199, 1200, 23999]) {
      const [x, y, z] = voxelOf(DIMS, index);
      expect(indexOf(DIMS, x, y, z)).toBe(index);
    }
  });

  it("are kept inside the volume", () => {
    expect(clampedVoxel(DIMS, [-3, 14.6, 99])).toEqual([0, 15, 19]);
  });

  it("have millimetres by the affine", () => {
    const affine = [[0.8, 0, 0, -10], [0, 0, -2, 5], [0, 1, 0, 7], [0, 0, 0, 1]];
    const [x, y, z] = toWorld(affine, [10, 3, 4]);
    expect([x, y, z].map((value) => Math.round(value * 1e6) / 1e6)).toEqual([-2, -3, 10]);
  });
});
