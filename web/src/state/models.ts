/** Versions of the models: list, compare, publish, roll back, export. */

import { computed, signal } from "@preact/signals";
import { addressOf, getJson, sendJson } from "../api/http";
import { compareVersions, getJob, listModels, listVersions, publishVersion, rollBack } from "../api/routes";
import type { Job, ModelVersion, VersionComparison } from "../api/wire";
import { metricName } from "./training";
import { beginWork, complain, offers, say } from "./page";

export const versions = signal<readonly ModelVersion[]>([]);
export const model = signal("");
export const models = signal<readonly string[]>([]);
export const loaded = signal(false);
export const comparison = signal<VersionComparison | null>(null);
export const comparing = signal<readonly [number, number]>([0, 0]);

export async function reloadModels(): Promise<void> {
  const found = await listModels();
  models.value = found.map((one) => one.model);
  if (!models.peek().includes(model.peek())) model.value = models.peek()[0] ?? "";
  versions.value = model.peek() === "" ? [] : await listVersions(model.peek());
  loaded.value = true;
  await readProof();
}

export async function chooseModel(name: string): Promise<void> {
  model.value = name;
  comparison.value = null;
  try {
    versions.value = await listVersions(name);
    await readProof();
  } catch (error) {
    complain(error);
  }
}

interface Forecast {
  readonly step: number;
  readonly gain: number;
  readonly low: number;
  readonly high: number;
}

interface ServerCurve {
  readonly metric: string;
  readonly points: readonly { readonly version: number; readonly labels: number; readonly hours: number; readonly metric: number }[];
  readonly by_labels: Forecast | null;
  readonly by_hours: Forecast | null;
  readonly advice: { readonly stop: boolean; readonly sentence: string; readonly criteria: readonly { readonly name: string; readonly met: boolean | null; readonly sentence: string }[] };
}

/** What the server makes of the versions: forecast and advice; null where it makes nothing of them. */
export const proof = signal<ServerCurve | null>(null);

const PROOF = "GET /api/v1/learning-curve";

async function readProof(): Promise<void> {
  if (!offers(PROOF) || versions.peek().length === 0) {
    proof.value = null;
    return;
  }
  proof.value = await getJson<ServerCurve>(`api/v1/learning-curve?model=${encodeURIComponent(model.peek())}`).catch(() => null);
}

/** The metric against the number of labels, a point a version: what the next labels may bring. */
export const learningCurve = computed(() => {
  const points = new Map<string, [number, number][]>();
  for (const version of versions.value) {
    const labels = Object.keys(version.labels).length;
    for (const [name, value] of Object.entries(version.metrics)) {
      if (!Number.isFinite(value)) continue;
      const list = points.get(name) ?? [];
      list.push([labels, value]);
      points.set(name, list);
    }
  }
  return [...points].map(([name, list]) => ({ name: metricName(name), points: list.sort((a, b) => a[0] - b[0]) }));
});

export async function compare(first: number, second: number): Promise<void> {
  comparing.value = [first, second];
  try {
    comparison.value = await compareVersions(model.peek(), first, second);
  } catch (error) {
    comparison.value = null;
    complain(error);
  }
}

async function act(what: () => Promise<unknown>, done: string): Promise<void> {
  try {
    await what();
    say(done, "good");
    await reloadModels();
  } catch (error) {
    complain(error);
  }
}

export const publish = (number: number) =>
  act(() => publishVersion(model.peek(), number, "Chosen on the page."), `Version ${number} answers from now on.`);
export const goBack = () => act(() => rollBack(model.peek(), "Gone back on the page."), "The version before is in use again.");

// ---------------------------------------------------------------- export

const EXPORT = "POST /api/v1/models/{}/versions/{}/export";
export const canExport = () => offers(EXPORT);

/** The last export of a version: what it is, and where it is once it is ready. */
export interface Package {
  readonly state: "working" | "ready";
  readonly href: string;
  readonly format: string;
}

export const packages = signal<ReadonlyMap<number, Package>>(new Map());

const ASK_MS = 1000;

/** What a version can be taken out as. */
export const FORMATS = [
  { value: "bundle", text: "MONAI bundle" },
  { value: "torchscript", text: "TorchScript" },
  { value: "app", text: "deploy application" },
  { value: "map", text: "MAP" },
  { value: "all", text: "everything" },
] as const;

export const format = signal<string>("bundle");

export async function exportVersion(number: number): Promise<void> {
  const task = beginWork(`Packing version ${number}`);
  const wanted = format.peek();
  setPackage(number, { state: "working", href: "", format: wanted });
  try {
    const name = encodeURIComponent(model.peek());
    const started = await sendJson<Job>("POST", `api/v1/models/${name}/versions/${number}/export`, { format: wanted });
    const job = await finished(started.id);
    if (job.state !== "done") throw new Error(`${job.message || `The export ended as ${job.state}.`} ${job.advice}`.trim());
    const href = addressOf(`api/v1/jobs/${job.id}/archive`);
    setPackage(number, { state: "ready", href, format: wanted });
    say(`Version ${number} is packed.`, "good", { text: "Download", run: () => { location.href = href; } });
  } catch (error) {
    packages.value = new Map([...packages.peek()].filter(([known]) => known !== number));
    complain(error);
  } finally {
    task.end();
  }
}

function setPackage(number: number, made: Package): void {
  packages.value = new Map([...packages.peek(), [number, made]]);
}

async function finished(id: string): Promise<Job> {
  for (;;) {
    const job = await getJob(id);
    if (job.ended_ts !== null) return job;
    await new Promise((resume) => window.setTimeout(resume, ASK_MS));
  }
}

