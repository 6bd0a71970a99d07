"""Inference with a MONAI bundle: its configuration says transforms, network and inferer; we run them as any task.

A bundle is code, so only one that was imported and is unchanged is built (see `bundle_trust`). Its configuration is
parsed once for each set of options and kept; requests never write into it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import LoadImaged, SaveImaged

from labelserver.tasks import bundle_trust
from labelserver.tasks.base import InferType
from labelserver.tasks.bundle_scripts import lock, scripts_of
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.transform_runs import Transforms, listed
from labelserver.tasks.transforms import LoadImageTensord, Restored

#: parsed configurations kept for each bundle
_KEPT_PARSERS = 4


class BundleConstants:
    """What a bundle calls its parts; subclass it for one that uses other names."""

    def configs(self) -> Sequence[str]:
        return ["inference.json", "inference.yaml"]

    def metadata_json(self) -> str:
        return "metadata.json"

    def model_pytorch(self) -> str:
        return "model.pt"

    def model_torchscript(self) -> str:
        return "model.ts"

    def key_device(self) -> str:
        return "device"

    def key_bundle_root(self) -> str:
        return "bundle_root"

    def key_network_def(self) -> str:
        return "network_def"

    def key_preprocessing(self) -> Sequence[str]:
        return ["preprocessing", "pre_transforms"]

    def key_postprocessing(self) -> Sequence[str]:
        return ["postprocessing", "post_transforms"]

    def key_inferer(self) -> Sequence[str]:
        return ["inferer"]

    def key_detector(self) -> Sequence[str]:
        return ["detector"]

    def key_detector_ops(self) -> Sequence[str]:
        return ["detector_ops"]

    def key_displayable_configs(self) -> str:
        return "displayable_configs"


class BundleInferTask(BasicInferTask):
    """A model that comes as a MONAI bundle"""

    def __init__(
        self,
        path: str | Path,
        conf: Mapping[str, str],
        const: BundleConstants | None = None,
        type: str = "",
        pre_filter: Sequence[type] | None = None,
        post_filter: Sequence[type] | None = (SaveImaged,),
        extend_load_image: bool = True,
        add_post_restore: bool = True,
        dropout: float = 0.0,
        load_strict: bool = False,
        **kwargs: Any,
    ) -> None:
        """Read the bundle's metadata and build its network.

        Args:
            path: the bundle's folder. Without an inference configuration the task is whole, and not valid.
            conf: of the app.
            const: names of the bundle's parts.
            type: see `InferType`; default by the folder's name, else segmentation.
            pre_filter: classes of transforms to leave out before the network.
            post_filter: classes of transforms to leave out after it.
            extend_load_image: let arrays pass where the bundle loads files.
            add_post_restore: bring the answer to the image's shape at the end.
            dropout: put into the network's definition, for scoring.
            load_strict: whether all names in the weights must match.
            **kwargs: further arguments of `BasicInferTask`.

        Raises:
            AppLoadFailed: the bundle was never imported, or its code has changed since.
        """
        self.const = const or BundleConstants()
        self.conf = dict(conf)
        self.bundle_path = str(path)
        folder = Path(path)
        found = [folder / "configs" / name for name in self.const.configs() if (folder / "configs" / name).is_file()]
        self.valid = bool(found)
        if self.valid:
            bundle_trust.ensure_trusted(folder)
        self.bundle_config_path = str(found[0]) if found else ""
        self._parsers: OrderedDict[str, ConfigParser] = OrderedDict()
        self._source = dict(ConfigParser.load_config_file(found[0])) if found else {}
        if dropout > 0 and isinstance(self._source.get(self.const.key_network_def()), dict):
            self._source[self.const.key_network_def()]["dropout"] = dropout
        self.pre_filter = tuple(pre_filter or ())
        self.post_filter = tuple(post_filter or ())
        self.extend_load_image = extend_load_image
        kind = type or _kind_by_name(folder.name)
        self.add_post_restore = add_post_restore and kind != InferType.DETECTION
        about = _Metadata.read(folder / "configs" / self.const.metadata_json(), kind)
        self.key_image, self.key_pred, self.version = about.key_image, about.key_pred, about.version
        self.displayable_configs: dict[str, Any] = dict(self._source.get(self.const.key_displayable_configs()) or {})
        super().__init__(
            path=[],
            network=None,
            type=kind,
            labels=about.labels,
            dimension=about.dimension,
            description=about.description,
            input_key=about.key_image,
            output_label_key=about.key_pred,
            load_strict=load_strict,
            config={**self._model_choices(folder), **self.displayable_configs},
            **kwargs,
        )
        self._place_weights(folder)

    @property
    def bundle_config(self) -> ConfigParser:
        """The configuration with its default options."""
        return self._parser({"device": "cpu"})

    def forget_parsed(self) -> None:
        """Build the parts of the configuration anew at the next use."""
        with lock:
            self._parsers.clear()

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.version}

    def is_valid(self) -> bool:
        return self.valid and super().is_valid()

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        steps = [t for t in listed(self._part(self.const.key_preprocessing(), data)) if not self._left(t, True)]
        if not self.extend_load_image:
            return steps
        return [LoadImageTensord(keys=t.keys, load_image_d=t) if isinstance(t, LoadImaged) else t for t in steps]

    def post_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        steps = [t for t in listed(self._part(self.const.key_postprocessing(), data)) if not self._left(t, False)]
        if self.add_post_restore:
            steps.append(Restored(keys=self.key_pred, ref_image=self.key_image))
        return steps

    def inferer(self, data: dict[str, Any] | None = None) -> Inferer | Callable[..., Any]:
        found: Inferer | None = self._part(self.const.key_inferer(), data)
        return found or SimpleInferer()

    def detector(self, data: dict[str, Any] | None = None) -> Any:
        found = self._part(self.const.key_detector(), data)
        self._part(self.const.key_detector_ops(), data)
        return found

    def _left(self, transform: Any, before: bool) -> bool:
        return isinstance(transform, self.pre_filter if before else self.post_filter)

    def _part(self, names: Sequence[str], data: Mapping[str, Any] | None) -> Any:
        parser = self._parser(data or {})
        with scripts_of(Path(self.bundle_path)):
            return next(
                (parser.get_parsed_content(name, instantiate=True) for name in names if name in self._source), None
            )

    def _parser(self, data: Mapping[str, Any]) -> ConfigParser:
        """The configuration parsed with this request's options; the same object for the same options."""
        options = {key: data.get(key, default) for key, default in self.displayable_configs.items()}
        options = {key: value[0] if isinstance(value, list) and value else value for key, value in options.items()}
        device = str(data.get("device") or "cpu")
        key = json.dumps([device, options], sort_keys=True, default=str)
        with lock:
            parser = self._parsers.get(key)
            if parser is None:
                parser = self._parsers[key] = self._parsed(device, options)
                while len(self._parsers) > _KEPT_PARSERS:
                    self._parsers.popitem(last=False)
            return parser

    def _parsed(self, device: str, options: Mapping[str, Any]) -> ConfigParser:
        source = deepcopy(self._source)
        source[self.const.key_bundle_root()] = self.bundle_path
        source[self.const.key_device()] = f"$torch.device('{device}')"
        if self.displayable_configs:
            source[self.const.key_displayable_configs()] = dict(options)
        if self.type == InferType.DEEPEDIT:
            source["use_click"] = True
        with scripts_of(Path(self.bundle_path)):
            return ConfigParser(config=source)

    def _model_choices(self, folder: Path) -> dict[str, Any]:
        names = sorted(path.name for path in (folder / "models").glob("*.pt"))
        first = self.const.model_pytorch()
        return {"model_filename": sorted(names, key=lambda name: name != first)} if names else {}

    def _place_weights(self, folder: Path) -> None:
        weights, scripted = (
            folder / "models" / name for name in (self.const.model_pytorch(), self.const.model_torchscript())
        )
        definition = self.const.key_network_def()
        if self.valid and definition in self._source and (weights.is_file() or not scripted.is_file()):
            self.path = [str(weights)]
            with scripts_of(Path(self.bundle_path)):
                self.network = self.bundle_config.get_parsed_content(definition, instantiate=True)
        else:
            self.path = [str(scripted)]


class _Metadata:
    """What ``metadata.json`` says about a bundle's image, answer and labels."""

    def __init__(self, document: Mapping[str, Any], kind: str) -> None:
        layout = document.get("network_data_format") or {}
        inputs, outputs = layout.get("inputs") or {"image": {}}, layout.get("outputs") or {"pred": {}}
        self.key_image = next(iter(inputs))
        self.key_pred = next(iter(outputs))
        channels = outputs[self.key_pred].get("channel_def") or {}
        keep_background = kind == InferType.DEEPEDIT
        self.labels = {
            str(name).lower(): int(channel)
            for channel, name in channels.items()
            if keep_background or str(name).lower() != "background"
        }
        self.dimension = len(inputs[self.key_image].get("spatial_shape") or (0, 0, 0))
        self.description = str(document.get("description", ""))
        self.version = str(document.get("version", ""))

    @classmethod
    def read(cls, path: Path, kind: str) -> _Metadata:
        return cls(json.loads(path.read_text()) if path.is_file() else {}, kind)


def _kind_by_name(name: str) -> str:
    known = (
        InferType.DEEPEDIT,
        InferType.DEEPGROW,
        InferType.DETECTION,
        InferType.SEGMENTATION,
        InferType.CLASSIFICATION,
    )
    return next((kind for kind in known if kind.value in name.lower()), InferType.SEGMENTATION)
