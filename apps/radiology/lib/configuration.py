"""What ``--conf KEY VALUE`` may say; the README lists every key with an example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from labelserver.domain.errors import AppLoadFailed

#: Names of the models that this app offers.
MODELS = ("segmentation", "seeds", "click3d", "deepedit")
#: Models of others, offered where their weights are named; what ``accept_licences`` may hold.
LICENSED = ("nninteractive", "sam2", "vista3d")


@dataclass(frozen=True)
class Configuration:
    """The app's options. Sizes are in voxels, spacing in mm, along the axes right, anterior, superior."""

    models: tuple[str, ...] = ("segmentation", "seeds", "click3d")
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
    click_roi: int = 40  #: voxels a side of a click's window
    click_spacing: float = 4.5  #: mm; voxel size of the closest window; 0: the image's finest
    deepedit_size: tuple[int, ...] = (96, 96, 96)  #: voxels that an image is resized to
    nninteractive_weights: str = ""  #: folder
    sam2_weights: str = ""  #: file
    sam2_config: str = "configs/sam2.1/sam2.1_hiera_t.yaml"
    vista3d_weights: str = ""  #: file
    accept_licences: tuple[str, ...] = ("",)
    epistemic_max_samples: int = 0
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
        if self.click_roi % 8 or not 16 <= self.click_roi <= 64:
            raise AppLoadFailed("--conf click_roi: a multiple of 8 from 16 to 64.")
        if self.click_spacing < 0:
            raise AppLoadFailed("--conf click_spacing: a size in mm, or 0 for the image's own.")
        if any(size < 8 or size % 8 for size in self.deepedit_size):
            raise AppLoadFailed("--conf deepedit_size: multiples of 8, for example 96,96,96.")
        strange = [name for name in self.accept_licences if name and name not in LICENSED]
        if strange:
            raise AppLoadFailed(f"--conf accept_licences: {strange[0]!r} is none of {', '.join(LICENSED)}.")
        if not 0 <= self.dropout < 1:
            raise AppLoadFailed("--conf dropout: a share from 0 to below 1.")


def _read(name: str, text: str, default: object) -> object:
    """`text` as the type of `default`; one number stands for three in sizes and spacing."""
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if isinstance(default, tuple):
            kind = type(default[0])
            parts = tuple(kind(part.strip(" []")) for part in text.split(",") if part.strip(" []"))
            if name == "models" and parts == ("all",):
                return MODELS
            if name in ("spacing", "roi_size", "deepedit_size"):
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
