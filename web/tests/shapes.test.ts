import { describe, expect, it } from "vitest";
import { regionOf } from "../src/core/fill";
import { indexOf, voxelCount, voxelOf, type Vec3 } from "../src/core/geometry";
import { distancesTo, interpolateSlices, slicesWith } from "../src/core/interpolate";
import { regionInside } from "../src/core/outline";
import { drawSurface, surfaceOf } from "../src/core/splat";

const DIMS: Vec3 = [21, 21, 9];

describe("filling", () => {
  function ring(): Uint8Array {
    const labels = new Uint8Array(voxelCount(DIMS));
    for (let i = 5; i <= 15; i++) {
      for (const [x, y] of [[i, 5], [i, 15], [5, i], [15, i]] as const) labels[indexOf(DIMS, x, y, 4)] = 1;
    }
    return labels;
  }

  it("takes what an outline encloses, in the slice alone", () => {
    const found = regionOf(ring(), DIMS, [10, 10, 4], 2, () => true);
    expect(found.open).toBe(false);
    expect(found.indices.length).toBe(81);
    for (const index of found.indices) expect(voxelOf(DIMS, index)[2]).toBe(4);
  });

  it("says when nothing encloses the place", () => {
    expect(regionOf(ring(), DIMS, [0, 0, 4], 2, () => true).open).toBe(true);
    expect(regionOf(ring(), DIMS, [10, 10, 4], null, () => true).open).toBe(true);
  });

  it("stops where the guard says no", () => {
    const found = regionOf(new Uint8Array(voxelCount(DIMS)), DIMS, [10, 10, 4], null, (index) => {
      const [x, y, z] = voxelOf(DIMS, index);
      return Math.abs(x - 10) <= 2 && Math.abs(y - 10) <= 1 && Math.abs(z - 4) <= 1;
    });
    expect(found.open).toBe(false);
    expect(found.indices.length).toBe(5 * 3 * 3);
  });
});

describe("interpolation between slices", () => {
  it("measures distances exactly, in millimetres", () => {
    const mask = new Uint8Array(12 * 9);
    mask[3 + 12 * 4] = 1;
    mask[9 + 12 * 7] = 1;
    const found = distancesTo(mask, 12, 9, 0.7, 1.9);
    for (let y = 0; y < 9; y++) {
      for (let x = 0; x < 12; x++) {
        const expected = Math.min(Math.hypot((x - 3) * 0.7, (y - 4) * 1.9), Math.hypot((x - 9) * 0.7, (y - 7) * 1.9));
        expect(found[x + 12 * y]).toBeCloseTo(expected, 9);
      }
    }
  });

  it("grows a disc into a larger one, slice by slice", () => {
    const labels = new Uint8Array(voxelCount(DIMS));
    const disc = (z: number, radius: number) => {
      for (let y = 0; y < 21; y++) {
        for (let x = 0; x < 21; x++) if (Math.hypot(x - 10, y - 10) <= radius) labels[indexOf(DIMS, x, y, z)] = 3;
      }
    };
    disc(1, 3);
    disc(7, 8);
    const filled = interpolateSlices(labels, DIMS, [1, 1, 1], 2, 3, (index) => {
      labels[index] = 3;
    });
    expect(filled).toBe(5);
    expect(slicesWith(labels, DIMS, 2, 3)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    const areas = [1, 2, 3, 4, 5, 6, 7].map((z) => labels.subarray(z * 441, (z + 1) * 441).filter((v) => v === 3).length);
    for (let i = 1; i < areas.length; i++) expect(areas[i]!).toBeGreaterThanOrEqual(areas[i - 1]!);
    expect(areas[5]!).toBeGreaterThan(areas[1]!);
    expect(Math.abs(areas[3]! - Math.PI * 5.5 ** 2)).toBeLessThan(16);
  });

  it("does nothing where no slice is missing", () => {
    const labels = new Uint8Array(voxelCount(DIMS));
    labels[indexOf(DIMS, 4, 4, 2)] = 1;
    labels[indexOf(DIMS, 4, 4, 3)] = 1;
    expect(interpolateSlices(labels, DIMS, [1, 1, 1], 2, 1, () => expect.unreachable())).toBe(0);
  });
});

describe("a lasso", () => {
  it("holds the voxels whose centres it encloses", () => {
    const region = regionInside([[2.6, 3.6, 4], [8.4, 3.6, 4], [8.4, 9.4, 4], [2.6, 9.4, 4]], 2, 4, DIMS)!;
    let count = 0;
    for (let z = region.box.lo[2], i = 0; z < region.box.hi[2]; z++) {
      for (let y = region.box.lo[1]; y < region.box.hi[1]; y++) {
        for (let x = region.box.lo[0]; x < region.box.hi[0]; x++, i++) {
          const inside = x >= 3 && x <= 8 && y >= 4 && y <= 9 && z === 4;
          expect(region.voxels[i]).toBe(inside ? 1 : 0);
          count += region.voxels[i]!;
        }
      }
    }
    expect(count).toBe(36);
  });

  it("works in every plane and stays inside the volume", () => {
    const region = regionInside([[-5, 7, 1], [30, 7, 1], [30, 7, 40], [-5, 7, 40]], 1, 7, DIMS)!;
    expect(region.box.lo).toEqual([0, 7, 1]);
    expect(region.box.hi).toEqual([21, 8, 9]);
    expect(region.voxels.reduce((sum, value) => sum + value, 0)).toBeGreaterThanOrEqual(21 * 7);
    expect(regionInside([[1, 1, 4], [2, 2, 4]], 2, 4, DIMS)).toBeNull();
  });
});

describe("the 3-D view", () => {
  const dims: Vec3 = [60, 60, 30];
  const labels = new Uint8Array(voxelCount(dims));
  for (let z = 0; z < 30; z++) {
    for (let y = 0; y < 60; y++) {
      for (let x = 0; x < 60; x++) if (Math.hypot(x - 30, y - 30, (z - 15) * 2) <= 20) labels[indexOf(dims, x, y, z)] = 2;
    }
  }

  it("finds a ball's surface with normals that point outwards", () => {
    const surface = surfaceOf(labels, dims, [1, 1, 2], () => true);
    expect(surface.count).toBeGreaterThan(500);
    for (let i = 0; i < surface.count; i++) {
      const p = surface.positions.subarray(i * 3, i * 3 + 3);
      const n = surface.normals.subarray(i * 3, i * 3 + 3);
      expect(p[0]! * n[0]! + p[1]! * n[1]! + p[2]! * n[2]!).toBeGreaterThan(0);
    }
  });

  it("draws it without holes, and not when it is hidden", () => {
    const surface = surfaceOf(labels, dims, [1, 1, 2], () => true);
    const pixels = new Uint32Array(120 * 120);
    const colours = new Uint8Array(1024);
    colours.set([200, 100, 50, 255], 8);
    drawSurface(pixels, new Float32Array(120 * 120), 120, 120, surface, { yaw: 0.4, pitch: 0.3, zoom: 1 }, colours);
    const scale = (120 / (2 * surface.radiusMm)) * 1.15;
    for (let y = 0; y < 120; y++) {
      for (let x = 0; x < 120; x++) if (Math.hypot(x - 60, y - 60) < 18 * scale) expect(pixels[x + 120 * y]).not.toBe(0);
    }
    expect(pixels[0]).toBe(0);
    expect(surfaceOf(labels, dims, [1, 1, 2], () => false).count).toBe(0);
  });
});
