/**
 * The labels as shaded surfaces that turn, without WebGL.
 *
 * The label map is sampled to at most 160 voxels a side; surface voxels get a normal from the centre of mass of what is
 * filled around them, and are drawn as small squares with a depth buffer and diffuse light.
 */

import type { Vec3 } from "./geometry";

export interface Surface {
  readonly count: number;
  /** Millimetres from the middle of what is shown, three a point. */
  readonly positions: Float32Array;
  /** Unit vectors that point outwards. */
  readonly normals: Float32Array;
  readonly values: Uint8Array;
  /** Sample pitch in mm. */
  readonly pitchMm: number;
  /** Distance of the farthest point in mm, at least a fifth of the volume's half diagonal. */
  readonly radiusMm: number;
}

export const MAX_SAMPLES = 160;

/** Surface voxels of the labels that `isShown` lets through. */
export function surfaceOf(labels: Uint8Array, dims: Vec3, spacing: Vec3, isShown: (value: number) => boolean): Surface {
  const extent = [dims[0] * spacing[0], dims[1] * spacing[1], dims[2] * spacing[2]] as const;
  const pitchMm = Math.max(extent[0], extent[1], extent[2]) / MAX_SAMPLES;
  const size = [0, 1, 2].map((a) => Math.max(1, Math.min(dims[a]!, Math.round(extent[a]! / pitchMm)))) as [number, number, number];
  const shown = new Uint8Array(256);
  for (let value = 1; value < 256; value++) shown[value] = isShown(value) ? 1 : 0;
  const grid = sampledLabels(labels, dims, size, shown);
  const at = (x: number, y: number, z: number) =>
    x < 0 || y < 0 || z < 0 || x >= size[0] || y >= size[1] || z >= size[2] ? 0 : grid[x + size[0] * (y + size[1] * z)]!;
  const pitch = [extent[0] / size[0], extent[1] / size[1], extent[2] / size[2]] as const;
  const positions: number[] = [];
  const normals: number[] = [];
  const values: number[] = [];
  for (let z = 0; z < size[2]; z++) {
    for (let y = 0; y < size[1]; y++) {
      for (let x = 0; x < size[0]; x++) {
        const value = grid[x + size[0] * (y + size[1] * z)]!;
        if (value === 0) continue;
        const inner =
          at(x - 1, y, z) === value && at(x + 1, y, z) === value && at(x, y - 1, z) === value &&
          at(x, y + 1, z) === value && at(x, y, z - 1) === value && at(x, y, z + 1) === value;
        if (inner) continue;
        let [nx, ny, nz] = [0, 0, 0];
        for (let dz = -2; dz <= 2; dz++) {
          for (let dy = -2; dy <= 2; dy++) {
            for (let dx = -2; dx <= 2; dx++) {
              if (at(x + dx, y + dy, z + dz) !== value) continue;
              nx -= dx;
              ny -= dy;
              nz -= dz;
            }
          }
        }
        const length = Math.hypot(nx, ny, nz) || 1;
        positions.push((x + 0.5) * pitch[0] - extent[0] / 2, (y + 0.5) * pitch[1] - extent[1] / 2, (z + 0.5) * pitch[2] - extent[2] / 2);
        normals.push(nx / length, ny / length, nz / length);
        values.push(value);
      }
    }
  }
  const placed = Float32Array.from(positions);
  const reachMm = centred(placed);
  return {
    count: values.length,
    positions: placed,
    normals: Float32Array.from(normals),
    values: Uint8Array.from(values),
    pitchMm: Math.max(...pitch),
    radiusMm: Math.max(reachMm * 1.1, Math.hypot(extent[0], extent[1], extent[2]) / 10),
  };
}

/** Move the points so that the middle of their bounds is the origin; the distance of the farthest one. */
function centred(positions: Float32Array): number {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (let i = 0; i < positions.length; i++) {
    low[i % 3] = Math.min(low[i % 3]!, positions[i]!);
    high[i % 3] = Math.max(high[i % 3]!, positions[i]!);
  }
  let farthest = 0;
  for (let i = 0; i < positions.length; i += 3) {
    for (let a = 0; a < 3; a++) positions[i + a]! -= (low[a]! + high[a]!) / 2;
    farthest = Math.max(farthest, Math.hypot(positions[i]!, positions[i + 1]!, positions[i + 2]!));
  }
  return farthest;
}

/** The label at the middle of each sample; a thin label that misses every middle is looked for at the sample's corners. */
function sampledLabels(labels: Uint8Array, dims: Vec3, size: Vec3, shown: Uint8Array): Uint8Array {
  const middle = (i: number, n: number, full: number) => Math.min(full - 1, Math.floor(((i + 0.5) * full) / n));
  const xs = Int32Array.from({ length: size[0] }, (_, i) => middle(i, size[0], dims[0]));
  const result = new Uint8Array(size[0] * size[1] * size[2]);
  for (let z = 0, to = 0; z < size[2]; z++) {
    const plane = middle(z, size[2], dims[2]) * dims[1];
    for (let y = 0; y < size[1]; y++) {
      const row = (plane + middle(y, size[1], dims[1])) * dims[0];
      for (let x = 0; x < size[0]; x++, to++) {
        const value = labels[row + xs[x]!]!;
        result[to] = shown[value]! === 1 ? value : 0;
      }
    }
  }
  return result;
}

export interface Camera {
  /** Turn about the body's long axis, radians. */
  readonly yaw: number;
  /** Tilt, radians. */
  readonly pitch: number;
  readonly zoom: number;
}

/**
 * Draw `surface` into square-pixel `pixels`; depth is scratch of the same size. Whatever is not surface stays 0.
 *
 * @param colours the 256 x 4 table; its alpha is not used
 */
export function drawSurface(
  pixels: Uint32Array,
  depth: Float32Array,
  width: number,
  height: number,
  surface: Surface,
  camera: Camera,
  colours: Uint8Array,
): void {
  pixels.fill(0);
  depth.fill(Infinity);
  const scale = (Math.min(width, height) / (2 * surface.radiusMm || 1)) * 1.15 * camera.zoom;
  const half = Math.max(1, Math.ceil((surface.pitchMm * scale * 1.6) / 2));
  const [cy, sy, cp, sp] = [Math.cos(camera.yaw), Math.sin(camera.yaw), Math.cos(camera.pitch), Math.sin(camera.pitch)];
  const { positions, normals, values } = surface;
  for (let i = 0; i < surface.count; i++) {
    // Seen from the front: the patient's right on the left of the screen, the head up, depth grows to the back.
    const [x, y, z] = [-positions[i * 3]!, positions[i * 3 + 1]!, positions[i * 3 + 2]!];
    const turnedX = x * cy + y * sy;
    const turnedY = -x * sy + y * cy;
    const far = -turnedY * cp - z * sp;
    const up = z * cp - turnedY * sp;
    const px = Math.round(width / 2 + turnedX * scale);
    const py = Math.round(height / 2 - up * scale);
    const [nx, ny, nz] = [-normals[i * 3]!, normals[i * 3 + 1]!, normals[i * 3 + 2]!];
    const normalDepth = -(-nx * sy + ny * cy) * cp - nz * sp;
    const normalUp = nz * cp - (-nx * sy + ny * cy) * sp;
    if (normalDepth > 0.35) continue; // turned away
    const light = 0.35 + 0.65 * Math.max(0, -normalDepth * 0.8 + normalUp * 0.45 - (nx * cy + ny * sy) * 0.25);
    const shade = Math.min(1, light);
    const at = values[i]! * 4;
    const word =
      0xff000000 | ((colours[at + 2]! * shade) << 16) | ((colours[at + 1]! * shade) << 8) | (colours[at]! * shade);
    const x0 = Math.max(0, px - half);
    const x1 = Math.min(width - 1, px + half - 1);
    const y0 = Math.max(0, py - half);
    const y1 = Math.min(height - 1, py + half - 1);
    for (let row = y0; row <= y1; row++) {
      for (let column = x0, to = row * width + x0; column <= x1; column++, to++) {
        if (far >= depth[to]!) continue;
        depth[to] = far;
        pixels[to] = word;
      }
    }
  }
}
