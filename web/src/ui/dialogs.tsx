/** Everything that asks or explains in front of the page. */

import { useSignal } from "@preact/signals";
import { ACTIONS, HELD, parseOverrides, shownKey, type Action } from "../core/keymap";
import { sentence } from "../api/http";
import { draftConflict, flag, joinBoth, keepMine, keepThisDraft, meeting, skip, takeOtherDraft, takeTheirs } from "../state/work";
import { open } from "../state/editor";
import { nameOf } from "../state/labels";
import { closeDialog, connection, dialog, dismiss, toasts, info } from "../state/page";
import { lease } from "../state/queue";
import { keyMap, setSettings, settings } from "../state/settings";
import { shown, type Shown } from "../state/showing";
import { DIFFERENCE_LOOKS, overlaps } from "../core/difference";
import { dayAndTime, grouped } from "../core/numbers";
import { hasUnsaved } from "../state/drafting";
import { Modal, Select, Swatch, Switch } from "./bits";
import { NameForm } from "./header";

export function Dialogs() {
  if (draftConflict.value > 0) return <DraftConflict />;
  const now = dialog.value;
  if (now === null) return null;
  switch (now.name) {
    case "help": return <Help />;
    case "settings": return <SettingsDialog />;
    case "flag": return <Ask title="Flag this image" what="What is wrong with it?" button="Flag" choices={["wrong organ or region", "artefacts", "not the modality of this study", "personal data is visible"]} onAnswer={(reason) => void flag(reason)} />;
    case "skip": return <Ask title="Skip this image" what="Why? The reason helps whoever gets it next." button="Skip" choices={["too difficult for me", "image quality", "not sure about the border", "no time now"]} onAnswer={(reason) => void skip(reason)} />;
    case "person": return <Modal title="Who is labeling?" onClose={closeDialog}><NameForm /></Modal>;
    default: return null;
  }
}

function Ask({ title, what, button, choices, onAnswer }: { title: string; what: string; button: string; choices: readonly string[]; onAnswer: (reason: string) => void }) {
  const reason = useSignal("");
  const answer = (event: Event) => {
    event.preventDefault();
    if (reason.value.trim() === "") return;
    closeDialog();
    onAnswer(reason.value.trim());
  };
  return (
    <Modal title={title} onClose={closeDialog}>
      <form class="stack" onSubmit={answer}>
        <label class="field tall"><span class="field-name">{what}</span>
          <input type="text" autofocus maxLength={1000} value={reason.value} onInput={(event) => { reason.value = event.currentTarget.value; }} /></label>
        <div class="chips">{choices.map((choice) => <button key={choice} type="button" class="quiet" aria-pressed={reason.value === choice} onClick={() => { reason.value = choice; }}>{choice}</button>)}</div>
        <div class="row end"><button type="button" onClick={closeDialog}>Cancel</button><button type="submit" class="primary" disabled={reason.value.trim() === ""}>{button}</button></div>
      </form>
    </Modal>
  );
}

const GROUPS: readonly Action["group"][] = ["Move", "Draw", "Prompt", "See", "Work"];

function Help() {
  return (
    <Modal title="Keys" onClose={closeDialog} wide>
      <div class="key-groups">
        {GROUPS.map((group) => (
          <section key={group}>
            <h3>{group}</h3>
            <dl class="keys">
              {ACTIONS.filter((action) => action.group === group).map((action) => (
                <div key={action.id}><dt>{keyMap.value.keys(action.id).map((key) => <kbd key={key}>{shownKey(key)}</kbd>)}</dt><dd>{action.title}</dd></div>
              ))}
            </dl>
          </section>
        ))}
        <section>
          <h3>Hold and point</h3>
          <dl class="keys">{HELD.map((one) => <div key={one.key}><dt><kbd>{one.key}</kbd></dt><dd>{one.title}</dd></div>)}</dl>
        </section>
      </div>
      <p class="note muted">labelserver {info.value?.version}. Every route of the server is described under <a href="docs">docs</a>. Keys can be changed in the settings.</p>
    </Modal>
  );
}

function SettingsDialog() {
  const now = settings.value;
  const wrong = useSignal("");
  const setKeys = (text: string) => {
    try {
      parseOverrides(text);
      wrong.value = "";
      setSettings({ keyMap: text });
    } catch (error) {
      wrong.value = sentence(error);
    }
  };
  return (
    <Modal title="Settings" onClose={closeDialog}>
      <div class="stack">
        <Select label="Theme" value={now.theme} options={[{ value: "system", text: "as the system" }, { value: "dark", text: "dark" }, { value: "light", text: "light" }]}
          onChange={(theme) => setSettings({ theme: theme as typeof now.theme })} />
        <Switch on={now.runOnOpen} onChange={(on) => setSettings({ runOnOpen: on })}>Run the automatic model when an image without labels opens</Switch>
        <Switch on={now.nextAfterSubmit} onChange={(on) => setSettings({ nextAfterSubmit: on })}>Open the next image after a submit</Switch>
        <Switch on={now.radiological} onChange={(on) => setSettings({ radiological: on })}>Radiological convention: the patient's right on the left of the screen</Switch>
        <Switch on={now.smooth} onChange={(on) => setSettings({ smooth: on })}>Smooth the picture between voxels</Switch>
        <label class="field tall"><span class="field-name">Own keys, as JSON</span>
          <textarea rows={3} class="code" spellcheck={false} placeholder={'{"brush": ["d"]}'} defaultValue={now.keyMap} aria-invalid={wrong.value !== ""} onInput={(event) => setKeys(event.currentTarget.value)} /></label>
        {wrong.value !== "" && <p class="note bad" role="alert">{wrong.value}</p>}
      </div>
    </Modal>
  );
}

function DraftConflict() {
  return (
    <Modal title="Two windows draw on this image" onClose={() => void keepThisDraft()}>
      <p>Another window of yours, or another machine, has saved a newer draft of this image. Nothing is lost: choose which one to go on with.</p>
      <div class="row end">
        <button type="button" onClick={() => void takeOtherDraft()}>Show the other one here</button>
        <button type="button" class="primary" onClick={() => void keepThisDraft()}>Go on with this one</button>
      </div>
      <p class="note muted">After showing the other one, undo brings this one back.</p>
    </Modal>
  );
}

/** A submit met somebody else's: shown beside the picture, so that both can be looked at before one chooses. */
export function Meeting() {
  const met = meeting.value;
  const image = open.value;
  if (met === null || image === null) return null;
  void image.edits.value;
  const rows = overlaps(met.theirs, image.map.voxels);
  const drawnHere = lease.value?.labels ?? [];
  const who = met.revision?.author ?? "Somebody";
  const when = met.revision === null ? "" : ` on ${dayAndTime(met.revision.created_ts * 1000)}`;
  const choices: readonly (readonly [Shown, string])[] = [["mine", "yours"], ["theirs", "theirs"], ["difference", "difference"]];
  return (
    <section class="meeting" role="alertdialog" aria-label="Somebody else submitted this image">
      <h2>{who} submitted this image{when}</h2>
      <p>Both labels are kept: theirs as revision {met.revision?.number ?? "before"}, yours as your draft. Look at them, then choose.</p>
      <div class="segmented" role="group" aria-label="Which label is shown">
        {choices.map(([id, text]) => <button key={id} type="button" aria-pressed={shown.value === id} onClick={() => { shown.value = id; }}>{text}</button>)}
      </div>
      {shown.value === "difference" && <ul class="legend">{DIFFERENCE_LOOKS.map((look) => <li key={look.value}><Swatch colour={look.color} /> {look.text.replace("the first", "theirs").replace("the second", "yours")}</li>)}</ul>}
      <table class="numbers"><thead><tr><th scope="col">Label</th><th scope="col">theirs</th><th scope="col">yours</th><th scope="col">Dice</th></tr></thead>
        <tbody>{rows.map((row) => <tr key={row.value}><th scope="row">{nameOf(row.value)}</th><td>{grouped(row.first)}</td><td>{grouped(row.second)}</td><td>{row.dice.toFixed(3)}</td></tr>)}</tbody></table>
      <div class="row end">
        <button type="button" onClick={() => { meeting.value = null; }}>Decide later</button>
        <button type="button" onClick={() => void takeTheirs()}>Go on with theirs</button>
        {drawnHere.length > 0 && <button type="button" title={`Theirs, with your ${drawnHere.join(", ")} in it`} onClick={() => void joinBoth()}>Put yours into theirs</button>}
        <button type="button" class="primary" onClick={() => void keepMine()}>Submit yours on top</button>
      </div>
    </section>
  );
}

export function Banner() {
  if (connection.value !== "lost") return null;
  return (
    <div class="banner" role="alert">
      The server does not answer. {hasUnsaved() ? "What you draw is kept in this browser and saved as soon as it is back." : "You can go on drawing; it is saved as soon as it is back."}
    </div>
  );
}

export function Toasts() {
  return (
    <div class="toasts" aria-live="polite">
      {toasts.value.map((toast) => (
        <div key={toast.id} class={`toast ${toast.tone}`} role={toast.tone === "bad" ? "alert" : "status"}>
          <span>{toast.text}</span>
          {toast.action !== undefined && <button type="button" class="quiet" onClick={() => { toast.action!.run(); dismiss(toast.id); }}>{toast.action.text}</button>}
          <button type="button" class="tool small" aria-label="Dismiss" title="Dismiss" onClick={() => dismiss(toast.id)}>×</button>
        </div>
      ))}
    </div>
  );
}

/** What somebody who is here for the first time needs to know, once. */
export function FirstVisit() {
  if (settings.value.welcomed || info.value === null) return null;
  return (
    <aside class="hints" aria-label="First steps">
      <h2>Welcome</h2>
      <ol>
        <li><b>Next image</b> <kbd>N</kbd> opens the one that teaches the model most.</li>
        <li>Choose a label, take <b>Point</b> <kbd>P</kbd> and click on it: the model draws the mask.</li>
        <li>Correct with <b>Brush</b> <kbd>B</kbd> and <b>Eraser</b> <kbd>E</kbd>; <kbd>Ctrl+Z</kbd> takes anything back.</li>
        <li><b>Submit</b> <kbd>Ctrl+Enter</kbd>. Drafts are saved after each step by themselves.</li>
      </ol>
      <p class="muted">All keys: <kbd>?</kbd></p>
      {info.value.anonymous && <NameForm onDone={() => undefined} />}
      <div class="row end"><button type="button" onClick={() => setSettings({ welcomed: true })}>Got it</button></div>
    </aside>
  );
}
