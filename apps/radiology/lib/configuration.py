"""What ``--conf KEY VALUE`` may say; the README lists every key with an example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from labelserver.domain.errors import AppLoadFailed

#: Names of the models that this app offers.
MODELS = ("segmentation",)


@dataclass(frozen=True)
class Configuration:
    """The app's options. Sizes are in voxels, spacing in mm, along the axes right, anterior, superior."""

    models: tuple[str, ...] = MODELS
    labels: tuple[str, ...] = ("liver", "spleen", "right_kidney", "left_kidney")
    network: tuple[int, ...] = (16, 32, 64, 128)  #: channels of the U-Net's levels; each level halves the resolution
    dropout: float = 0.05
    spacing: tuple[float, ...] = (3.0, 3.0, 3.0)
    roi_size: tuple[int, ...] = (48, 48, 48)
    intensity_window: tuple[float, ...] = (-160.0, 240.0)
    use_pretrained_model: bool = True
    skip_trainers: bool = False
    skip_scoring: bool = False
    skip_strategies: bool = False
    epistemic_max_samples: int = 50
    epistemic_simulation_size: int = 4

    @classmethod
    def parse(cls, conf: Mapping[str, str]) -> Configuration:
        """Read the options from text. Keys of other parts of the server are left alone.

        Raises:
            AppLoadFailed: a value that makes no sense, with what would.
        """
        values = {}
        for field in fields(cls):
            text = str(conf.get(field.name, "")).strip()
            if text:
                values[field.name] = _read(field.name, text, field.default)
        found = cls(**values)
        found._check()
        return found

    def _check(self) -> None:
        unknown = [name for name in self.models if name not in MODELS]
        if unknown:
            raise AppLoadFailed(f"--conf models: {unknown[0]!r} is not offered; use {', '.join(MODELS)} or all.")
        if len(set(self.labels)) != len(self.labels):
            raise AppLoadFailed("--conf labels: a name is given twice.")
        if len(self.network) < 2 or min(self.network) < 1:
            raise AppLoadFailed("--conf network: give at least two levels, for example 16,32,64.")
        step = 2 ** (len(self.network) - 1)
        if any(size < step or size % step for size in self.roi_size):
            raise AppLoadFailed(f"--conf roi_size: with {len(self.network)} levels use multiples of {step}.")
        if min(self.spacing) <= 0:
            raise AppLoadFailed("--conf spacing: voxels have a size above 0 mm.")
        if len(self.intensity_window) != 2 or self.intensity_window[0] >= self.intensity_window[1]:
            raise AppLoadFailed("--conf intensity_window: give a lower and a higher value, for example -160,240.")
        if not 0 <= self.dropout < 1:
            raise AppLoadFailed("--conf dropout: a share from 0 to below 1.")


def _read(name: str, text: str, default: object) -> object:
    """`text` as the type of `default`; one number stands for three in spacing and roi_size."""
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if isinstance(default, tuple):
            kind = type(default[0])
            parts = tuple(kind(part.strip(" []")) for part in text.split(",") if part.strip(" []"))
            if name == "models" and parts == ("all",):
                return MODELS
            if name in ("spacing", "roi_size"):
                parts = parts * 3 if len(parts) == 1 else parts
                if len(parts) != 3:
                    raise ValueError(name)
            if not parts:
                raise ValueError(name)
            return parts
        return type(default)(text)  # a number
    except (KeyError, ValueError):
        example = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
        raise AppLoadFailed(f"--conf {name} {text!r} cannot be read; an example is: --conf {name} {example}") from None
