"""The network as ``torch.export`` (``.pt2``) and as ONNX, where it allows that; else the reason, in a file beside.

Neither is needed by an application of ours; they are what runtimes without TorchScript take. Each must give the scores
of the network on the example within 1e-4, or it is not kept.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labelserver.export.torchscript import TOLERANCE

logger = logging.getLogger(__name__)

PT2 = "model.pt2"
ONNX = "model.onnx"
#: windows per call that the programs take
_MOST_WINDOWS = 64
#: multiples of the smallest size along an axis that the programs take
_MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class Program:
    """A file that was written, or why not."""

    name: str
    max_difference: float = 0.0
    reason: str = ""


def write_programs(network: nn.Module, example: torch.Tensor, multiple: int, folder: Path) -> list[Program]:
    """Write ``model.pt2`` and ``model.onnx`` into `folder`; where one cannot be, ``<name>.txt`` says why.

    Args:
        network: takes and gives one tensor; on the CPU, in evaluation mode, without hooks.
        example: (1, C, ...) float32.
        multiple: spatial sizes of the network are multiples of it.
        folder: exists.
    """
    with torch.no_grad():
        expected = network(example)
    found = []
    for name, write in ((PT2, _write_pt2), (ONNX, _write_onnx)):
        path = folder / name
        try:
            with _quiet():
                scores = write(network, example, multiple, path)
            difference = float((scores - expected).abs().max())
            if difference > TOLERANCE:
                raise RuntimeError(f"its scores differ by {difference:g} from the network's")
        except Exception as error:  # noqa: BLE001 - exporters raise whatever they meet in a network's code
            for left in folder.glob(f"{name}*"):
                left.unlink()
            reason = _reason(error)
            (folder / f"{name}.txt").write_text(
                f"There is no {name}: {type(network).__name__} does not allow it here. {reason}\n", encoding="utf-8"
            )
            logger.info("no program was written", extra={"program": name, "reason": reason})
            found.append(Program(name, reason=reason))
        else:
            found.append(Program(name, difference))
    return found


def run_pt2(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    """The scores of a ``.pt2`` file."""
    with _quiet(), torch.no_grad():
        result: torch.Tensor = torch.export.load(path).module()(inputs)
    return result


def run_onnx(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    """The scores of an ONNX file. Raises ImportError without onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return torch.from_numpy(np.asarray(scores))


def _write_pt2(network: nn.Module, example: torch.Tensor, multiple: int, path: Path) -> torch.Tensor:
    program = _exported(network, _two(example), multiple)
    torch.export.save(program, path)
    return run_pt2(path, example)


def _write_onnx(network: nn.Module, example: torch.Tensor, multiple: int, path: Path) -> torch.Tensor:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        _need(module)
    torch.onnx.export(
        network,
        (_two(example),),
        str(path),
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes=(_dynamic(example, multiple),),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return run_onnx(path, example)


def _exported(network: nn.Module, example: torch.Tensor, multiple: int) -> Any:
    """With any size if the network allows it, else with the example's."""
    try:
        return torch.export.export(network, (example,), dynamic_shapes=(_dynamic(example, multiple),), strict=False)
    except Exception:  # noqa: BLE001 - as above: which shapes a network takes is known to its code alone
        return torch.export.export(network, (example,), strict=False)


def _two(example: torch.Tensor) -> torch.Tensor:
    """Two windows: of one, exporters take for granted that it is always one."""
    return torch.cat([example, example])


def _dynamic(example: torch.Tensor, multiple: int) -> dict[int, Any]:
    """Any number of windows, any multiple of the smallest size along each axis."""
    shape: dict[int, Any] = {0: torch.export.Dim("windows", min=1, max=_MOST_WINDOWS)}
    for axis in range(2, example.ndim):
        steps = torch.export.Dim(f"steps_{axis}", min=1, max=_MOST_STEPS)
        shape[axis] = steps * multiple if multiple > 1 else steps
    return shape


def _need(module: str) -> None:
    try:
        __import__(module)
    except ImportError as error:
        raise ImportError(
            f"The package {module} is not installed. Install it with: pip install 'labelserver[export]'."
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text[:400]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters write advice for their own developers to stdout and into warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
