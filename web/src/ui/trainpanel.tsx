/** Training in short; the Models view has the whole picture. */

import { seconds } from "../core/numbers";
import type { Job } from "../api/wire";
import { app, view } from "../state/page";
import { setSettings } from "../state/settings";
import { currentJob, curve, isLive, liveJob, seriesOf, starting, stop, train, trainer, trainers } from "../state/training";
import { Bar, Select } from "./bits";
import { Chart } from "./chart";
import { Icon } from "./icons";

export function TrainPanel() {
  const job = currentJob.value;
  return (
    <section class="panel training" aria-label="Training">
      <h2>Training</h2>
      <StartStop />
      {job !== undefined && <JobLine job={job} />}
      {job !== undefined && <Curves compact />}
      <button type="button" class="quiet" onClick={() => { location.hash = "#/models"; view.value = "models"; }}>Versions and curves</button>
    </section>
  );
}

/** Loss and metrics of the training that is shown. */
export function Curves({ compact = false }: { compact?: boolean }) {
  const job = currentJob.value;
  const { loss, metrics } = seriesOf(curve.value);
  const empty = job === undefined ? "Nothing was trained yet. Submit a few labels, then press Train." : isLive(job) ? "The curve begins with the first epoch." : "This training left no curve.";
  return (
    <div data-epochs={curve.value.length}>
      <Chart compact={compact} title="Loss" height={compact ? 110 : 170} lines={loss} xName="epoch" empty={empty} />
      {metrics.length > 0 && <Chart compact={compact} title="Dice" height={compact ? 110 : 230} yMax={1} lines={metrics} xName="epoch" empty="" />}
    </div>
  );
}

export function StartStop() {
  const live = liveJob.value;
  const chosen = trainer.value;
  if (app.value !== null && chosen === undefined) return <p class="note">The app offers no trainer.</p>;
  return (
    <div class="row">
      <Select bare label="What to train" value={chosen?.name ?? ""} disabled={live !== undefined || chosen === undefined}
        options={trainers.value.map((one) => ({ value: one.name, text: one.name, title: one.description }))} onChange={(name) => setSettings({ trainer: name })} />
      {live === undefined
        ? <button type="button" class="grow" disabled={chosen === undefined || starting.value} title={chosen?.description} onClick={() => void train({})}><Icon name="play" size={14} /> Train</button>
        : <button type="button" class="grow" onClick={() => void stop(live.id)}><Icon name="stop" size={14} /> Stop</button>}
    </div>
  );
}

export function JobLine({ job }: { job: Job }) {
  const points = curve.value;
  const last = points[points.length - 1];
  const total = last?.total_epochs;
  const share = !isLive(job) ? 1 : last !== undefined && total !== undefined ? last.epoch / total : null;
  const began = job.started_ts ?? job.created_ts;
  const took = job.ended_ts === null ? "" : ` in ${seconds(job.ended_ts - began)}`;
  const versions = job.versions.map(([model, number]) => `${model} ${number}`).join(", ");
  const words = isLive(job)
    ? last === undefined ? `${job.task}: ${job.state}` : `${job.task}: epoch ${last.epoch}${total === undefined ? "" : ` of ${total}`}`
    : `${job.task}: ${job.state}${took}`;
  return (
    <div data-job={job.id} data-job-state={job.state}>
      <div class="row spread small-text"><span>{words}</span>{versions !== "" && <span class="muted">made {versions}</span>}</div>
      {isLive(job) && <Bar share={share} text={words} />}
      {job.message !== "" && job.state === "failed" && <p class="note bad">{job.message} {job.advice}</p>}
    </div>
  );
}
