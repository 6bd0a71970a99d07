"""The command line of an exported application: ``python app IN OUT``.

Exit status: 0 everything was written; 1 it failed on the way; 2 the arguments make no sense; 3 the input was refused.
Input, output and model come from the arguments, else from the variables of a MONAI Application Package
(``HOLOSCAN_*``, older hosts' ``MONAI_*``), else from ``input``, ``output`` and ``models``.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labelserver.domain.errors import AppFailed, InvalidParams, LabelServerError, Refused
from labelserver.export.application.runtime import quick_imports
from labelserver.export.application.runtime.about import FILE, SEGMENTATIONS, About
from labelserver.export.application.runtime.selection import Rules

FAILED, USAGE, INPUT_REFUSED = 1, 2, 3

MODEL = "model.ts"

logger = logging.getLogger(__name__)


def run(arguments: Sequence[str] | None = None, home: Path | None = None) -> int:
    """Do what the command line asks. Returns the exit status.

    Args:
        arguments: without the program's name; None: of the process.
        home: the application's folder; None: where the started file lies.
    """
    _log()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, about themselves; who runs an application cannot act on them
    folder = home or Path(sys.argv[0]).resolve().parent
    folder = folder if folder.is_dir() else folder.parent
    try:
        return _run(_parsed(arguments), folder)
    except LabelServerError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - for whoever started it
        return INPUT_REFUSED if isinstance(error, Refused) else FAILED
    except (ImportError, RuntimeError) as error:
        if not (quick_imports.installed() and _wants_a_module(error)):
            raise
        os.environ[quick_imports.PLAIN] = "1"  # a transform needs what looked absent: once more, with plain imports
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
    except OSError as error:
        print(f"{error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)  # noqa: T201
        return FAILED


def _wants_a_module(error: BaseException | None) -> bool:
    """Whether an import that failed is at the bottom of it."""
    while error is not None:
        if isinstance(error, ImportError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _log() -> None:
    """Sentences of ours on the error stream; of libraries only what they warn of."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger(__name__.rpartition(".")[0]).setLevel(logging.INFO)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its tracebacks; what it raises becomes our sentence


def _run(chosen: argparse.Namespace, home: Path) -> int:
    quick_imports.install()
    about = _about(chosen, home)
    models = _models(chosen.model, home)

    @functools.cache
    def predictor():  # type: ignore[no-untyped-def]  # its type would import torch's users before they are needed
        from labelserver.export.application.runtime.predicting import load

        return load(_model_file(models, about), home, about.device, about.threads)

    if chosen.self_test:
        from labelserver.export.application.runtime.self_test import self_test

        return 0 if self_test(about, predictor, home / "selftest") else FAILED
    source = _place(chosen.input, ("HOLOSCAN_INPUT_PATH", "MONAI_INPUTPATH"), "input")
    target = _place(chosen.output, ("HOLOSCAN_OUTPUT_PATH", "MONAI_OUTPUTPATH"), "output")
    from labelserver.export.application.runtime.running import process

    if chosen.serve:
        from labelserver.export.application.runtime.serving import serve, stop_on_signals

        if not source.is_dir():
            raise InvalidParams(f"The input {str(source)!r} is no folder; --serve waits for cases in one.")
        stop = stop_on_signals()
        predictor()
        logger.info("ready")
        serve(lambda case, out: process(about, predictor, case, out), source, target, stop)
        return 0
    done = process(about, predictor, source, target)
    logger.info("%d volumes, %d files written to %s", done.volumes, len(done.files), target)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python app", description="Segments DICOM series or NIfTI volumes. See README.md beside this application."
    )
    parser.add_argument("input", nargs="?", help="folder (or one file) with DICOM studies or NIfTI files")
    parser.add_argument("output", nargs="?", help="folder for the results; made if missing, must not hold any")
    parser.add_argument("--model", help="folder with the models; default HOLOSCAN_MODEL_PATH, else models")
    parser.add_argument("--segmentation", choices=SEGMENTATIONS, help="kind of DICOM Segmentation")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--report", action=switch, help="also a DICOM structured report with volumes")
    parser.add_argument("--pdf", action=switch, help="also a DICOM PDF with pictures")
    parser.add_argument("--mesh", action=switch, help="also a DICOM STL mesh for each label")
    parser.add_argument("--nifti", action=switch, help="also labels.nii.gz")
    parser.add_argument("--all-frames", action=switch, help="write frames without any label, too")
    parser.add_argument("--rules", help="JSON file with series selection rules")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--serve", action="store_true", help="stay, and answer each sub-folder that IN receives")
    parser.add_argument(
        "--self-test", action="store_true", help="answer the case that came with the model, and compare"
    )
    return parser.parse_args(arguments)


def _about(chosen: argparse.Namespace, home: Path) -> About:
    """The application with what app.yaml and then the command line choose."""
    about = About.read(home / FILE)
    configured = os.environ.get("HOLOSCAN_CONFIG_PATH")
    about = about.configured(Path(configured) if configured else home / "app.yaml")
    named = ("segmentation", "report", "pdf", "mesh", "nifti", "all_frames")
    given = {name: getattr(chosen, name) for name in named if getattr(chosen, name) is not None}
    if chosen.threads is not None and chosen.threads < 1:
        raise InvalidParams("--threads must be 1 or more.")
    return replace(
        about,
        outputs=replace(about.outputs, **given),
        rules=_rules(Path(chosen.rules)) if chosen.rules else about.rules,
        device=chosen.device or about.device,
        threads=chosen.threads or about.threads,
    )


def _rules(path: Path) -> Rules:
    import json

    try:
        return Rules.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InvalidParams(f"The rules {str(path)!r} cannot be read: {error}.") from error


def _place(given: str | None, variables: Sequence[str], default: str) -> Path:
    """Relative paths of the variables are relative to the working directory that the host names."""
    if given:
        return Path(given)
    named = next((os.environ[v] for v in variables if os.environ.get(v)), default)
    return Path(os.environ.get("HOLOSCAN_WORKDIR") or ".") / named


def _models(given: str | None, home: Path) -> Path:
    named = given or os.environ.get("HOLOSCAN_MODEL_PATH") or os.environ.get("MONAI_MODELPATH")
    return Path(named) if named else home / "models"


def _model_file(models: Path, about: About) -> Path:
    """``<models>/<name>/model.ts``, or the file itself, or in the folder itself."""
    candidates = [models] if models.is_file() else [models / about.model_folder / MODEL, models / MODEL]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None or found.name != MODEL:
        raise AppFailed(f"There is no {about.model_folder}/{MODEL} in {str(models)!r}. Say with --model where it is.")
    return found
