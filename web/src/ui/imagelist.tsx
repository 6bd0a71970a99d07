/** The list of images: only the rows in sight are in the document, however many there are. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { complete, drafts, listed, loading, moreImages, reloadImages, rows, rowState, scores, search, searchFor, sort, stateFilter, type RowState, type StateFilter } from "../state/images";
import type { ListedImage } from "../api/wire";
import { open } from "../state/editor";
import { app, person } from "../state/page";
import { hasQueue, lease } from "../state/queue";
import { settings, setSettings, keyMap } from "../state/settings";
import { exhausted, opening, openImage, openNext, why } from "../state/work";
import { Select } from "./bits";
import { Icon } from "./icons";

const ROW_PX = 46;
/** Rows drawn beyond the ones in sight. */
const SPARE = 6;

const STATES: Readonly<Record<RowState, readonly [icon: string, text: string]>> = {
  flagged: ["flag", "flagged"],
  returned: ["back", "returned"],
  approved: ["check", "approved"],
  submitted: ["dot", "submitted"],
  draft: ["half", "draft"],
  open: ["ring", "to do"],
};

export function ImagePanel() {
  return (
    <section class="panel images" aria-label="Images">
      <NextBox />
      <Filters />
      <List />
    </section>
  );
}

function NextBox() {
  const strategies = Object.entries(app.value?.strategies ?? {}).map(([name, told]) => ({ value: name, text: name, title: told.description }));
  const own = hasQueue() ? [{ value: "", text: "project's choice", title: "The strategy of the project" }] : [];
  const options = [...own, ...strategies];
  const chosen = options.some((option) => option.value === settings.value.strategy) ? settings.value.strategy : (options[0]?.value ?? "");
  const key = keyMap.value.shown("next");
  const reason = app.value === null ? "The app is still loading" : exhausted.value;
  return (
    <div class="next-box">
      <button type="button" class="wide-button" disabled={opening.value !== null || app.value === null} title={`Next image (${key})`} onClick={() => void openNext()}>
        <Icon name="next" /> Next image <kbd>{key}</kbd>
      </button>
      <Select label="chosen by" value={chosen} options={options} onChange={(value) => setSettings({ strategy: value })} disabled={options.length === 0} />
      {reason !== "" && <p class="note">{reason}</p>}
      {open.value !== null && why.value !== "" && <p class="note" data-reason>{why.value}</p>}
      {lease.value !== null && <LeaseNote />}
    </div>
  );
}

function LeaseNote() {
  const held = lease.value!;
  const reader = held.tag === "final" ? "" : ` as ${held.tag.replace("_", " ")}`;
  return (
    <>
      <p class="note muted" data-lease={held.image}>Held for you while you work on it{reader}.</p>
      {held.labels.length > 0 && <p class="note">Draw here: <b>{held.labels.join(", ")}</b></p>}
      {held.returned !== "" && <p class="note bad">Returned: {held.returned}</p>}
    </>
  );
}

function Filters() {
  const sorts = [{ value: "id", text: "by name" }, ...scores.value.map((score) => ({ value: score, text: score.replace(/_/g, " ") }))];
  return (
    <div class="filters">
      <input type="search" class="grow" placeholder="Find an image" aria-label="Find an image by its name" value={search.value}
        onInput={(event) => void searchFor(event.currentTarget.value)} />
      <div class="row">
        <Select bare label="Which images" value={stateFilter.value}
          options={hasQueue() ? [...BY_LABEL, ...BY_STAGE] : BY_LABEL}
          onChange={(value) => { stateFilter.value = value as StateFilter; void reloadImages(); }} />
        <Select bare label="In which order" value={sort.value} options={sorts} onChange={(value) => { sort.value = value; void reloadImages(); }} />
      </div>
    </div>
  );
}

const BY_LABEL = [{ value: "", text: "all" }, { value: "unlabeled", text: "to do" }, { value: "labeled", text: "labelled" }];
const BY_STAGE = ["draft", "submitted", "approved", "returned", "flagged"].map((stage) => ({ value: stage, text: stage === "draft" ? "with somebody" : stage }));

function List() {
  const place = useRef<HTMLDivElement>(null);
  const top = useSignal(0);
  const height = useSignal(600);
  const focused = useSignal(0);
  const all = rows.value;

  useEffect(() => {
    const box = place.current!;
    const watcher = new ResizeObserver(() => { height.value = box.clientHeight; });
    watcher.observe(box);
    return () => watcher.disconnect();
  }, []);

  const openId = open.value?.id;
  useEffect(() => {
    const box = place.current!;
    const index = rows.peek().findIndex((image) => image.id === openId);
    if (index < 0) return;
    focused.value = index;
    if (index * ROW_PX < box.scrollTop || (index + 1) * ROW_PX > box.scrollTop + box.clientHeight) box.scrollTop = (index - 2) * ROW_PX;
  }, [openId, all.length === 0]);

  const first = Math.max(0, Math.floor(top.value / ROW_PX) - SPARE);
  const last = Math.min(all.length, Math.ceil((top.value + height.value) / ROW_PX) + SPARE);
  const scrolled = (event: Event) => {
    const box = event.currentTarget as HTMLDivElement;
    top.value = box.scrollTop;
    if (box.scrollTop + box.clientHeight > box.scrollHeight - 10 * ROW_PX) void moreImages();
  };
  const key = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // Ctrl+Enter submits, also from here
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      event.stopPropagation();
      focused.value = Math.min(all.length - 1, Math.max(0, focused.value + step));
      const at = focused.value * ROW_PX;
      const box = place.current!;
      if (at < box.scrollTop) box.scrollTop = at;
      else if (at + ROW_PX > box.scrollTop + box.clientHeight) box.scrollTop = at + ROW_PX - box.clientHeight;
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      event.stopPropagation();
      const image = all[focused.value];
      if (image !== undefined) void openImage(image.id);
    }
  };
  return (
    <>
      <div ref={place} class="list" role="listbox" tabIndex={0} aria-label="Images" aria-busy={loading.value} onScroll={scrolled} onKeyDown={key}
        aria-activedescendant={all[focused.value] !== undefined && focused.value >= first && focused.value < last ? `image-${focused.value}` : undefined}>
        <div class="list-space" style={{ height: `${all.length * ROW_PX}px` }} role="presentation">
          {all.slice(first, last).map((image, i) => (
            <Row key={image.id} image={image} index={first + i} isFocused={first + i === focused.value} onChoose={() => { focused.value = first + i; void openImage(image.id); }} />
          ))}
        </div>
        {all.length === 0 && !loading.value && <p class="note list-empty">{listed.value.length > 0 ? "No image has this name." : sort.value !== "id" ? "No image has this score yet: it comes with a scoring." : "There are no images here."}</p>}
      </div>
      <div class="list-foot muted small-text" aria-live="polite">
        {loading.value ? "loading…" : `${all.length}${complete.value ? "" : "+"} ${all.length === 1 ? "image" : "images"}`}
      </div>
    </>
  );
}

function Row({ image, index, isFocused, onChoose }: { image: ListedImage; index: number; isFocused: boolean; onChoose: () => void }) {
  const state = rowState(image, drafts.value);
  const [icon, text] = STATES[state];
  const isOpen = open.value?.id === image.id || opening.value === image.id;
  const holders = (image.work?.holders ?? []).filter((holder) => holder !== person.value).join(", ");
  const details = [text, image.work?.flag_reason, holders === "" ? "" : `with ${holders}`, image.side === "held_out" ? "held out" : ""].filter(Boolean).join(" · ");
  return (
    <div id={`image-${index}`} role="option" aria-selected={isOpen} class={`image-row ${isOpen ? "open" : ""} ${isFocused ? "focus" : ""}`}
      style={{ top: `${index * ROW_PX}px` }} data-image={image.id} data-row-state={state} title={`${image.id}: ${details}`} onClick={onChoose}>
      <span class={`state state-${state}`}><Icon name={icon} size={16} /></span>
      <span class="image-words">
        <span class="image-name">{image.id}</span>
        <span class="image-details">{details}</span>
      </span>
      {image.score !== null && image.score !== undefined && <span class="score">{image.score.toPrecision(2)}</span>}
    </div>
  );
}
