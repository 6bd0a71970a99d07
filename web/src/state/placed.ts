/** Prompts as the page shows them: where they were put, and what they say. */

import type { PromptBody } from "../api/wire";
import type { Axis, Vec3 } from "../core/geometry";

export type DrawnKind = "point" | "box" | "scribble" | "lasso";

export interface PlacedPrompt {
  readonly id: number;
  readonly kind: DrawnKind;
  readonly axis: Axis;
  readonly value: number;
  readonly label: string;
  readonly positive: boolean;
  readonly points: readonly Vec3[];
}

let last = 0;

export function placed(kind: DrawnKind, axis: Axis, value: number, label: string, positive: boolean, points: readonly Vec3[]): PlacedPrompt {
  return { id: ++last, kind, axis, value, label, positive, points };
}

/** As the server reads it: whole voxels for points and boxes, the line as drawn for the others. */
export function bodyOf(prompt: PlacedPrompt): PromptBody {
  const { kind, label, positive } = prompt;
  if (kind === "point" || kind === "box") return { kind, label, positive, points: prompt.points.map(rounded) };
  const points = prompt.points.map(([x, y, z]): Vec3 => [tenths(x), tenths(y), tenths(z)]);
  return { kind, label, positive, points };
}

function rounded([x, y, z]: Vec3): Vec3 {
  return [Math.round(x), Math.round(y), Math.round(z)];
}

function tenths(value: number): number {
  return Math.round(value * 10) / 10;
}
