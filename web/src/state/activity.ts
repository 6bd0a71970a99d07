/** What a person does with an image, told to the server's time log in bundles, where it keeps one. */

import { call, idPath } from "../api/http";
import { onChange, open } from "./editor";
import { offers } from "./page";

type Sign = "open" | "active" | "edit" | "prompt" | "proposal";

interface Happened {
  readonly kind: Sign;
  readonly at: number;
  readonly model?: string;
  readonly version?: string;
}

const TELL = "POST /api/v1/images/{}/activity";
/** ms between two bundles. */
const EVERY_MS = 20000;
/** ms: of signs of life this close together one is enough. */
const SAME_MS = 5000;

let waiting: { readonly image: string; readonly event: Happened }[] = [];
let lastActiveMs = 0;

export function noteSign(kind: Sign, model = "", version = ""): void {
  const image = open.peek()?.id;
  if (image === undefined || !offers(TELL)) return;
  const nowMs = Date.now();
  if (kind === "active") {
    if (nowMs - lastActiveMs < SAME_MS) return;
    lastActiveMs = nowMs;
  }
  const at = nowMs / 1000;
  waiting.push({ image, event: model === "" ? { kind, at } : { kind, at, model, version } });
}

/** Send what waits. What the server does not take is not worth a word to the person. */
export async function tellSigns(): Promise<void> {
  const told = waiting;
  waiting = [];
  for (const image of new Set(told.map((one) => one.image))) {
    const events = told.filter((one) => one.image === image).map((one) => one.event).slice(-1000);
    await call("POST", `api/v1/images/${idPath(image)}/activity`, { json: { events } }).catch(() => undefined);
  }
}

/** Signs of life: the pointer, the wheel, the keys. */
export function followActivity(): void {
  for (const kind of ["pointermove", "wheel", "keydown"] as const) window.addEventListener(kind, () => noteSign("active"), { passive: true });
  window.setInterval(() => void tellSigns(), EVERY_MS);
  onChange((kind) => {
    if (kind !== "model") noteSign("edit");
  });
}
