/** What the server says, as types. The words are those of docs/page-api.md and of the server's OpenAPI document. */

import type { Vec3 } from "../core/geometry";

export interface PageInfo {
  readonly version: string;
  readonly project: string;
  readonly person: string;
  readonly anonymous: boolean;
  readonly peer_prefix: string;
}

export interface VolumeHeader {
  readonly image: string;
  readonly kind: "volume" | "image";
  readonly content: string;
  readonly dims: Vec3;
  readonly spacing_mm: Vec3;
  readonly affine: readonly (readonly number[])[];
  readonly dtype: "int16" | "uint8";
  readonly components: 1 | 3;
  readonly frames: number;
  readonly slope: number;
  readonly intercept: number;
  readonly range: readonly [number, number];
  readonly unit: string;
  readonly windows: readonly { readonly name: string; readonly center: number; readonly width: number }[];
  readonly slab: number;
  readonly bytes: number;
  readonly orientation: string;
  readonly not_finite: number;
}

export interface ListedImage {
  readonly id: string;
  readonly kind: string;
  readonly name: string;
  readonly labels: readonly string[];
  readonly score: number | null;
  readonly side?: "training" | "held_out" | null;
  readonly work?: ImageWork | null;
}

/** How far an image is, and who has it. */
export interface ImageWork {
  readonly stage: "unlabeled" | "draft" | "submitted" | "approved" | "returned" | "flagged";
  readonly readers: number;
  readonly read: number;
  readonly holders: readonly string[];
  readonly flagged_by: string;
  readonly flag_reason: string;
}

export interface SchemaLabel {
  readonly id: string;
  readonly value: number;
  readonly name: string;
  readonly color: Vec3 | null;
  readonly term?: unknown;
  readonly former_names?: readonly string[];
}

export interface Schema {
  readonly version: number;
  readonly mode: "open" | "strict";
  readonly labels: readonly SchemaLabel[];
}

export interface Revision {
  readonly image: string;
  readonly tag: string;
  readonly number: number;
  readonly current: boolean;
  readonly parent: number | null;
  readonly author: string;
  readonly created_ts: number;
  readonly source: string;
  readonly model: string;
  readonly model_version: string;
  readonly etag: string;
  readonly info: Readonly<Record<string, unknown>>;
  /** What was looked at; `labels` by id, null for all. */
  readonly annotated: { readonly labels: readonly string[] | null; readonly region: { readonly kind: string } };
}

export interface RevisionDiff {
  readonly before: number;
  readonly after: number;
  readonly changed_voxels: number;
  readonly labels: readonly {
    readonly value: number;
    readonly name: string;
    readonly before: number;
    readonly after: number;
    readonly added: number;
    readonly removed: number;
    readonly dice: number;
  }[];
}

export interface BoxInfo {
  readonly lo: Vec3;
  readonly hi: Vec3;
  readonly dtype: "uint8" | "uint16";
  readonly revision: number;
  readonly etag: string;
  readonly overlapping: number;
  /** Ids of the labels that were looked for; null: all. */
  readonly annotated_labels: readonly string[] | null;
  readonly annotated_part: boolean;
}

export interface DraftInfo {
  readonly image: string;
  readonly tag: string;
  readonly number: number;
  readonly updated_ts: number;
  readonly dtype: "uint8" | "uint16";
  readonly label_etag: string | null;
  readonly state?: Readonly<Record<string, unknown>>;
}

export type PromptKind = "point" | "box" | "scribble" | "lasso" | "mask" | "class";

export interface PromptBody {
  readonly kind: PromptKind;
  readonly label: string;
  readonly positive: boolean;
  readonly points?: readonly Vec3[];
  readonly mask?: { readonly lo: Vec3; readonly shape: Vec3; readonly bits: string };
}

export interface PromptModel {
  readonly name: string;
  readonly description: string;
  readonly labels: Readonly<Record<string, number>>;
  readonly prompt_kinds: readonly PromptKind[];
  readonly conversions: Readonly<Record<string, string>>;
  readonly dimensions: readonly number[];
}

export interface ModelAnswer {
  readonly seq?: number;
  readonly at?: number;
  readonly ran?: boolean;
  readonly whole?: boolean;
  readonly dtype?: "uint8" | "uint16";
  readonly lo: Vec3;
  readonly hi: Vec3;
  readonly labels: Readonly<Record<string, number>>;
  readonly unknown?: readonly string[];
  readonly model_version?: string;
  readonly seconds?: Readonly<Record<string, number>>;
  readonly notes?: Readonly<Record<string, unknown>>;
}

export interface AppInfo {
  readonly name: string;
  readonly description: string;
  readonly models: Readonly<Record<string, AppModel>>;
  readonly trainers: Readonly<Record<string, AppTrainer>>;
  readonly strategies: Readonly<Record<string, { readonly description: string }>>;
}

export interface AppModel {
  readonly type: string;
  readonly labels: Readonly<Record<string, number>>;
  readonly dimension: number;
  readonly description: string;
  readonly interactive?: unknown;
}

export interface AppTrainer {
  readonly description: string;
  readonly config: Readonly<Record<string, unknown>>;
}

export interface Job {
  readonly id: string;
  readonly kind: string;
  readonly task: string;
  readonly state: string;
  readonly person: string;
  readonly created_ts: number;
  readonly started_ts: number | null;
  readonly ended_ts: number | null;
  readonly message: string;
  readonly advice: string;
  readonly progress: Readonly<Record<string, unknown>>;
  readonly versions: readonly (readonly [string, number])[];
  readonly result?: unknown;
}

export interface CurvePoint {
  readonly epoch: number;
  readonly total_epochs?: number;
  readonly loss?: number | null;
  readonly learning_rate?: number | null;
  readonly metrics?: Readonly<Record<string, number | null>>;
  readonly seconds?: number;
}

export interface ModelVersion {
  readonly model: string;
  readonly number: number;
  readonly current: boolean;
  readonly pinned: boolean;
  readonly created_ts: number;
  readonly verdict: string;
  readonly reason: string;
  readonly decided_by: string;
  readonly job_id: string;
  readonly key_metric: string;
  readonly metrics: Readonly<Record<string, number>>;
  readonly held_out: readonly string[];
  readonly labels: Readonly<Record<string, unknown>>;
}

export interface VersionComparison {
  readonly first: number;
  readonly second: number;
  readonly metrics: Readonly<Record<string, ValuePair>>;
  readonly cases: Readonly<Record<string, Readonly<Record<string, ValuePair>>>>;
}

export interface ValuePair {
  readonly first: number;
  readonly second: number;
  readonly difference: number;
}

export interface Triggers {
  readonly every_labels: number;
  readonly interval_minutes: number;
  readonly daily_at: string;
  readonly idle_minutes: number;
  readonly settle_s: number;
  readonly trainers: readonly string[];
  readonly labels_waiting?: number;
}

export interface ServerEvent {
  readonly id?: number;
  readonly ts: number;
  readonly kind: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly job_id?: string;
}
