import { describe, expect, it } from "vitest";
import { stampAt, stampLine, type Stamp } from "../src/core/brush";
import { indexOf, voxelOf, type Vec3 } from "../src/core/geometry";

const DIMS: Vec3 = [40, 40, 40];

function reached(act: (reach: (index: number) => void) => void): Set<number> {
  const found = new Set<number>();
  act((index) => found.add(index));
  return found;
}

/** What a brush must reach, voxel by voxel. */
function byDefinition(stamp: Stamp, center: Vec3): Set<number> {
  const found = new Set<number>();
  for (let z = 0; z < stamp.dims[2]; z++) {
    for (let y = 0; y < stamp.dims[1]; y++) {
      for (let x = 0; x < stamp.dims[0]; x++) {
        const voxel: Vec3 = [x, y, z];
        if (!stamp.ball && voxel[stamp.axis] !== Math.round(center[stamp.axis])) continue;
        const d = voxel.map((value, a) => (a === stamp.axis && !stamp.ball ? 0 : (value - center[a]!) * stamp.spacing[a]!));
        if (Math.hypot(...d) <= stamp.radiusMm) found.add(indexOf(stamp.dims, x, y, z));
      }
    }
  }
  return found;
}

describe("the brush", () => {
  it("is a disc in millimetres, whatever the spacing", () => {
    for (const axis of [0, 1, 2] as const) {
      const stamp: Stamp = { dims: DIMS, spacing: [0.7, 1.3, 3], axis, radiusMm: 6, ball: false };
      const center: Vec3 = [20, 19, 18];
      expect(reached((reach) => stampAt(stamp, center, reach))).toEqual(byDefinition(stamp, center));
    }
  });

  it("is a ball with the modifier", () => {
    const stamp: Stamp = { dims: DIMS, spacing: [1, 1.5, 2.5], axis: 2, radiusMm: 5, ball: true };
    const center: Vec3 = [20.3, 19.8, 18.1];
    const found = reached((reach) => stampAt(stamp, center, reach));
    expect(found).toEqual(byDefinition(stamp, center));
    const volume = found.size * 1 * 1.5 * 2.5;
    expect(volume / ((4 / 3) * Math.PI * 125)).toBeCloseTo(1, 0);
  });

  it("always paints the voxel under the pointer, however small it is", () => {
    const stamp: Stamp = { dims: DIMS, spacing: [2, 2, 2], axis: 2, radiusMm: 0.1, ball: false };
    expect(reached((reach) => stampAt(stamp, [10.4, 9.6, 5], reach))).toEqual(new Set([indexOf(DIMS, 10, 10, 5)]));
  });

  it("stays inside the volume", () => {
    const stamp: Stamp = { dims: DIMS, spacing: [1, 1, 1], axis: 2, radiusMm: 8, ball: true };
    for (const index of reached((reach) => stampAt(stamp, [-2, 39.4, 0], reach))) {
      const [x, y, z] = voxelOf(DIMS, index);
      expect(Math.hypot(x + 2, y - 39.4, z)).toBeLessThanOrEqual(8);
    }
    expect(reached((reach) => stampAt(stamp, [-30, -30, -30], reach)).size).toBe(0);
  });

  it("leaves no gap when the pointer moves fast", () => {
    const stamp: Stamp = { dims: DIMS, spacing: [1, 1, 1], axis: 2, radiusMm: 2, ball: false };
    const found = reached((reach) => stampLine(stamp, [5, 10, 3], [35, 10, 3], reach));
    for (let x = 6; x <= 37; x++) expect(found.has(indexOf(DIMS, Math.min(x, 37), 10, 3))).toBe(true);
    const thin: Stamp = { ...stamp, radiusMm: 0.4 };
    const line = reached((reach) => stampLine(thin, [5, 5, 3], [25, 17, 3], reach));
    const columns = new Set([...line].map((index) => voxelOf(DIMS, index)[0]));
    for (let x = 6; x <= 25; x++) expect(columns.has(x)).toBe(true);
  });
});
