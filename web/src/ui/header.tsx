/** The line on top: where one is, how far the study is, who is here, whether the server answers. */

import { useSignal } from "@preact/signals";
import { open } from "../state/editor";
import { progress } from "../state/images";
import { connection, dialog, info, person, setPerson, view, works, complain, type View } from "../state/page";
import { keyMap, setSettings, settings } from "../state/settings";
import { Bar } from "./bits";
import { Icon } from "./icons";
import { closeDialog } from "../state/page";

const VIEWS: readonly (readonly [View, string])[] = [["work", "Work"], ["models", "Models"], ["review", "Review"]];

export function Header() {
  const done = progress.value;
  const work = works.value[works.value.length - 1];
  return (
    <header class="top">
      <a class="brand" href={workAddress()} onClick={() => { view.value = "work"; }}>
        <Icon name="layers" size={22} /><span>{info.value?.project ?? "labelserver"}</span>
      </a>
      <nav aria-label="Views">
        {VIEWS.map(([id, text]) => <a key={id} href={id === "work" ? workAddress() : `#/${id}`} class="tab" aria-current={view.value === id ? "page" : undefined} onClick={() => { view.value = id; }}>{text}</a>)}
      </nav>
      <div class="top-work" aria-live="polite">{work !== undefined && <><span class="small-text">{work.text}</span><Bar share={work.share} text={work.text} /></>}</div>
      {done !== null && (
        <div class="study" title={`${done.done} of ${done.all} images are labelled`}>
          <span class="small-text">{done.done}/{done.all} labelled</span>
          <Bar share={done.all === 0 ? 0 : done.done / done.all} text={`${done.done} of ${done.all} images are labelled`} />
        </div>
      )}
      <span class={`server ${connection.value}`} role="status"><i aria-hidden="true" />{connection.value === "ok" ? "server ok" : connection.value === "lost" ? "no server" : "connecting"}</span>
      <button type="button" class="tool with-text" title="Your name: it stands with every label you submit" onClick={askName}><Icon name="person" /><span class="person">{info.value?.anonymous === true ? "Your name" : person.value}</span></button>
      <Theme />
      <button type="button" class="tool" title="Settings" aria-label="Settings" onClick={() => { dialog.value = { name: "settings", content: () => null }; }}><Icon name="gear" /></button>
      <button type="button" class="tool" title={`Keys and help (${keyMap.value.shown("help")})`} aria-label="Keys and help" onClick={() => { dialog.value = { name: "help", content: () => null }; }}><Icon name="help" /></button>
    </header>
  );
}

/** The open image stays in the address, so that a reload brings it back. */
function workAddress(): string {
  return open.value === null ? "#/images" : `#/images/${encodeURIComponent(open.value.id)}`;
}

function Theme() {
  const isLight = document.documentElement.dataset["theme"] === "light";
  void settings.value;
  return <button type="button" class="tool" title="Dark or light" aria-label={isLight ? "Dark theme" : "Light theme"} onClick={() => setSettings({ theme: isLight ? "dark" : "light" })}><Icon name={isLight ? "moon" : "sun"} /></button>;
}

export function askName(): void {
  dialog.value = { name: "person", content: () => <NameForm /> };
}

export function NameForm({ onDone = closeDialog }: { onDone?: () => void }) {
  const name = useSignal(info.peek()?.anonymous === true ? "" : person.peek());
  const save = async (event: Event) => {
    event.preventDefault();
    if (name.value.trim() === "") return;
    try {
      await setPerson(name.value.trim());
      onDone();
    } catch (error) {
      complain(error);
    }
  };
  return (
    <form onSubmit={(event) => void save(event)} class="stack">
      <label class="field tall"><span class="field-name">Your name</span>
        <input type="text" autofocus maxLength={120} autocomplete="name" value={name.value} onInput={(event) => { name.value = event.currentTarget.value; }} /></label>
      <p class="note muted">It stands with every label you submit, and drafts are kept under it. It is not checked: anybody can say any name.</p>
      <div class="row end"><button type="submit" class="primary" disabled={name.value.trim() === ""}>Save</button></div>
    </form>
  );
}

