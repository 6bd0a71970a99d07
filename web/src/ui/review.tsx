/** The Review view: what waits, two revisions beside each other with their difference, approve or return. */

import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { dayAndTime, grouped } from "../core/numbers";
import { DIFFERENCE_LOOKS } from "../core/difference";
import { PLANE_NAMES, type Axis, type PlaneView } from "../core/geometry";
import { unchanging } from "../core/labelmap";
import type { OpenImage } from "../state/open_image";
import { colours, nameOf, labels } from "../state/labels";
import { author, authors, axis, canReview, chosen, decide, differenceColours, history, image, items, left, loadingItem, look, reloadReview, restore, right, showSides, sides, stage, table, unshown, type ReviewItem } from "../state/review";
import { Bar, Select, Swatch } from "./bits";
import { Icon } from "./icons";
import { Plane } from "./plane";

export function ReviewView() {
  return (
    <div class="page review-view">
      <List />
      <section class="review-main" aria-label="Label under review">{chosen.value === null ? <Nothing /> : <Item item={chosen.value} />}</section>
    </div>
  );
}

function Nothing() {
  return <div class="welcome">{loadingItem.value ? <Bar share={null} text="Opening" /> : <><Icon name="check" size={40} /><p>Choose a label to look at.</p><p class="muted">Two revisions stand side by side; the third picture shows where they differ.</p></>}</div>;
}

const STAGES = [{ value: "submitted", text: "waiting" }, { value: "approved", text: "approved" }, { value: "returned", text: "returned" }, { value: "all", text: "all" }];

function List() {
  const people = [{ value: "", text: "everybody" }, ...authors.value.map((name) => ({ value: name, text: name }))];
  return (
    <section class="panel review-list" aria-label="Labels to review">
      <div class="row">
        {canReview() && <Select label="state" value={stage.value} options={STAGES} onChange={(value) => { stage.value = value; void reloadReview(); }} />}
        {authors.value.length > 0 && <Select label="by" value={author.value} options={people} onChange={(value) => { author.value = value; void reloadReview(); }} />}
      </div>
      <ul class="plain">
        {items.value.map((item) => (
          <li key={`${item.image} ${item.tag}`}>
            <button type="button" class={chosen.value?.image === item.image && chosen.value.tag === item.tag ? "review-row open" : "review-row"} data-review={item.image} onClick={() => void look(item)}>
              <span class="image-name">{item.image}</span>
              <span class="image-details">{[item.stage, item.person, item.tag === "final" ? "" : item.tag, item.submittedTs > 0 ? dayAndTime(item.submittedTs * 1000) : ""].filter(Boolean).join(" · ")}</span>
              {item.comment !== "" && <span class="image-details quote">“{item.comment}”</span>}
            </button>
          </li>
        ))}
      </ul>
      {items.value.length === 0 && <p class="note">Nothing waits for a review.</p>}
    </section>
  );
}

function Item({ item }: { item: ReviewItem }) {
  const comment = useSignal("");
  const opened = image.value;
  const none = { value: "0", text: "nothing" };
  const options = [none, ...history.value.map((one) => ({ value: String(one.number), text: `${one.number} · ${one.author} · ${dayAndTime(one.created_ts * 1000)}${one.current ? " · current" : ""}` }))];
  const planes = (opened?.axes ?? []).map((a) => ({ value: String(a), text: PLANE_NAMES[a] }));
  return (
    <>
      <div class="row review-bar">
        <h2>{item.image}</h2>
        <Select label="first" value={String(left.value)} options={options} onChange={(value) => { left.value = Number(value); void showSides(); }} />
        <Select label="second" value={String(right.value)} options={options} onChange={(value) => { right.value = Number(value); void showSides(); }} />
        {planes.length > 1 && <Select label="plane" value={String(axis.value)} options={planes} onChange={(value) => { axis.value = Number(value) as Axis; }} />}
        {history.value.length > 1 && left.value > 0 && <button type="button" class="quiet" title="Make the first one current again, as a new revision" onClick={() => void restore(left.value)}>Restore {left.value}</button>}
      </div>
      {unshown.value !== "" ? <p class="note" role="alert" data-unshown>{unshown.value} It can be approved or returned all the same.</p>
        : opened !== null && sides.value !== null ? <Sides opened={opened} /> : <Bar share={null} text="Reading the revisions" />}
      <div class="review-foot">
        <Differences opened={opened} />
        {canReview() && (
          <div class="verdict">
            <textarea rows={3} maxLength={2000} placeholder="A comment for the annotator" aria-label="Comment for the annotator" value={comment.value} onInput={(event) => { comment.value = event.currentTarget.value; }} />
            <div class="row end">
              <button type="button" disabled={comment.value.trim() === ""} title={comment.value.trim() === "" ? "Say in the comment what should change" : ""} onClick={() => void decide("return", comment.value.trim())}><Icon name="back" size={15} /> Return</button>
              <button type="button" class="primary" onClick={() => void decide("approve", comment.value.trim())}><Icon name="check" size={15} /> Approve</button>
            </div>
          </div>
        )}
      </div>
    </>
  );
}

function Sides({ opened }: { opened: OpenImage }) {
  const now = sides.value!;
  const seen: Axis = opened.axes.includes(axis.value) ? axis.value : 2;
  const title = (number: number) => (number === 0 ? "nothing" : `revision ${number}`);
  return (
    <div class="sides" data-state={opened.loaded.value === 1 ? "ready" : "loading"}>
      <Side opened={opened} seen={seen} name={title(left.value)} voxels={() => sides.value?.left ?? now.left} />
      <Side opened={opened} seen={seen} name={title(right.value)} voxels={() => sides.value?.right ?? now.right} />
      <Side opened={opened} seen={seen} name="difference" voxels={() => sides.value?.differing ?? now.differing} differing />
    </div>
  );
}

function Side({ opened, seen, name, voxels, differing = false }: { opened: OpenImage; seen: Axis; name: string; voxels: () => Uint8Array; differing?: boolean }) {
  const view = useRef<PlaneView | null>(null);
  const step = (by: number) => {
    const next = [...opened.cursor.peek()] as [number, number, number];
    next[seen] = Math.min(opened.dims[seen] - 1, Math.max(0, next[seen] + by));
    opened.cursor.value = next;
  };
  const key = (event: KeyboardEvent) => {
    const by = { PageUp: 1, PageDown: -1, ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    step(by);
  };
  const slice = opened.cursor.value[seen];
  return (
    <section class="pane">
      <div class="pane-view" tabIndex={0} role="application" aria-roledescription="image pane" aria-label={`${name}, ${PLANE_NAMES[seen]} slice ${slice + 1} of ${opened.dims[seen]}; arrows change the slice`}
        onKeyDown={key} onWheel={(event) => { step(event.deltaY < 0 ? 1 : -1); }}>
        <Plane key={`${opened.id} ${seen}`} image={opened} axis={seen} labels={() => unchanging(voxels())} colours={() => (differing ? differenceColours : colours.value)} look={() => opened.looks[seen].value} onView={(now) => { view.current = now; }} />
      </div>
      <div class="pane-foot"><span class="pane-name">{name}</span>
        {opened.dims[seen] > 1 && <><input type="range" class="slice" min={1} max={opened.dims[seen]} value={slice + 1} aria-label={`${name} slice`} tabIndex={-1} onInput={(event) => step(Number(event.currentTarget.value) - 1 - opened.cursor.peek()[seen])} />
          <span class="slice-number">{slice + 1}<span class="muted">/{opened.dims[seen]}</span></span></>}
      </div>
    </section>
  );
}

function Differences({ opened }: { opened: OpenImage | null }) {
  const known = new Map(labels.value.map((label) => [label.value, label.colour]));
  const unit = opened?.isPicture === true ? "pixels" : "voxels";
  return (
    <div class="differences">
      <ul class="legend">{DIFFERENCE_LOOKS.map((look) => <li key={look.value}><Swatch colour={look.color} /> {look.text}</li>)}</ul>
      <table class="numbers"><caption class="aside">How the two differ</caption>
        <thead><tr><th scope="col">Label</th><th scope="col">first, {unit}</th><th scope="col">second, {unit}</th><th scope="col">Dice</th></tr></thead>
        <tbody>{table.value.map((row) => (
          <tr key={row.value} data-difference={nameOf(row.value)}><th scope="row"><Swatch colour={known.get(row.value) ?? [128, 128, 128]} /> {nameOf(row.value)}</th><td>{grouped(row.first)}</td><td>{grouped(row.second)}</td><td>{row.dice.toFixed(3)}</td></tr>
        ))}</tbody></table>
      {table.value.length === 0 && <p class="note muted">Neither has any label.</p>}
    </div>
  );
}
