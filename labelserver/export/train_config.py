"""``train.json`` of a bundle: trains the exported network on, with the task's own preparation of images.

The folder of a project can be given as it is: images, and label maps of the same names under ``labels/final``.
"""

from __future__ import annotations

from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.export.preparing import Prepared

#: steps of MONAI that move voxels, and so must move those of a label, too
_SPATIAL = frozenset(
    f"monai.transforms.{name}"
    for name in (
        "LoadImaged",
        "EnsureChannelFirstd",
        "Orientationd",
        "Spacingd",
        "Resized",
        "Zoomd",
        "Rotated",
        "Rotate90d",
        "Flipd",
        "Transposed",
        "SpatialPadd",
        "BorderPadd",
        "DivisiblePadd",
        "SpatialCropd",
        "CenterSpatialCropd",
        "ResizeWithPadOrCropd",
        "CropForegroundd",
    )
)
#: of these, the ones that interpolate
_INTERPOLATE = frozenset(f"monai.transforms.{name}" for name in ("Spacingd", "Resized", "Zoomd", "Rotated"))
#: voxels of a training window where the task has none
_WINDOW = 64


def train_config(prepared: Prepared) -> JsonObject:
    """The document."""
    channels = _channels(prepared)
    several = channels > 1
    size = _window(prepared)
    loss: JsonObject = {"_target_": "monai.losses.DiceCELoss"}
    loss |= {"to_onehot_y": True, "softmax": True} if several else {"sigmoid": True}
    discrete: list[JsonValue] = [
        {"_target_": "monai.transforms.AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": channels}
        if several
        else {"_target_": "monai.transforms.AsDiscreted", "keys": "pred", "threshold": 0.0},
    ]
    if several:
        discrete.append({"_target_": "monai.transforms.AsDiscreted", "keys": "label", "to_onehot": channels})
    own = prepared.config.items(scripts=bool(prepared.code))
    imports = own["imports"]
    return {
        "imports": [
            *(imports if isinstance(imports, list) else []),
            *[f"${line}" for line in prepared.imports],
            "$import glob",
            "$import os",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/dataset'",
        "ckpt_dir": "$@bundle_root + '/models'",
        "images": "$sorted(path for path in glob.glob(@dataset_dir + '/*') if os.path.isfile(path))",
        "cases": (
            "$[{'image': path, 'label': os.path.join(@dataset_dir, 'labels', 'final', os.path.basename(path))} "
            "for path in @images "
            "if os.path.isfile(os.path.join(@dataset_dir, 'labels', 'final', os.path.basename(path)))]"
        ),
        "held_out": "$max(1, len(@cases) // 5)",
        "val_interval": 1,
        "learning_rate": 0.0001,
        "device": own["device"],
        "exact": own["exact"],
        "network_def": prepared.network_def,
        "network": "$@network_def.to(@device)",
        **prepared.config.extra,
        "loss": loss,
        "optimizer": {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": "@learning_rate"},
        "deterministic_transforms": _with_labels(prepared),
        "train": _train(size),
        "validate": _validate(prepared, discrete, several=several),
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@train#trainer.run()"],
    }


def _train(size: list[JsonValue]) -> JsonObject:
    return {
        "random_transforms": [
            {"_target_": "monai.transforms.SpatialPadd", "keys": ["image", "label"], "spatial_size": size},
            {
                "_target_": "monai.transforms.RandCropByPosNegLabeld",
                "keys": ["image", "label"],
                "label_key": "label",
                "spatial_size": size,
                "pos": 1,
                "neg": 1,
                "num_samples": 2,
            },
            {"_target_": "monai.transforms.RandFlipd", "keys": ["image", "label"], "prob": 0.3, "spatial_axis": 0},
            {"_target_": "monai.transforms.RandShiftIntensityd", "keys": "image", "offsets": 0.05, "prob": 0.3},
        ],
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": "$@deterministic_transforms + @train#random_transforms",
        },
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": "$@cases[@held_out:] or @cases",
            "transform": "@train#preprocessing",
        },
        "dataloader": {
            "_target_": "monai.data.DataLoader",
            "dataset": "@train#dataset",
            "batch_size": 1,
            "shuffle": True,
            "num_workers": 0,
        },
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "handlers": [
            {
                "_target_": "monai.handlers.CheckpointLoader",
                "_disabled_": "$not os.path.exists(@bundle_root + '/models/model.pt')",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
            {
                "_target_": "monai.handlers.ValidationHandler",
                "validator": "@validate#evaluator",
                "epoch_level": True,
                "interval": "@val_interval",
            },
            {
                "_target_": "monai.handlers.StatsHandler",
                "tag_name": "train_loss",
                "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
            },
        ],
        "trainer": {
            "_target_": "monai.engines.SupervisedTrainer",
            "max_epochs": 50,
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
        },
    }


def _validate(prepared: Prepared, discrete: list[JsonValue], *, several: bool) -> JsonObject:
    return {
        "preprocessing": {"_target_": "monai.transforms.Compose", "transforms": "@deterministic_transforms"},
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": "$@cases[:@held_out]",
            "transform": "@validate#preprocessing",
        },
        "dataloader": {
            "_target_": "monai.data.DataLoader",
            "dataset": "@validate#dataset",
            "batch_size": 1,
            "num_workers": 0,
        },
        "inferer": prepared.config.inferer,
        "postprocessing": {"_target_": "monai.transforms.Compose", "transforms": discrete},
        "handlers": [
            {"_target_": "monai.handlers.StatsHandler", "iteration_log": False},
            {
                "_target_": "monai.handlers.CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@network"},
                "save_key_metric": True,
                "key_metric_filename": "model.pt",
            },
        ],
        "key_metric": {
            "dice": {
                "_target_": "monai.handlers.MeanDice",
                "include_background": not several,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "evaluator": {
            "_target_": "monai.engines.SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers",
        },
    }


def _with_labels(prepared: Prepared) -> list[JsonValue]:
    """The task's preparation, done to the label as well where voxels move; MONAI's steps where both stand there."""
    steps = prepared.config.preprocessing["transforms"]
    written: list[JsonValue] = []
    for step in steps if isinstance(steps, list) else []:
        if not isinstance(step, dict) or step.get("_disabled_") == "$not @exact":
            continue
        plain: JsonObject = {name: value for name, value in step.items() if name != "_disabled_"}
        if plain["_target_"] in _SPATIAL:
            plain["keys"] = ["image", "label"]
            if plain["_target_"] in _INTERPOLATE:
                plain["mode"] = [plain.get("mode", "bilinear"), "nearest"]
        written.append(plain)
    return written


def _channels(prepared: Prepared) -> int:
    layout = prepared.metadata["network_data_format"]
    outputs = layout["outputs"] if isinstance(layout, dict) else None
    pred = outputs["pred"] if isinstance(outputs, dict) else None
    return int(str(pred["num_channels"])) if isinstance(pred, dict) else 1


def _window(prepared: Prepared) -> list[JsonValue]:
    """The inferer's window, or a cube that the network takes."""
    if prepared.config.window:
        window = [size if size > 0 else prepared.multiple for size in prepared.config.window]
        return [*window] if len(window) == prepared.contents.dimension else [window[0]] * prepared.contents.dimension
    size = max(prepared.multiple, _WINDOW // prepared.multiple * prepared.multiple)
    return [size] * prepared.contents.dimension
