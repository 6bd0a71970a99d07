/** The image that is open: its voxels, its label map, its history, and where it came from. */

import { signal, type Signal } from "@preact/signals";
import { volumeHeader, emptyVoxels, loadVoxels, type Voxels } from "../api/volumes";
import type { VolumeHeader } from "../api/wire";
import { voxelCount, type Axis, type Vec3 } from "../core/geometry";
import { History } from "../core/history";
import { LabelMap } from "../core/labelmap";
import { fillTable, percentileWindow, sampled, TABLE_SIZE, type Window } from "../core/windowing";
import type { PlacedPrompt } from "./placed";

/** What a history entry remembers of a model's answer. */
export interface PromptNote {
  readonly prompts: readonly PlacedPrompt[];
  /** Steps of the session that this answer stands for. */
  readonly steps: number;
  /** The session that answered; undo after it was closed takes back the voxels alone. */
  readonly session: string;
}

export interface PaneLook {
  readonly zoom: number;
  readonly panX: number;
  readonly panY: number;
}

export const FITTED: PaneLook = { zoom: 1, panX: 0, panY: 0 };

const SAMPLE = 20000;

export class OpenImage {
  readonly voxels: Voxels;
  map: LabelMap;
  readonly history = new History<PromptNote>();
  readonly cursor: Signal<Vec3>;
  readonly window: Signal<Window>;
  /** Grows with every change of the picture's voxels. */
  readonly pixels = signal(0);
  /** Grows with every change of the labels. */
  readonly edits = signal(0);
  /** 0 to 1. */
  readonly loaded = signal(0);
  /** What was drawn here before is on the map; drawn upon sooner, that would be overwritten when it comes. */
  readonly labelled = signal(false);
  readonly frame = signal(0);
  readonly looks: Record<Axis, Signal<PaneLook>> = { 0: signal(FITTED), 1: signal(FITTED), 2: signal(FITTED) };
  readonly table = new Uint8ClampedArray(TABLE_SIZE);
  readonly #stop = new AbortController();
  #tableFor: Window | null = null;

  private constructor(readonly header: VolumeHeader) {
    this.voxels = emptyVoxels(header);
    this.map = new LabelMap(header.dims);
    const [x, y, z] = header.dims;
    this.cursor = signal<Vec3>([x >> 1, y >> 1, z >> 1]);
    const first = header.windows[0];
    this.window = signal<Window>(first ?? { center: (header.range[0] + header.range[1]) / 2, width: Math.max(1e-6, header.range[1] - header.range[0]) });
  }

  static async open(image: string, signal?: AbortSignal): Promise<OpenImage> {
    return new OpenImage(await volumeHeader(image, signal));
  }

  get id(): string {
    return this.header.image;
  }

  get dims(): Vec3 {
    return this.header.dims;
  }

  get spacing(): Vec3 {
    return this.header.spacing_mm;
  }

  get isPicture(): boolean {
    return this.header.kind === "image";
  }

  /** Planes that can be shown: pictures have one. */
  get axes(): readonly Axis[] {
    return this.isPicture || this.dims[2] === 1 ? [2] : [2, 1, 0];
  }

  get voxelMm3(): number {
    return this.spacing[0] * this.spacing[1] * this.spacing[2];
  }

  /** Load the voxels; ends when all are here. */
  async load(): Promise<void> {
    const depth = this.dims[2];
    const frame = this.frame.peek();
    let there = 0;
    await loadVoxels(this.header, frame, this.voxels, (z0, z1) => {
      if (this.isClosed) return;
      if (z1 - z0 > 1 || depth <= this.header.slab) there += z1 - z0;
      this.loaded.value = Math.min(1, there / depth);
      this.pixels.value = this.pixels.peek() + 1;
    }, this.#stop.signal);
    this.loaded.value = 1;
    this.pixels.value = this.pixels.peek() + 1;
  }

  async showFrame(frame: number): Promise<void> {
    this.frame.value = frame;
    this.loaded.value = 0;
    await this.load();
  }

  get isClosed(): boolean {
    return this.#stop.signal.aborted;
  }

  close(): void {
    this.#stop.abort();
  }

  /** The grey table for the window that is set. */
  grey(): Uint8ClampedArray {
    const window = this.window.value;
    if (this.#tableFor !== window) {
      fillTable(this.table, window, this.header.slope, this.header.intercept);
      this.#tableFor = window;
    }
    return this.table;
  }

  autoWindow(): Window {
    const { grey } = this.voxels;
    if (grey === null) return this.window.peek();
    return percentileWindow(sampled(grey, SAMPLE), this.header.slope, this.header.intercept);
  }

  /** Real value of a voxel; of colours their three numbers. */
  valueAt(index: number): readonly number[] {
    const { grey, rgb } = this.voxels;
    if (rgb !== null) return [rgb[index * 3]!, rgb[index * 3 + 1]!, rgb[index * 3 + 2]!];
    return [grey![index]! * this.header.slope + this.header.intercept];
  }

  /** Stored value of a real one, for the range that may be painted. */
  stored(real: number): number {
    return (real - this.header.intercept) / (this.header.slope || 1);
  }

  replaceLabels(voxels: Uint8Array): void {
    if (voxels.length !== voxelCount(this.dims)) throw new RangeError("These labels are of another image.");
    this.map = new LabelMap(this.dims, voxels);
    this.history.clear();
    this.edits.value = this.edits.peek() + 1;
  }
}
