"""The page that comes with an application: what it is, how to run it, what it needs, what is known about the model."""

from __future__ import annotations

import time

from labelserver.export.application.runtime.about import Outputs
from labelserver.export.contents import ExportContents


def text(contents: ExportContents, outputs: Outputs) -> str:
    """Markdown."""
    sections = [_head(contents), _running(outputs), _labels(contents), _provenance(contents)]
    return "\n".join(sections)


def _head(contents: ExportContents) -> str:
    return f"""# {contents.app}/{contents.model}, version {contents.version}

{contents.description or "A segmentation model."}

Not a medical device. What it writes was made by an algorithm, and says so; a person has to verify it.
"""


def _running(outputs: Outputs) -> str:
    return f"""## Run it

    python -m pip install -r requirements.txt
    python . --self-test            # the answer of this machine against the server's
    python . IN OUT

`IN` is a folder with DICOM studies (files in any order, in sub-folders, compressed or not) or NIfTI files. `OUT`
receives `segmentation.dcm`, what else was asked for, and `metadata.json`, which lists it all with the volumes. Several
series: one numbered sub-folder each. Exit status 0 means that everything was written; else nothing was, and a sentence
on the error stream says why: 1 it failed, 2 the arguments make no sense, 3 the input was refused.

Written now: segmentation {outputs.segmentation}, report {_on(outputs.report)}, PDF {_on(outputs.pdf)}, mesh \
{_on(outputs.mesh)}. `--segmentation binary|labelmap|none`, `--report`, `--pdf`, `--mesh`, `--nifti`, `--all-frames` and
their `--no-` forms change that; `--rules FILE` other series selection rules; `--device`, `--threads` where it computes.
`app.yaml` beside this file may hold the same: `{{"labelserver": {{"outputs": {{"report": true}}, "threads": 4}}}}`.

`python . --serve IN OUT` keeps the model loaded and answers each sub-folder that `IN` receives: fill it under a name
that begins with a dot, then rename it. `OUT/<name>/` appears when it is whole, `OUT/<name>.failed.json` says why there
is none.

Without arguments `HOLOSCAN_INPUT_PATH`, `HOLOSCAN_OUTPUT_PATH` and `HOLOSCAN_MODEL_PATH` say where things are.
"""


def _labels(contents: ExportContents) -> str:
    rows = ["## Labels", "", "| value | name | code |", "|---|---|---|"]
    for label in contents.labels:
        term = f"{label.term.scheme} {label.term.value} {label.term.meaning}" if label.term else ""
        rows.append(f"| {label.value} | {_cell(label.name)} | {_cell(term)} |")
    return "\n".join(rows) + "\n"


def _provenance(contents: ExportContents) -> str:
    known = contents.provenance
    rows = ["## Where it comes from", ""]
    rows += [f"- {name}: {value:.4f}" for name, value in sorted(contents.metrics.items())]
    if known.labels:
        rows.append(f"- learned from {known.labels} labelled images, measured on {known.held_out} held-out ones")
    if known.decided_by:
        rows.append(f"- {known.verdict or 'decided'} by {known.decided_by} {known.reason}".rstrip())
    rows.append(f"- weights, SHA-256: {known.weights_sha256 or 'unknown'}")
    rows.append(f"- exported {time.strftime('%Y-%m-%d', time.gmtime(contents.created_ts))}")
    return "\n".join(rows) + "\n"


def _on(switch: bool) -> str:
    return "yes" if switch else "no"


def _cell(text_: str) -> str:
    """Inert in a table."""
    return text_.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
