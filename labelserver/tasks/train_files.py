"""The files of a run: its best weights, regular checkpoints, the last weights, and the statistics that clients poll.

All are replaced whole, so a reader (another process, a client) never sees a part. Weights are bare state_dicts, on CPU,
readable with ``weights_only=True``.
"""

from __future__ import annotations

import datetime
import json
import math
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from safetensors.torch import save as safetensors_bytes

from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.tasks.train_context import Context
from labelserver.tasks.train_metrics import plain_numbers

SAFETENSORS = "weights.safetensors"
STATE_DICT = "model.pt"


def state_of(network: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers on CPU, each with memory of its own (safetensors refuses shared memory)."""
    bare = network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
    state = bare.state_dict()
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def save_torch(path: Path, content: Any) -> None:
    """``torch.save`` that appears whole. Raises `DiskFull`, `StorageFailed`; an earlier file stays as it was."""
    with atomic.replacing(path) as stream:
        watched = _Watched(stream)
        try:
            torch.save(content, cast(BinaryIO, watched))
        except RuntimeError as error:  # torch's writer says only that writing failed
            if watched.failure is not None:
                raise watched.failure from error
            raise


class _Watched:
    """A binary stream that remembers why writing to it failed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._stream.flush()


def save_version_files(folder: Path, state: dict[str, torch.Tensor]) -> tuple[Path, Path]:
    """The two files of a model version: safetensors (the record) and what infer tasks read."""
    record, published = folder / SAFETENSORS, folder / STATE_DICT
    atomic.write_bytes(record, safetensors_bytes(state))
    save_torch(published, state)
    return record, published


class RunFiles:
    """Writes below a run's folder.

    Args:
        output_dir: ``<model_dir>/<name>``.
        best: file name of the best weights.
        final: file name of the last weights.
        interval: epochs between two checkpoints; 0 or less: none.
        keep: how many checkpoints stay.
    """

    def __init__(self, output_dir: Path, *, best: str, final: str, interval: int, keep: int) -> None:
        self._folder = output_dir
        self.best, self.final = output_dir / best, output_dir / final
        self.best_training = output_dir / f"train_{best}"
        self._interval, self._keep = interval, keep

    def save_checkpoint(self, network: Any, epoch: int) -> None:
        """``checkpoint_epoch=<n>.pt`` if one is due; the oldest beyond `keep` go."""
        if self._interval <= 0 or epoch % self._interval:
            return
        save_torch(self._folder / f"checkpoint_epoch={epoch}.pt", state_of(network))
        found = {_epoch_of(path): path for path in self._folder.glob("checkpoint_epoch=*.pt")}
        for number in sorted(found)[: max(0, len(found) - self._keep)]:
            found[number].unlink(missing_ok=True)

    def keep_best(self, folder: Path) -> None:
        """Let `folder` hold on to the best weights so far: another run of the same name may replace them.

        Files here are replaced and never rewritten, so a second name for the same content is enough.
        """
        for file in (self.best, self.best_training):
            if file.exists():
                with atomic.storage_errors(file.name):
                    _second_name(file, folder / file.name)

    def restore_best(self, folder: Path) -> None:
        """Put back what `keep_best` kept."""
        for file in (self.best, self.best_training):
            if (folder / file.name).exists():
                atomic.copy_file(folder / file.name, file)

    def forget_kept(self, folder: Path) -> None:
        for file in (self.best, self.best_training):
            (folder / file.name).unlink(missing_ok=True)


def _second_name(file: Path, name: Path) -> None:
    """A link where the file system has them, else a copy."""
    name.unlink(missing_ok=True)
    try:
        name.hardlink_to(file)
    except OSError:
        atomic.copy_file(file, name)


def _epoch_of(path: Path) -> int:
    text = path.stem.partition("=")[2]
    return int(text) if text.isdecimal() else -1


def stats_of(context: Context, *, finished: bool) -> JsonObject:
    """The document that clients poll. `total_time` is there only once the run has ended; numbers are always numbers."""
    trainer, evaluator = context.trainer, context.evaluator
    spent = str(datetime.timedelta(seconds=int(time.time() - context.start_ts)))
    best = (evaluator or trainer).state.best_metric
    steps = trainer.state.epoch_length or 0
    return {
        "rank": context.local_rank,
        "epoch": trainer.state.epoch,
        "current_epoch": trainer.state.epoch,
        "current_iteration": trainer.state.iteration,
        "total_epochs": context.max_epochs,
        "total_iterations": steps * context.max_epochs,
        "start_ts": int(context.start_ts),
        ("total_time" if finished else "current_time"): spent,
        "best_metric": known_metric(best),
        "train": _engine_stats(trainer),
        "eval": _engine_stats(evaluator) if evaluator is not None else {},
    }


def known_metric(value: Any) -> float:
    """An engine's best metric: 0.0 before the first (the engines say -1) and for what is no finite number."""
    number = float(value) if value is not None else 0.0
    return number if math.isfinite(number) and number >= 0 else 0.0


def _engine_stats(engine: Any) -> JsonObject:
    return {
        "metrics": dict(plain_numbers(engine.state.metrics)),
        "key_metric_name": engine.state.key_metric_name or "",
        "best_metric": known_metric(engine.state.best_metric),
        "best_metric_epoch": engine.state.best_metric_epoch,
    }


def read_stats(path: Path) -> dict[str, Any]:
    """``{}`` if there is none or it cannot be read."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
