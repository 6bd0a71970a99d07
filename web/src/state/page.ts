/** What belongs to the whole page: who is here, what the server offers, whether it answers, what is being said. */

import { computed, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { call, onReach, sentence } from "../api/http";
import { appInfo, getSchema, offeredRoutes, pageInfo, promptModels } from "../api/routes";
import type { AppInfo, PageInfo, PromptModel, Schema } from "../api/wire";

export type View = "work" | "models" | "review";

export const view = signal<View>("work");
export const info = signal<PageInfo | null>(null);
export const app = signal<AppInfo | null>(null);
export const interactive = signal<readonly PromptModel[]>([]);
export const schema = signal<Schema | null>(null);
export const routes = signal<ReadonlySet<string>>(new Set());

/** "starting" until the first answer; "lost" while the server does not answer. */
export const connection = signal<"starting" | "ok" | "lost">("starting");

export interface Toast {
  readonly id: number;
  readonly tone: "info" | "good" | "bad";
  readonly text: string;
  readonly action?: { readonly text: string; readonly run: () => void };
}

export const toasts = signal<readonly Toast[]>([]);
let lastToast = 0;

const TOAST_MS = 7000;

export function say(text: string, tone: Toast["tone"] = "info", action?: Toast["action"]): void {
  const id = ++lastToast;
  toasts.value = [...toasts.peek().filter((toast) => toast.text !== text), action ? { id, tone, text, action } : { id, tone, text }].slice(-4);
  if (tone !== "bad") window.setTimeout(() => dismiss(id), TOAST_MS);
}

export function dismiss(id: number): void {
  toasts.value = toasts.peek().filter((toast) => toast.id !== id);
}

/** Say what went wrong; the banner already speaks for a server that does not answer. */
export function complain(error: unknown): void {
  if (connection.peek() === "lost") return;
  say(sentence(error), "bad");
}

/** Something longer than half a second; shown as a line with its text. */
export interface Work {
  readonly id: number;
  readonly text: string;
  /** 0 to 1; null: nobody knows. */
  readonly share: number | null;
}

export const works = signal<readonly Work[]>([]);
let lastWork = 0;

export function beginWork(text: string): { progress(share: number): void; end(): void } {
  const id = ++lastWork;
  works.value = [...works.peek(), { id, text, share: null }];
  return {
    progress(share) {
      works.value = works.peek().map((work) => (work.id === id ? { ...work, share } : work));
    },
    end() {
      works.value = works.peek().filter((work) => work.id !== id);
    },
  };
}

export interface Dialog {
  readonly name: string;
  readonly content: () => ComponentChildren;
}

export const dialog = signal<Dialog | null>(null);

export function closeDialog(): void {
  dialog.value = null;
}

/** Does the server have this route? Parameters are written {}. */
export function offers(route: string): boolean {
  return routes.value.has(route);
}

export const person = computed(() => info.value?.person ?? "");

const COOKIE = "labelserver_person";

/** Tell the server who is here; the name goes with every call from now on. */
export async function setPerson(name: string): Promise<void> {
  const path = new URL(document.baseURI).pathname;
  document.cookie = `${COOKIE}=${encodeURIComponent(name)}; path=${path}; max-age=31536000; SameSite=Lax`;
  info.value = await pageInfo();
}

const AGAIN_MS = 1000;
const WAIT_MS = 2000;
let recovering = false;
const recovered = new Set<() => void>();

/** Run `act` each time the server answers again after it did not. */
export function onRecovery(act: () => void): void {
  recovered.add(act);
}

onReach((reachable) => {
  if (reachable) {
    if (connection.peek() === "lost") {
      connection.value = "ok";
      for (const act of recovered) act();
    } else connection.value = "ok";
    return;
  }
  connection.value = "lost";
  if (!recovering) void tryUntilBack();
});

export function noticeLoss(): void {
  // The event stream broke; a call tells whether the server is gone or only the stream.
  void call("GET", "healthz").catch(() => undefined);
}

async function tryUntilBack(): Promise<void> {
  recovering = true;
  while (connection.peek() === "lost") {
    await new Promise((resume) => window.setTimeout(resume, AGAIN_MS));
    await call("GET", "healthz").catch(() => undefined);
  }
  recovering = false;
}

/** Ask the server what it is and what it offers. Waits for an app that is still loading. */
export async function greet(): Promise<void> {
  info.value = await pageInfo();
  document.title = info.value.project;
  const [found, known] = await Promise.all([offeredRoutes(), getSchema().catch(() => null)]);
  routes.value = found;
  schema.value = known;
  await refreshApp();
}

export async function refreshApp(): Promise<void> {
  for (;;) {
    try {
      const [description, models] = await Promise.all([appInfo(), promptModels()]);
      app.value = description;
      interactive.value = models;
      schema.value = await getSchema().catch(() => schema.peek());
      return;
    } catch (error) {
      if (app.peek() !== null) throw error;
      await new Promise((resume) => window.setTimeout(resume, WAIT_MS)); // the app is loading
    }
  }
}
