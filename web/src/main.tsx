/** Start: greet the server, follow its events, show what the address asks for. */

import { effect, untracked } from "@preact/signals";
import { render } from "preact";
import { getJson } from "./api/http";
import { followEvents, type EventStream } from "./api/events";
import { getSchema } from "./api/routes";
import type { ServerEvent } from "./api/wire";
import { followActivity } from "./state/activity";
import { guardLeaving } from "./state/drafting";
import { open } from "./state/editor";
import { progress, reloadImages } from "./state/images";
import { reloadModels } from "./state/models";
import { complain, greet, info, noticeLoss, onRecovery, person, refreshApp, say, schema, view } from "./state/page";
import { leaveReview, reloadReview } from "./state/review";
import { applyTheme, settings } from "./state/settings";
import { hearJob, reloadTraining } from "./state/training";
import { followAddress } from "./state/work";
import { App } from "./ui/app";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/work.css";
import "./styles/views.css";

/** Pause before lists are read anew, so that a burst of events asks once. */
const SETTLE_MS = 300;
/** Pause before a server that does not answer is asked again. */
const AGAIN_MS = 1000;

let listTimer = 0;
let stream: EventStream | null = null;

function refreshLists(): void {
  window.clearTimeout(listTimer);
  listTimer = window.setTimeout(() => {
    void reloadImages();
    void countDone();
    if (view.peek() === "review") void reloadReview();
  }, SETTLE_MS);
}

async function countDone(): Promise<void> {
  const prefix = (info.peek()?.peer_prefix ?? "").replace(/^\/|\/$/g, "");
  const told = await getJson<{ total: number; completed: number }>(`${prefix === "" ? "" : `${prefix}/`}datastore/`).catch(() => null);
  if (told !== null) progress.value = { done: told.completed, all: told.total };
}

function hear(event: ServerEvent): void {
  const room = event.kind.split(".")[0];
  if (room === "job") hearJob(event);
  else if (room === "label" || room === "image" || room === "queue" || room === "lease" || room === "review") hearLabel(event);
  else if (room === "version") void reloadModels().catch(complain);
  else if (room === "training") void reloadTraining().catch(complain);
  else if (room === "schema") void getSchema().then((next) => { schema.value = next; }).catch(complain);
  else if (room === "gap") void everything();
}

function hearLabel(event: ServerEvent): void {
  refreshLists();
  const by = event.data["person"];
  if (event.kind === "label.saved" && event.data["image"] === open.peek()?.id && typeof by === "string" && by !== person.peek()) {
    say(`${by} has just submitted ${String(event.data["image"])}. Yours is safe as a draft; you will be asked when you submit.`);
  }
}

/** The server may be another than before: ask for all of it. */
async function everything(): Promise<void> {
  await Promise.all([reloadImages(), countDone(), refreshApp(), reloadTraining(), reloadModels()].map((one) => one.catch(complain)));
}

async function start(): Promise<void> {
  applyTheme();
  effect(() => {
    void settings.value;
    applyTheme();
  });
  window.matchMedia("(prefers-color-scheme: light)").addEventListener("change", applyTheme);
  render(<App />, document.getElementById("app")!);
  guardLeaving();
  followActivity();
  await greetUntilAnswered();
  stream ??= followEvents(hear, () => undefined, noticeLoss);
  onRecovery(() => void everything());
  void reloadImages();
  void countDone();
  await followAddress();
  window.addEventListener("hashchange", () => void followAddress());
}

/** The banner says that the server does not answer; once it has said what it is, the app may still be loading. */
async function greetUntilAnswered(): Promise<void> {
  while (info.peek() === null) {
    const known = greet().then(() => Promise.all([reloadTraining(), reloadModels()]));
    await Promise.race([known.catch(() => pause(AGAIN_MS)), told()]);
    void known.catch(complain);
  }
}

/** Ends as soon as the server has said what it is. */
function told(): Promise<void> {
  return new Promise((resolve) => {
    const stop = info.subscribe((now) => {
      if (now === null) return;
      resolve();
      queueMicrotask(() => stop());
    });
  });
}

function pause(ms: number): Promise<void> {
  return new Promise((resume) => window.setTimeout(resume, ms));
}

effect(() => {
  const now = view.value;
  document.documentElement.dataset["view"] = now;
  const known = info.value !== null;
  untracked(() => {
    if (now !== "review") leaveReview();
    else if (known) void reloadReview();
  });
});

void start().catch(complain);
