/** One function a route. Paths are relative to the page. */

import type { Box, Vec3 } from "../core/geometry";
import { LARGEST_VALUE } from "../core/labelmap";
import { ApiError, call, getJson, idPath, sendJson } from "./http";
import { gzipped } from "./gzip";
import type {
  AppInfo, BoxInfo, CurvePoint, DraftInfo, Job, ListedImage, ModelAnswer, ModelVersion, PageInfo, PromptBody, PromptModel,
  Revision, RevisionDiff, Schema, SchemaLabel, Triggers, VersionComparison,
} from "./wire";

export const FINAL = "final";

let peer = "";

export async function pageInfo(): Promise<PageInfo> {
  const info = await getJson<PageInfo>("api/v1/page");
  peer = info.peer_prefix.replace(/^\//, "");
  if (peer !== "" && !peer.endsWith("/")) peer += "/";
  return info;
}

/** Every route of the server as "GET /api/v1/images". */
export async function offeredRoutes(): Promise<ReadonlySet<string>> {
  const document = await getJson<{ paths: Record<string, Record<string, unknown>> }>("openapi.json");
  const found = new Set<string>();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of Object.keys(methods)) found.add(`${method.toUpperCase()} ${path.replace(/\{[^}]*\}/g, "{}")}`);
  }
  return found;
}

export const appInfo = () => getJson<AppInfo>(`${peer}info/`);

// ---------------------------------------------------------------- images

export interface ImagePage {
  readonly images: readonly ListedImage[];
  readonly next: string | null;
}

export function listImages(query: Readonly<Record<string, string>>, signal?: AbortSignal): Promise<ImagePage> {
  return getJson<ImagePage>(`api/v1/images?${new URLSearchParams(query).toString()}`, signal);
}

/** What the list can be sorted by. When something was done is no order to work in. */
export async function scoreNames(): Promise<readonly string[]> {
  const { names } = await getJson<{ names: string[] }>("api/v1/scores");
  return names.filter((name) => !/(^|_)ts$/.test(name));
}

export const imageRecord = (image: string) => getJson<ListedImage>(`api/v1/images/${idPath(image)}`);

export async function nextByStrategy(strategy: string): Promise<Readonly<Record<string, unknown>>> {
  return sendJson(`POST`, `${peer}activelearning/${encodeURIComponent(strategy)}`, {});
}

export const flagImage = (image: string, reason: string) => sendJson<ListedImage>("POST", `api/v1/images/${idPath(image)}/flag`, { reason });
export const unflagImage = (image: string) => sendJson<ListedImage>("POST", `api/v1/images/${idPath(image)}/unflag`, {});

// ---------------------------------------------------------------- labels

export const getSchema = () => getJson<Schema>("api/v1/schema");

export function addToSchema(schema: Schema, label: Partial<SchemaLabel> & { name: string }): Promise<Schema> {
  const body = { mode: schema.mode, labels: [...schema.labels, label], based_on: schema.version };
  return sendJson<Schema>("PUT", "api/v1/schema", body);
}

export interface LabelVoxels {
  readonly info: BoxInfo;
  readonly voxels: Uint8Array;
}

/** The whole label; null if there is none. */
export async function labelVoxels(image: string, tag: string, revision?: number, signal?: AbortSignal): Promise<LabelVoxels | null> {
  const query = revision === undefined ? "" : `?revision=${revision}`;
  try {
    const response = await call("GET", `api/v1/images/${idPath(image)}/labels/${tag}/box${query}`, { signal });
    const info = JSON.parse(response.headers.get("X-Labelserver-Box") ?? "{}") as BoxInfo;
    return { info, voxels: narrow(await response.arrayBuffer(), info.dtype) };
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

/** Label values as bytes. Larger ones cannot be shown here, and that is said rather than drawn wrongly. */
function narrow(bytes: ArrayBuffer, dtype: string): Uint8Array {
  if (dtype !== "uint16") return new Uint8Array(bytes);
  const wide = new Uint16Array(bytes);
  const result = new Uint8Array(wide.length);
  for (let i = 0; i < wide.length; i++) {
    if (wide[i]! > LARGEST_VALUE) throw new ApiError(422, `Its label has values above ${LARGEST_VALUE}, which this page can neither show nor change. It is left as it is: use the API or another viewer for it.`, {});
    result[i] = wide[i]!;
  }
  return result;
}

export interface LabelParams {
  readonly source: "hand" | "prompts" | "model";
  readonly model?: string;
  readonly model_version?: string;
  readonly draft?: number;
  readonly [key: string]: unknown;
}

export async function saveLabel(
  image: string, tag: string, voxels: Uint8Array, etag: string | null, params: LabelParams, annotated?: unknown,
): Promise<Revision> {
  const form = new FormData();
  form.append("voxels", await gzipped(voxels), "voxels.gz");
  form.append("params", JSON.stringify(params));
  if (annotated !== undefined) form.append("annotated", JSON.stringify(annotated));
  const headers: Record<string, string> = etag === null ? { "If-None-Match": "*" } : { "If-Match": etag };
  const response = await call("PUT", `api/v1/images/${idPath(image)}/labels/${tag}/voxels`, { body: form, headers });
  return (await response.json()) as Revision;
}

export async function revisions(image: string, tag: string): Promise<readonly Revision[]> {
  return (await getJson<{ revisions: Revision[] }>(`api/v1/images/${idPath(image)}/labels/${tag}/revisions`)).revisions;
}

export const revisionDiff = (image: string, tag: string, from: number, to: number) =>
  getJson<RevisionDiff>(`api/v1/images/${idPath(image)}/labels/${tag}/diff?from=${from}&to=${to}`);

export const restoreRevision = (image: string, tag: string, number: number) =>
  sendJson<Revision>("POST", `api/v1/images/${idPath(image)}/labels/${tag}/revisions/${number}/restore`, {});

// ---------------------------------------------------------------- drafts

export async function draftVoxels(image: string, tag: string): Promise<{ info: DraftInfo; voxels: Uint8Array } | null> {
  const place = `api/v1/images/${idPath(image)}/drafts/mine`;
  try {
    const response = await call("GET", `${place}/voxels?tag=${tag}`, { headers: { "Cache-Control": "no-cache" } });
    const told = JSON.parse(response.headers.get("X-Labelserver-Draft") ?? "{}") as DraftInfo;
    const voxels = narrow(await response.arrayBuffer(), told.dtype);
    const info = await getJson<DraftInfo>(`${place}/state?tag=${tag}`);
    return { info, voxels };
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

export interface DraftParams {
  readonly based_on: number;
  readonly force: boolean;
  readonly label_etag: string | null;
  readonly content: string;
  readonly state: Readonly<Record<string, unknown>>;
}

export async function saveDraft(image: string, tag: string, voxels: Blob, params: DraftParams, keepalive = false): Promise<DraftInfo> {
  const form = new FormData();
  form.append("voxels", voxels, "voxels.gz");
  form.append("params", JSON.stringify(params));
  const response = await call("PUT", `api/v1/images/${idPath(image)}/drafts/mine/voxels?tag=${tag}`, { body: form, keepalive });
  return (await response.json()) as DraftInfo;
}

export const dropDraft = (image: string, tag: string) => call("DELETE", `api/v1/images/${idPath(image)}/drafts/mine?tag=${tag}`);

export async function myDrafts(): Promise<readonly DraftInfo[]> {
  return (await getJson<{ drafts: DraftInfo[] }>("api/v1/drafts")).drafts;
}

// ---------------------------------------------------------------- prompts

export interface AnswerVoxels {
  readonly answer: ModelAnswer;
  readonly box: Box;
  readonly voxels: Uint8Array;
}

export async function promptModels(): Promise<readonly PromptModel[]> {
  return (await getJson<{ models: PromptModel[] }>("api/v1/sessions/models")).models;
}

export const openSession = (task: string, image: string, signal?: AbortSignal) =>
  sendJson<{ id: string }>("POST", "api/v1/sessions", { task, image }, signal);

export const closeSession = (session: string) => call("DELETE", `api/v1/sessions/${session}`, { keepalive: true });

export interface PromptCall {
  readonly seq: number;
  readonly at: number | null;
  readonly predict: boolean;
  readonly prompts: readonly PromptBody[];
}

export async function sendPrompts(session: string, body: PromptCall, signal?: AbortSignal): Promise<AnswerVoxels> {
  return answerOf(await call("POST", `api/v1/sessions/${session}/grid/prompts`, { json: body, signal }));
}

export async function stepSession(
  session: string, step: "undo" | "redo" | "reset", body: { seq: number; at: number | null },
): Promise<AnswerVoxels> {
  return answerOf(await call("POST", `api/v1/sessions/${session}/grid/${step}`, { json: body }));
}

export async function predict(image: string, model: string, params: unknown, signal?: AbortSignal): Promise<AnswerVoxels> {
  const path = `api/v1/images/${idPath(image)}/predictions/${encodeURIComponent(model)}`;
  return answerOf(await call("POST", path, { json: params, signal }));
}

async function answerOf(response: Response): Promise<AnswerVoxels> {
  const answer = JSON.parse(response.headers.get("X-Labelserver-Answer") ?? "{}") as ModelAnswer;
  const voxels = narrow(await response.arrayBuffer(), answer.dtype ?? "uint8");
  const none: Vec3 = [0, 0, 0];
  return { answer, box: { lo: answer.lo ?? none, hi: answer.hi ?? none }, voxels };
}

// ---------------------------------------------------------------- training and models

export const startTraining = (trainer: string, params: unknown) => sendJson("POST", `${peer}train/${encodeURIComponent(trainer)}`, params);
export const stopJob = (job: string) => sendJson<Job>("POST", `api/v1/jobs/${job}/stop`, {});

export async function listJobs(kind: string): Promise<readonly Job[]> {
  return (await getJson<{ jobs: Job[] }>(`api/v1/jobs?kind=${kind}`)).jobs;
}

export const getJob = (job: string) => getJson<Job>(`api/v1/jobs/${job}`);

export async function jobCurve(job: string): Promise<readonly CurvePoint[]> {
  return (await getJson<{ points: CurvePoint[] }>(`api/v1/jobs/${job}/curve`)).points;
}

export const getTriggers = () => getJson<Triggers>("api/v1/training/triggers");
export const setTriggers = (triggers: Triggers) => sendJson<Triggers>("PUT", "api/v1/training/triggers", triggers);

export async function listModels(): Promise<readonly { model: string; current: number | null; versions: number }[]> {
  return (await getJson<{ models: { model: string; current: number | null; versions: number }[] }>("api/v1/models")).models;
}

export async function listVersions(model: string): Promise<readonly ModelVersion[]> {
  return (await getJson<{ versions: ModelVersion[] }>(`api/v1/models/${encodeURIComponent(model)}/versions`)).versions;
}

export const compareVersions = (model: string, first: number, second: number) =>
  getJson<VersionComparison>(`api/v1/models/${encodeURIComponent(model)}/compare?first=${first}&second=${second}`);

export const publishVersion = (model: string, number: number, reason: string) =>
  sendJson<ModelVersion>("POST", `api/v1/models/${encodeURIComponent(model)}/versions/${number}/publish`, { reason });

export const rollBack = (model: string, reason: string) =>
  sendJson<ModelVersion>("POST", `api/v1/models/${encodeURIComponent(model)}/rollback`, { reason });
