/** The work queue: who has which image. Without one on the server, the strategies answer alone. */

import { signal } from "@preact/signals";
import { call, sendJson, ApiError } from "../api/http";
import { nextByStrategy } from "../api/routes";
import type { ListedImage } from "../api/wire";
import type { Box } from "../core/geometry";
import { partsOf, type Region } from "../core/region";
import { app, complain, offers } from "./page";

export interface Chosen {
  readonly image: string | null;
  readonly tag: string;
  readonly reason: string;
}

export interface HeldLease {
  readonly id: string;
  readonly image: string;
  readonly tag: string;
  readonly heartbeatS: number;
  /** Names of the labels that this person draws here; none: all. */
  readonly labels: readonly string[];
  /** What a reviewer wants changed; "" on the first time. */
  readonly returned: string;
  /** Where the strategy wants it drawn, in voxels of the grid; none: everywhere. */
  readonly parts: readonly Box[];
}

export const lease = signal<HeldLease | null>(null);
let beat = 0;

const NEXT = "POST /api/v1/queue/next";
const SKIP = "POST /api/v1/queue/leases/{}/skip";

export const hasQueue = () => offers(NEXT);

interface Given {
  readonly status: "image";
  readonly image: ListedImage;
  readonly lease: { readonly id: string; readonly tag: string; readonly heartbeat_s: number };
  readonly reason: { readonly strategy: string; readonly why: string; readonly details: Readonly<Record<string, unknown>> };
  readonly roi_on_grid: Region | null;
  readonly labels: readonly string[];
  readonly resumed: boolean;
  readonly returned: { readonly comment?: string } | null;
}

interface NotGiven {
  readonly status: "nothing_left" | "all_leased" | "needs_review";
  readonly message: string;
}

/** The image to label next, by the queue if there is one, else by the strategy. */
export async function nextFromQueue(strategy: string, current: string | null): Promise<Chosen> {
  if (hasQueue()) return fromQueue(strategy);
  const name = strategy !== "" ? strategy : (Object.keys(app.peek()?.strategies ?? {})[0] ?? "");
  if (name === "") return { image: null, tag: "final", reason: "The app offers no strategy. Choose an image from the list." };
  const sample = await nextByStrategy(name);
  const id = sample["id"];
  if (typeof id !== "string" || id === "") return { image: null, tag: "final", reason: "Nothing is left: every image has a label." };
  const again = id === current ? " It is the same as before: nothing else waits." : "";
  return { image: id, tag: "final", reason: `${reasonOf(sample, name)}${again}` };
}

async function fromQueue(strategy: string): Promise<Chosen> {
  const told = await sendJson<Given | NotGiven>("POST", "api/v1/queue/next", strategy === "" ? {} : { strategy });
  if (told.status !== "image") return { image: null, tag: "final", reason: told.message };
  const { id, tag, heartbeat_s: heartbeatS } = told.lease;
  const image = told.image.id;
  hold({ id, image, tag, heartbeatS, labels: told.labels, returned: told.returned?.comment ?? "", parts: partsOf(told.roi_on_grid) });
  const again = told.resumed ? "You have this one already. " : "";
  const part = told.roi_on_grid === null || told.roi_on_grid.kind === "whole" ? "" : " What is framed would do.";
  const description = app.peek()?.strategies[told.reason.strategy]?.description ?? "";
  return { image, tag, reason: `${again}${told.reason.strategy}: ${told.reason.why || description}${part}` };
}

/** A sentence that says why a strategy alone chose an image. */
export function reasonOf(told: Readonly<Record<string, unknown>>, strategy: string): string {
  const score = told["score"];
  const description = app.peek()?.strategies[strategy]?.description ?? "";
  const number = typeof score === "number" ? ` (score ${score.toPrecision(3)})` : "";
  return description === "" ? `Chosen by ${strategy}${number}` : `${strategy}: ${description}${number}`;
}

function hold(next: HeldLease): void {
  window.clearInterval(beat);
  lease.value = next;
  const everyMs = Math.max(1, next.heartbeatS) * 1000;
  beat = window.setInterval(() => void heartbeat(), everyMs);
}

async function heartbeat(): Promise<void> {
  const held = lease.peek();
  if (held === null) {
    window.clearInterval(beat);
    return;
  }
  try {
    await call("POST", `api/v1/queue/leases/${held.id}/heartbeat`, { json: {} });
  } catch (error) {
    if (!(error instanceof ApiError)) return; // the server is away; the banner says so, and the lease outlives that
    if (lease.peek()?.id !== held.id) return;
    lease.value = null;
    complain(error);
  }
}

/** The image is not ours to hold any more. */
export async function giveBack(): Promise<void> {
  const held = lease.peek();
  lease.value = null;
  window.clearInterval(beat);
  if (held !== null) await call("POST", `api/v1/queue/leases/${held.id}/release`, { json: {}, keepalive: true }).catch(() => undefined);
}

export async function skipLease(image: string, reason: string): Promise<void> {
  const held = lease.peek();
  lease.value = null;
  window.clearInterval(beat);
  if (held !== null && held.image === image && offers(SKIP)) {
    await call("POST", `api/v1/queue/leases/${held.id}/skip`, { json: { reason } });
  }
}
