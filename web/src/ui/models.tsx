/** The Models view: how trainings went, which versions there are, which answers. */

import { useSignal } from "@preact/signals";
import { dayAndTime } from "../core/numbers";
import type { ModelVersion, VersionComparison } from "../api/wire";
import { canExport, chooseModel, compare, comparing, comparison, exportVersion, format, FORMATS, goBack, learningCurve, loaded, model, models, packages, proof, publish, versions } from "../state/models";
import { currentJob, jobs, liveJob, metricName, showCurve, train, trainAfter, trainer, triggers } from "../state/training";
import { app } from "../state/page";
import { Bar, Select } from "./bits";
import { Chart } from "./chart";
import { Icon } from "./icons";
import { Curves, JobLine, StartStop } from "./trainpanel";

export function ModelsView() {
  return (
    <div class="page models-view">
      <div class="columns">
        <Training />
        <Learning />
      </div>
      <Versions />
      <Comparison />
    </div>
  );
}

function Training() {
  const job = currentJob.value;
  return (
    <section class="card" aria-label="Training">
      <h2>Training</h2>
      <StartStop />
      {trainer.value !== undefined && <p class="note muted">{trainer.value.description}</p>}
      <Options />
      <Automatic />
      {jobs.value.length > 1 && (
        <Select label="Shown" value={job?.id ?? ""} onChange={(id) => void showCurve(id)}
          options={[...jobs.value].reverse().map((one) => ({ value: one.id, text: `${dayAndTime(one.created_ts * 1000)} · ${one.task} · ${one.state}` }))} />
      )}
      {job !== undefined && <JobLine job={job} />}
      <Curves />
    </section>
  );
}

/** The number of epochs is what people change most; everything else stays the app's. */
function Options() {
  const epochs = useSignal("");
  const config = trainer.value === undefined ? {} : (app.value?.trainers[trainer.value.name]?.config ?? {});
  const usual = config["max_epochs"];
  if (typeof usual !== "number" || liveJob.value !== undefined) return null;
  return (
    <form class="row" onSubmit={(event) => { event.preventDefault(); void train(epochs.value === "" ? {} : { max_epochs: Number(epochs.value) }); }}>
      <label class="field"><span class="field-name">epochs</span>
        <input type="number" min={1} max={10000} placeholder={String(usual)} value={epochs.value} onInput={(event) => { epochs.value = event.currentTarget.value; }} /></label>
      <button type="submit" disabled={epochs.value === ""}>Train with this</button>
    </form>
  );
}

function Automatic() {
  const rules = triggers.value;
  if (rules === null) return null;
  const on = rules.every_labels > 0;
  return (
    <div class="row">
      <label class="switch">
        <input type="checkbox" checked={on} onChange={(event) => void trainAfter(event.currentTarget.checked ? 5 : 0)} />
        <span>train by itself after</span>
      </label>
      <input type="number" class="narrow" min={1} max={10000} disabled={!on} value={on ? rules.every_labels : 5} aria-label="Labels after which a training starts by itself"
        onChange={(event) => void trainAfter(Math.max(1, Number(event.currentTarget.value)))} />
      <span class="muted">labels{on && rules.labels_waiting !== undefined ? `; ${rules.labels_waiting} since the last` : ""}</span>
    </div>
  );
}

function Learning() {
  const byHours = useSignal(false);
  const told = proof.value;
  const hours = told === null ? [] : [{ name: metricName(told.metric), points: told.points.map((point): [number, number] => [point.hours, point.metric]) }];
  return (
    <section class="card" aria-label="Learning curve">
      <div class="row spread">
        <h2>Learning curve</h2>
        {told !== null && (
          <div class="segmented" role="group" aria-label="Against what">
            <button type="button" aria-pressed={!byHours.value} onClick={() => { byHours.value = false; }}>labels</button>
            <button type="button" aria-pressed={byHours.value} onClick={() => { byHours.value = true; }}>hours</button>
          </div>
        )}
      </div>
      <p class="note muted">How good each version is, against {byHours.value ? "the hours of work" : "how many labels"} it learned from.</p>
      <Chart title={byHours.value ? "Metric by hours of work" : "Metric by number of labels"} height={280} yMax={1} lines={byHours.value ? hours : learningCurve.value}
        xName={byHours.value ? "hours" : "labels"} empty="Each trained version adds a point." />
      {told !== null && <Advice />}
    </section>
  );
}

function Advice() {
  const { advice, by_labels: next } = proof.value!;
  return (
    <div class="stack tight" data-advice={advice.stop ? "stop" : "go on"}>
      {next !== null && <p class="note">The next {Math.round(next.step)} labels should bring {next.gain >= 0 ? "+" : ""}{next.gain.toFixed(3)} (between {next.low.toFixed(3)} and {next.high.toFixed(3)}).</p>}
      <p class="note">{advice.sentence}</p>
      <ul class="note muted">{advice.criteria.map((one) => <li key={one.name}>{one.met === null ? "?" : one.met ? "✓" : "○"} {one.sentence}</li>)}</ul>
    </div>
  );
}

function Versions() {
  const rows = [...versions.value].reverse();
  return (
    <section class="card" aria-label="Versions">
      <div class="row spread">
        <h2>Versions</h2>
        <div class="row">
          {canExport() && rows.length > 0 && <Select label="export as" value={format.value} options={FORMATS} onChange={(value) => { format.value = value; }} />}
          {models.value.length > 0 && <Select bare label="Model" value={model.value} options={models.value.map((name) => ({ value: name, text: name }))} onChange={(name) => void chooseModel(name)} />}
          <button type="button" disabled={rows.filter((version) => version.verdict === "published").length < 2} title="Use again what was in use before" onClick={() => void goBack()}><Icon name="undo" size={15} /> Roll back</button>
        </div>
      </div>
      {!loaded.value && <Bar share={null} text="Reading the versions" />}
      {loaded.value && rows.length === 0 && <p class="note">There is no version yet. A training makes one, and it is used if it is not worse than the one before.</p>}
      {rows.length > 0 && (
        <div class="table-scroll" tabIndex={0} role="region" aria-label="Versions as a table">
          <table class="numbers versions">
            <thead><tr><th scope="col">Version</th><th scope="col">State</th><th scope="col">Made</th><th scope="col">Labels</th><th scope="col">Metrics</th><th scope="col">Why</th><th scope="col"><span class="aside">Actions</span></th></tr></thead>
            <tbody>{rows.map((version) => <VersionRow key={version.number} version={version} />)}</tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function VersionRow({ version }: { version: ModelVersion }) {
  const packed = packages.value.get(version.number);
  const others = versions.value.filter((other) => other.number !== version.number);
  const base = others.find((other) => other.current) ?? others[others.length - 1];
  return (
    <tr class={version.current ? "current" : ""} data-version={version.number} data-current={version.current}>
      <th scope="row">{version.number}</th>
      <td>{version.current ? <b class="in-use">in use</b> : version.verdict}</td>
      <td>{dayAndTime(version.created_ts * 1000)}</td>
      <td class="number">{Object.keys(version.labels).length}</td>
      <td><Metrics version={version} /></td>
      <td class="reason">{version.reason}</td>
      <td class="actions">
        {!version.current && <button type="button" onClick={() => void publish(version.number)}>Use this</button>}
        {base !== undefined && <button type="button" class="quiet" onClick={() => void compare(base.number, version.number)}>Compare</button>}
        {canExport() && packed?.state !== "working" && <button type="button" class="quiet" title="Pack this version for the clinic" onClick={() => void exportVersion(version.number)}><Icon name="download" size={15} /> Export</button>}
        {packed?.state === "working" && <span class="muted">packing…</span>}
        {packed?.state === "ready" && <a href={packed.href} download title={FORMATS.find((one) => one.value === packed.format)?.text}>Download</a>}
      </td>
    </tr>
  );
}

function Metrics({ version }: { version: ModelVersion }) {
  const key = version.key_metric;
  const rest = Object.entries(version.metrics).filter(([name]) => name !== key);
  return (
    <>
      {version.metrics[key] !== undefined && <b>{metricName(key)} {version.metrics[key].toFixed(3)}</b>}
      {rest.length > 0 && <div class="muted small-text">{rest.slice(0, 6).map(([name, value]) => `${metricName(name)} ${value.toFixed(3)}`).join(" · ")}</div>}
    </>
  );
}

function Comparison() {
  const found = comparison.value;
  if (found === null) return null;
  const [first, second] = comparing.value;
  const options = versions.value.map((version) => ({ value: String(version.number), text: `version ${version.number}` }));
  return (
    <section class="card" aria-label="Comparison of two versions">
      <div class="row spread">
        <h2>Compared on the same held-out images</h2>
        <div class="row">
          <Select bare label="First version" value={String(first)} options={options} onChange={(value) => void compare(Number(value), second)} />
          <span class="muted">and</span>
          <Select bare label="Second version" value={String(second)} options={options} onChange={(value) => void compare(first, Number(value))} />
        </div>
      </div>
      {Object.keys(found.metrics).length === 0 ? <p class="note">These two were not measured on the same images.</p> : <ComparisonTable found={found} />}
    </section>
  );
}

function ComparisonTable({ found }: { found: VersionComparison }) {
  const key = versions.value[0]?.key_metric ?? "";
  const cases = Object.entries(found.cases);
  const row = (name: string, pair: { first: number; second: number; difference: number } | undefined) => pair === undefined ? null : (
    <tr key={name}><th scope="row">{metricName(name)}</th><td>{pair.first.toFixed(3)}</td><td>{pair.second.toFixed(3)}</td>
      <td class={pair.difference >= 0 ? "better" : "worse"}>{pair.difference >= 0 ? "▲ +" : "▼ "}{pair.difference.toFixed(3)}</td></tr>
  );
  return (
    <div class="columns">
      <table class="numbers"><caption>Means</caption><thead><tr><th scope="col">Metric</th><th scope="col">{found.first}</th><th scope="col">{found.second}</th><th scope="col">Change</th></tr></thead>
        <tbody>{Object.entries(found.metrics).map(([name, pair]) => row(name, pair))}</tbody></table>
      {cases.length > 0 && (
        <table class="numbers"><caption>{key === "" ? "Each image" : `${metricName(key)} of each image`}</caption><thead><tr><th scope="col">Image</th><th scope="col">{found.first}</th><th scope="col">{found.second}</th><th scope="col">Change</th></tr></thead>
          <tbody>{cases.map(([name, metrics]) => row(name, metrics[key] ?? Object.values(metrics)[0]))}</tbody></table>
      )}
    </div>
  );
}
