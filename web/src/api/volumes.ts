/** Reading images: the header, then slabs from the middle outwards, four at a time. */

import { voxelCount } from "../core/geometry";
import { ApiError, call, getJson, idPath } from "./http";
import type { VolumeHeader } from "./wire";

export interface Voxels {
  /** Stored values of volumes and grey pictures. */
  readonly grey: Int16Array | null;
  /** r, g, b of each voxel of colour pictures. */
  readonly rgb: Uint8Array | null;
}

const IN_FLIGHT = 4;

export function volumeHeader(image: string, signal?: AbortSignal): Promise<VolumeHeader> {
  return getJson<VolumeHeader>(`api/v1/images/${idPath(image)}/volume`, signal);
}

export function emptyVoxels(header: VolumeHeader): Voxels {
  const count = voxelCount(header.dims);
  return header.components === 3
    ? { grey: null, rgb: new Uint8Array(count * 3) }
    : { grey: new Int16Array(count), rgb: null };
}

/** [z0, z1) of the slabs, the middle one first; its first request is one slice alone, so that something shows at once. */
export function slabOrder(depth: number, slab: number): [number, number][] {
  const middle = Math.floor(depth / 2);
  const slabs: [number, number][] = [];
  for (let z = 0; z < depth; z += slab) slabs.push([z, Math.min(z + slab, depth)]);
  const far = ([z0, z1]: [number, number]) => Math.abs((z0 + z1 - 1) / 2 - middle);
  slabs.sort((a, b) => far(a) - far(b));
  return depth > slab ? [[middle, middle + 1], ...slabs] : slabs;
}

/**
 * Fill `voxels`.
 *
 * @param onSlab told of each slab that has come
 */
export async function loadVoxels(
  header: VolumeHeader,
  frame: number,
  voxels: Voxels,
  onSlab: (z0: number, z1: number) => void,
  signal: AbortSignal,
): Promise<void> {
  const waiting = slabOrder(header.dims[2], header.slab);
  const first = waiting.shift();
  const load = async ([z0, z1]: [number, number]) => {
    const query = `z0=${z0}&z1=${z1}&content=${header.content}&frame=${frame}`;
    const response = await call("GET", `api/v1/images/${idPath(header.image)}/volume/slab?${query}`, { signal });
    place(header, voxels, z0, z1, await response.arrayBuffer());
    onSlab(z0, z1);
  };
  if (first !== undefined) await load(first);
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await load(next);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}

function place(header: VolumeHeader, voxels: Voxels, z0: number, z1: number, bytes: ArrayBuffer): void {
  const plane = header.dims[0] * header.dims[1];
  const count = plane * (z1 - z0) * header.components;
  const isBytes = header.dtype === "uint8";
  if (bytes.byteLength !== count * (isBytes ? 1 : 2)) throw new ApiError(200, "A part of the image came incomplete. Open it again.", {});
  const values = isBytes ? new Uint8Array(bytes) : new Int16Array(bytes);
  (voxels.rgb ?? voxels.grey)!.set(values, z0 * plane * header.components);
}
