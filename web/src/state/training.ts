/** Trainings: start, stop, and their curve as it grows. The stream tells of each epoch; a reload reads the curve anew. */

import { batch, computed, signal } from "@preact/signals";
import { getTriggers, jobCurve, listJobs, setTriggers, startTraining, stopJob } from "../api/routes";
import type { CurvePoint, Job, ServerEvent, Triggers } from "../api/wire";
import { app, complain, offers, say } from "./page";
import { settings } from "./settings";

export const jobs = signal<readonly Job[]>([]);
/** The training whose curve is shown. */
export const shownJob = signal("");
export const curve = signal<readonly CurvePoint[]>([]);
export const triggers = signal<Triggers | null>(null);
export const starting = signal(false);

const FINAL = new Set(["done", "stopped", "failed"]);

export function isLive(job: Job): boolean {
  return !FINAL.has(job.state);
}

export const liveJob = computed<Job | undefined>(() => [...jobs.value].reverse().find(isLive));
export const currentJob = computed<Job | undefined>(() => jobs.value.find((job) => job.id === shownJob.value) ?? liveJob.value ?? jobs.value[jobs.value.length - 1]);
export const trainers = computed(() => Object.entries(app.value?.trainers ?? {}).map(([name, told]) => ({ name, description: told.description })));
export const trainer = computed(() => trainers.value.find((one) => one.name === settings.value.trainer) ?? trainers.value[0]);

export async function reloadTraining(): Promise<void> {
  const [found, rules] = await Promise.all([
    listJobs("train"),
    offers("GET /api/v1/training/triggers") ? getTriggers().catch(() => null) : Promise.resolve(null),
  ]);
  jobs.value = found;
  triggers.value = rules;
  await showCurve(currentJob.peek()?.id ?? "");
}

export async function showCurve(job: string): Promise<void> {
  shownJob.value = job;
  const points = job === "" ? [] : await jobCurve(job).catch(() => []);
  if (shownJob.peek() === job) curve.value = points;
}

export async function train(params: Readonly<Record<string, unknown>>): Promise<void> {
  const chosen = trainer.peek();
  if (chosen === undefined || starting.peek()) return;
  starting.value = true;
  try {
    await startTraining(chosen.name, params);
    shownJob.value = "";
    await reloadTraining();
  } catch (error) {
    complain(error);
  } finally {
    starting.value = false;
  }
}

export async function stop(job: string): Promise<void> {
  try {
    const stopped = await stopJob(job);
    jobs.value = jobs.peek().map((one) => (one.id === job ? stopped : one));
    say("The training stops at its next step; what it has learned so far is kept.");
  } catch (error) {
    complain(error);
  }
}

export async function trainAfter(labels: number): Promise<void> {
  const now = triggers.peek();
  if (now === null) return;
  const { labels_waiting: _, ...rules } = now;
  try {
    triggers.value = await setTriggers({ ...rules, every_labels: labels });
  } catch (error) {
    complain(error);
  }
}

/** An event of the stream that tells of a job. */
export function hearJob(event: ServerEvent): void {
  const id = event.job_id ?? "";
  if (id === "" || event.data["job_kind"] !== "train") return;
  if (event.kind === "job.epoch") {
    const point = event.data as unknown as CurvePoint;
    if (id === currentJob.peek()?.id || jobs.peek().every((job) => job.id !== id)) addPoint(id, point);
    return;
  }
  if (event.kind === "job.state" || event.kind === "job.progress") void refreshJobs();
}

function addPoint(id: string, point: CurvePoint): void {
  batch(() => {
    if (shownJob.peek() !== id) {
      shownJob.value = id;
      curve.value = [];
    }
    curve.value = [...curve.peek().filter((known) => known.epoch !== point.epoch), point].sort((a, b) => a.epoch - b.epoch);
  });
}

let asking: Promise<void> | null = null;
let askAgain = false;

/** One question at a time, however fast events come. */
async function refreshJobs(): Promise<void> {
  if (asking !== null) {
    askAgain = true;
    return;
  }
  asking = (async () => {
    do {
      askAgain = false;
      const before = currentJob.peek()?.id;
      jobs.value = await listJobs("train").catch(() => jobs.peek());
      const now = liveJob.peek()?.id ?? currentJob.peek()?.id ?? "";
      if (now !== "" && (now !== before || curve.peek().length === 0)) await showCurve(now);
    } while (askAgain);
  })().finally(() => {
    asking = null;
  });
  await asking;
}

/** Series of the curve by name. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [number, number])[];
}

/** The loss for itself, because its numbers are of another size than the metrics, which lie between 0 and 1. */
export function seriesOf(points: readonly CurvePoint[]): { readonly loss: readonly Series[]; readonly metrics: readonly Series[] } {
  const loss: [number, number][] = [];
  const metrics = new Map<string, [number, number][]>();
  for (const point of points) {
    if (isNumber(point.loss)) loss.push([point.epoch, point.loss]);
    for (const [name, value] of Object.entries(point.metrics ?? {})) {
      if (!isNumber(value)) continue;
      const list = metrics.get(name) ?? [];
      list.push([point.epoch, value]);
      metrics.set(name, list);
    }
  }
  return {
    loss: loss.length === 0 ? [] : [{ name: "loss", points: loss }],
    metrics: [...metrics].map(([name, list]) => ({ name: metricName(name), points: list })),
  };
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

/** val_left_kidney_mean_dice -> "left_kidney", train_mean_dice -> "mean (training)". */
export function metricName(name: string): string {
  const found = /^(train|val)_(?:(.*)_)?mean_dice$/.exec(name);
  if (found === null) return name;
  return `${found[2] ?? "mean"}${found[1] === "train" ? " (training)" : ""}`;
}
