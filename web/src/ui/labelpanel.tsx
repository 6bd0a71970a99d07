/** The labels: which one is drawn, how much there is of each, what is shown and what is protected. */

import { useSignal } from "@preact/signals";
import { LARGEST_VALUE } from "../core/labelmap";
import { grouped, millilitres } from "../core/numbers";
import { clearLabel, open } from "../state/editor";
import { active, activeLabel, addLabel, hidden, labels, locked, solo, toggleHidden, toggleLocked, undrawable, type Label } from "../state/labels";
import { complain, schema } from "../state/page";
import { lease } from "../state/queue";
import { keyMap, setSettings, settings } from "../state/settings";
import { lookedAt, lookedAtAll } from "../state/work";
import { Swatch, Switch } from "./bits";
import { Icon } from "./icons";

export function LabelPanel() {
  return (
    <section class="panel labels" aria-label="Labels">
      <h2>Labels</h2>
      {labels.value.length === 0 && <p class="note">This project has no labels yet. Add the first one.</p>}
      <table class="label-table">
        <caption class="aside">Labels of this image with their size</caption>
        <thead class="aside"><tr><th>Label</th><th>Size</th><th>Shown</th><th>Locked</th></tr></thead>
        <tbody>
          {labels.value.map((label, i) => <LabelRow key={label.value} label={label} position={i + 1} />)}
        </tbody>
      </table>
      {undrawable.value.length > 0 && <p class="note" data-undrawable={undrawable.value.length}>Values above {LARGEST_VALUE} cannot be drawn here; labels that have them are left as they are: {undrawable.value.join(", ")}.</p>}
      <AddLabel />
      <LookedAt />
      <label class="range-field">
        <span>opacity</span>
        <input type="range" min={0.05} max={1} step={0.05} value={settings.value.opacity} aria-label="Opacity of the labels"
          onInput={(event) => setSettings({ opacity: Number(event.currentTarget.value) })} />
        <output>{Math.round(settings.value.opacity * 100)} %</output>
      </label>
      <div class="segmented" role="group" aria-label="How labels are drawn">
        <button type="button" aria-pressed={!settings.value.outline} onClick={() => setSettings({ outline: false })}>filled</button>
        <button type="button" aria-pressed={settings.value.outline} title={`Outlines or filled (${keyMap.value.shown("outline")})`} onClick={() => setSettings({ outline: true })}>outline</button>
      </div>
    </section>
  );
}

/** What of the image was looked at, while that is not everything. */
function LookedAt() {
  const image = open.value;
  const so = lookedAt.value;
  const held = lease.value?.image === image?.id ? lease.value : null;
  if (image === null || (so === null && (held?.parts.length ?? 0) === 0)) return null;
  const names = so?.labels?.map((id) => schema.value?.labels.find((label) => label.id === id)?.name ?? id);
  const where = so === null ? "what is framed" : `${names === undefined ? "all labels" : names.join(", ")}${so.part ? ", in a part of the image" : ""}`;
  return (
    <div class="looked-at" data-looked-at={so === null ? "asked" : "part"}>
      <p class="note">Looked at: {where}, and what you change. The rest teaches the model nothing.</p>
      <Switch on={lookedAtAll.value} onChange={(on) => { lookedAtAll.value = on; }} title="Then what is empty teaches the model that nothing is there">I have looked at everything</Switch>
    </div>
  );
}

function LabelRow({ label, position }: { label: Label; position: number }) {
  const image = open.value;
  void image?.edits.value; // the counts are no signals
  const count = image === null ? 0 : image.map.counts[label.value]!;
  const isActive = activeLabel.value?.value === label.value;
  const isHidden = hidden.value.has(label.value);
  const isLocked = locked.value.has(label.value);
  const size = image?.isPicture === true ? `${grouped(count)} px` : `${grouped(count)} vox`;
  return (
    <tr class={isActive ? "active" : ""} data-label={label.name} data-voxels={count}>
      <td>
        <button type="button" class="label-choose" aria-pressed={isActive} title={`Draw ${label.name}${position < 10 ? ` (${position})` : ""}; Alt + click: show it alone`}
          onClick={(event) => { if (event.altKey) solo(label.value); else active.value = label.value; }}>
          <Swatch colour={label.colour} number={position} />
          <span class="label-words">
            <span class="label-name">{label.name}</span>
            <span class="label-size"><span>{size}</span>{image !== null && !image.isPicture && <span>{millilitres(count, image.voxelMm3)}</span>}</span>
          </span>
        </button>
      </td>
      <td class="label-tools">
        <button type="button" class="tool small" aria-pressed={isHidden} title={`${isHidden ? "Show" : "Hide"} ${label.name}`} aria-label={`Hide ${label.name}`}
          onClick={() => toggleHidden(label.value)}><Icon name={isHidden ? "eyeOff" : "eye"} size={16} /></button>
        <button type="button" class="tool small" aria-pressed={isLocked} title={`${isLocked ? "Unlock" : "Lock"} ${label.name}: locked labels are not changed`} aria-label={`Lock ${label.name}`}
          onClick={() => toggleLocked(label.value)}><Icon name={isLocked ? "lock" : "unlock"} size={16} /></button>
        <button type="button" class="tool small" title={`Remove all of ${label.name} from this image (undo brings it back)`} aria-label={`Clear ${label.name}`} disabled={count === 0}
          onClick={() => clearLabel(label.value)}><Icon name="cross" size={16} /></button>
      </td>
    </tr>
  );
}

function AddLabel() {
  const adding = useSignal(false);
  const name = useSignal("");
  if (!adding.value) {
    return <button type="button" class="quiet add" onClick={() => { adding.value = true; }}><Icon name="plus" size={15} /> label</button>;
  }
  const add = async (event: Event) => {
    event.preventDefault();
    if (name.value.trim() === "") return;
    try {
      await addLabel(name.value.trim());
      name.value = "";
      adding.value = false;
    } catch (error) {
      complain(error);
    }
  };
  return (
    <form class="row" onSubmit={(event) => void add(event)} onKeyDown={(event) => { if (event.key === "Escape") { event.stopPropagation(); adding.value = false; } }}>
      <input type="text" class="grow" autofocus maxLength={200} placeholder="Name of the new label" aria-label="Name of the new label" value={name.value}
        onInput={(event) => { name.value = event.currentTarget.value; }} />
      <button type="submit">Add</button>
    </form>
  );
}
