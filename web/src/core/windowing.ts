/**
 * Intensities to grey values. One table of 65 536 entries serves a whole volume: a window change costs a fraction of a
 * millisecond, whatever the volume's size.
 */

export interface Window {
  readonly center: number;
  readonly width: number;
}

export interface WindowPreset extends Window {
  readonly name: string;
}

/** Usual windows of CT in Hounsfield units. */
export const CT_PRESETS: readonly WindowPreset[] = [
  { name: "CT abdomen", center: 40, width: 400 },
  { name: "CT lung", center: -600, width: 1500 },
  { name: "CT bone", center: 400, width: 1800 },
  { name: "CT brain", center: 40, width: 80 },
  { name: "CT liver", center: 70, width: 150 },
  { name: "CT mediastinum", center: 50, width: 350 },
];

export const TABLE_SIZE = 65536;
/** Added to a stored int16 value to get its place in the table. */
export const TABLE_OFFSET = 32768;

/**
 * Fill `table` so that table[stored + 32768] is the grey value.
 *
 * A clamped array rounds; a plain byte array would cut, and full white would come out as 254.
 *
 * @param slope real value = stored * slope + intercept; the window is in real values
 */
export function fillTable(table: Uint8ClampedArray, window: Window, slope: number, intercept: number): void {
  const width = Math.max(window.width, 1e-6);
  const low = window.center - width / 2;
  const factor = (255 * slope) / width;
  const base = (255 * (intercept - low)) / width - factor * TABLE_OFFSET;
  for (let i = 0; i < TABLE_SIZE; i++) table[i] = base + factor * i;
}

/** A window from the 1st to the 99th percentile of a sample of stored values, in real values. */
export function percentileWindow(sample: Int16Array, slope: number, intercept: number): Window {
  if (sample.length === 0) return { center: 0, width: 1 };
  const sorted = Int16Array.from(sample).sort();
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  const low = at(0.01) * slope + intercept;
  const high = at(0.99) * slope + intercept;
  return { center: (low + high) / 2, width: Math.max(Math.abs(high - low), Math.abs(slope)) };
}

/** Every n-th voxel, at most `most` of them. */
export function sampled(values: Int16Array, most: number): Int16Array {
  const step = Math.max(1, Math.floor(values.length / most));
  const result = new Int16Array(Math.floor((values.length + step - 1) / step));
  for (let i = 0, j = 0; i < values.length; i += step) result[j++] = values[i] ?? 0;
  return result;
}

/** The window after a drag: to the right wider, upwards brighter. One pixel is 1/256 of the present width. */
export function draggedWindow(start: Window, dx: number, dy: number): Window {
  const step = Math.max(Math.abs(start.width), 1) / 256;
  return { center: start.center + dy * step, width: Math.max(step, start.width + dx * step) };
}
