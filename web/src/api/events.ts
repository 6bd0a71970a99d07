/** The server's event stream. The browser connects again by itself and takes up where it left off. */

import { addressOf } from "./http";
import type { ServerEvent } from "./wire";

const KINDS = [
  "job.state", "job.progress", "job.epoch", "job.log",
  "version.candidate", "version.published", "version.unchecked", "version.rejected", "version.pinned", "version.deleted",
  "training.triggered", "training.triggers",
  "label.saved", "label.restored", "label.removed", "label.reviewed",
  "image.added", "image.removed", "image.restored", "image.erased", "image.flagged", "image.list",
  "lease.granted", "lease.released", "queue.changed", "review.changed",
  "schema.changed", "gap",
];

/** How often a closed stream is opened anew. */
const AGAIN_MS = 2000;

export interface EventStream {
  close(): void;
}

/**
 * Follow the stream for as long as the page lives.
 *
 * @param onOpen told of every connection; the first and those after a break, when things may have been missed
 */
export function followEvents(onEvent: (event: ServerEvent) => void, onOpen: () => void, onLost: () => void): EventStream {
  let source: EventSource | null = null;
  let closed = false;
  let timer = 0;
  const connect = () => {
    source = new EventSource(addressOf("api/v1/events?kind=job,label,image,version,training,schema,review,lease,queue"));
    source.onopen = onOpen;
    source.onerror = () => {
      onLost();
      if (source?.readyState !== EventSource.CLOSED || closed) return;
      timer = window.setTimeout(connect, AGAIN_MS);
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (message) => {
        const text = (message as MessageEvent<string>).data;
        const parsed = JSON.parse(text) as Partial<ServerEvent>;
        onEvent({ ts: 0, data: {}, ...parsed, kind: parsed.kind ?? kind });
      });
    }
  };
  connect();
  return {
    close() {
      closed = true;
      window.clearTimeout(timer);
      source?.close();
    },
  };
}
