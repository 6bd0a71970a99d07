/** The model that answers prompts or draws by itself: which, live or not, how long it took, cancel. */

import { useSignal, useSignalEffect } from "@preact/signals";
import { seconds } from "../core/numbers";
import { open } from "../state/editor";
import { app } from "../state/page";
import { cancelRun, chosen, choices, clearPrompts, lastRun, leaveSession, prompts, run, running } from "../state/prompting";
import { keyMap, setSettings, settings } from "../state/settings";
import { Bar, Select, Switch } from "./bits";
import { Icon } from "./icons";

/** A spinner that shows at once would flicker at every click. */
const SPINNER_MS = 200;

export function ModelPanel() {
  const model = chosen.value;
  const image = open.value;
  const key = keyMap.value.shown("run");
  const adds = prompts.value.filter((prompt) => prompt.positive).length;
  const removes = prompts.value.length - adds;
  return (
    <section class="panel model" aria-label="Model">
      <h2>Model</h2>
      {app.value === null && <><p class="note">The app is loading its models.</p><Bar share={null} text="The app is loading" /></>}
      {app.value !== null && model === undefined && <p class="note">{image === null ? "Open an image to see the models for it." : "The app offers no model for this image."}</p>}
      {model !== undefined && (
        <>
          <Select bare label="Model" value={model.name}
            options={choices.value.map((choice) => ({ value: choice.name, text: `${choice.name}${choice.prompts === null ? " (automatic)" : ""}`, title: choice.description }))}
            onChange={(name) => { leaveSession(); setSettings({ model: name }); }} />
          <p class="note muted">{model.description}</p>
          <div class="row">
            <button type="button" class="grow" disabled={image === null || running.value !== null} title={`Run the model (${key})`} onClick={() => void run()}>
              <Icon name="play" size={14} /> Run <kbd>{key}</kbd>
            </button>
            {model.prompts !== null && <Switch on={settings.value.live} onChange={(live) => setSettings({ live })} title="Ask the model after each prompt">live</Switch>}
          </div>
          <Running />
          {model.prompts !== null && (
            <div class="row spread small-text">
              <span data-prompts={prompts.value.length}>prompts: <b class="adds">{adds} +</b> <b class="removes">{removes} −</b></span>
              <button type="button" class="quiet" disabled={prompts.value.length === 0} title={`Forget the prompts; what they made stays (${keyMap.value.shown("clear-prompts")})`} onClick={() => void clearPrompts()}>forget</button>
            </div>
          )}
        </>
      )}
    </section>
  );
}

function Running() {
  const elapsed = useSignal(0);
  useSignalEffect(() => {
    const now = running.value;
    elapsed.value = 0;
    if (now === null) return undefined;
    const timer = window.setInterval(() => { elapsed.value = performance.now() - now.since; }, 100);
    return () => window.clearInterval(timer);
  });
  const now = running.value;
  if (now !== null && elapsed.value >= SPINNER_MS) {
    return (
      <div class="row spread run-state" data-running>
        <span class="spinner" aria-hidden="true" /><span class="grow">{now.what} … {seconds(elapsed.value / 1000)}</span>
        <button type="button" class="quiet" title="Cancel (Esc)" onClick={cancelRun}>Cancel</button>
      </div>
    );
  }
  const last = lastRun.value;
  if (last === null) return <div class="run-state muted small-text">{now === null ? "ready" : " "}</div>;
  return (
    <div class="run-state small-text" data-last-run={last.model} data-version={last.version} role="status">
      <span class="good-dot" aria-hidden="true" /> answered in {seconds(last.seconds)}{/\d/.test(last.version) ? ` · version ${last.version}` : ""}
    </div>
  );
}
