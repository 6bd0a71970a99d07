/**
 * Calls to the server. Every address is relative to the page's own, so that the page works behind a path prefix; an
 * error is one of two classes, and both carry a sentence for people.
 */

/** The server answered, with an error. `detail` is its sentence. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly detail: string,
    readonly fields: Readonly<Record<string, unknown>>,
  ) {
    super(detail);
  }
}

/** The server did not answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

export interface CallOptions {
  readonly json?: unknown;
  readonly body?: BodyInit;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  readonly keepalive?: boolean;
}

type Listener = (reachable: boolean) => void;
let listener: Listener = () => undefined;

/** Be told of each call whether the server answered. */
export function onReach(told: Listener): void {
  listener = told;
}

export function addressOf(path: string): string {
  return new URL(path.replace(/^\//, ""), document.baseURI).href;
}

/** An image's id in a path: each part percent-encoded, "/" left as it is. */
export function idPath(id: string): string {
  return id.split("/").map(encodeURIComponent).join("/");
}

export async function call(method: string, path: string, options: CallOptions = {}): Promise<Response> {
  const headers = new Headers(options.headers);
  let body = options.body;
  if (options.json !== undefined) {
    headers.set("Content-Type", "application/json");
    body = JSON.stringify(options.json);
  }
  const init: RequestInit = { method, headers, cache: "default" };
  if (body !== undefined) init.body = body;
  if (options.signal !== undefined) init.signal = options.signal;
  if (options.keepalive === true) init.keepalive = true;
  let response: Response;
  try {
    response = await fetch(addressOf(path), init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    listener(false);
    throw new Unreachable();
  }
  if (response.status === 502 || response.status === 504) {
    listener(false); // a proxy speaks for a server that does not
    throw new Unreachable();
  }
  listener(true);
  if (!response.ok && response.status !== 304) throw await errorOf(response);
  return response;
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await call("GET", path, { signal })).json()) as T;
}

export async function sendJson<T>(method: string, path: string, json: unknown, signal?: AbortSignal): Promise<T> {
  const response = await call(method, path, { json, signal });
  const text = await response.text();
  return (text === "" ? {} : JSON.parse(text)) as T;
}

async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text();
  try {
    const problem = JSON.parse(text) as Record<string, unknown>;
    const detail = typeof problem["detail"] === "string" ? problem["detail"] : (problem["title"] as string);
    const fields = (problem["fields"] as Record<string, unknown> | undefined) ?? problem;
    return new ApiError(response.status, detail ?? `The server answered ${response.status}.`, fields);
  } catch {
    return new ApiError(response.status, `The server answered ${response.status}: ${text.slice(0, 200)}`, {});
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** The sentence of whatever was thrown. */
export function sentence(error: unknown): string {
  if (error instanceof Error) return error.message;
  return String(error);
}
