"""Entropy of a network with dropout, given as a weight file: the older signature that apps still use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.inferers import sliding_window_inference

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import LabelServerError, ModelNotFound, TaskFailed
from labelserver.tasks.base import ScoringMethod
from labelserver.tasks.devices import name_to_device
from labelserver.tasks.network_cache import load_into, read_state
from labelserver.tasks.scoring import skipped
from labelserver.tasks.scoring_epistemic_v2 import as_probabilities
from labelserver.tasks.train_data import as_transform
from labelserver.tasks.train_weights import last_existing


class EpistemicScoring(ScoringMethod):
    """Entropy of a network with dropout"""

    def __init__(
        self,
        model: str | Sequence[str],
        network: torch.nn.Module | None = None,
        transforms: Any = None,
        roi_size: Sequence[int] = (128, 128, 64),
        num_samples: int = 10,
        load_strict: bool = False,
        description: str = "",
    ) -> None:
        """Describe the looking.

        Args:
            model: weight file, the last existing of several; TorchScript if `network` is None.
            network: with dropout layers.
            transforms: from ``{"image": path}`` to ``image`` (C, ...): a list, a Compose or a callable.
            roi_size: voxels of a window.
            num_samples: looks at each image, at least 2.
            load_strict: refuse weights that fit only in part.
            description: for people.
        """
        super().__init__(description)
        self.model = model
        self.network = network
        self.transforms = transforms
        self.roi_size = tuple(roi_size)
        self.num_samples = num_samples
        self.load_strict = load_strict

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Write ``epistemic_entropy`` and ``epistemic_ts`` into the info of images without an accepted label.

        Returns:
            image id -> what was written, or ``skipped``: the reason. Images scored with these weights are left out.

        Raises:
            ModelNotFound: there is no weight file yet.
            TaskFailed: it cannot be read, or does not fit.
        """
        path = last_existing(self.model)
        if path is None:
            raise ModelNotFound("There are no weights to score with yet. Train the model first.")
        device = torch.device(name_to_device(request.get("device")))
        network = self._loaded(path, device)
        transform = as_transform(self.transforms)
        stamp = int(path.stat().st_mtime)
        result: dict[str, Any] = {}
        for image_id in sorted(datastore.get_unlabeled_images()):
            if current_progress().should_stop():
                break
            if datastore.get_image_info(image_id).get("epistemic_ts") == stamp:
                continue
            try:
                entropy = self._entropy(network, transform, datastore.get_image_uri(image_id), device)
            except LabelServerError as error:
                result[image_id] = skipped(image_id, error)
                continue
            info = {"epistemic_entropy": round(entropy, 6), "epistemic_ts": stamp}
            datastore.update_image_info(image_id, info)
            result[image_id] = info
        return result

    def _loaded(self, path: Path, device: torch.device) -> torch.nn.Module:
        if self.network is None:
            try:
                scripted: torch.nn.Module = torch.jit.load(str(path), map_location=device)
            except RuntimeError as error:
                raise TaskFailed(
                    f"{path.name} is no TorchScript file; give the network to the scoring method."
                ) from error
            return scripted.train()
        network = deepcopy(self.network).to(device)
        load_into(network, read_state(path, device=str(device)), self.load_strict, path.name)
        return network.train()

    def _entropy(
        self, network: torch.nn.Module, transform: Callable[[Any], Any] | None, uri: str, device: torch.device
    ) -> float:
        try:
            data = transform({"image": uri}) if transform is not None else {"image": uri}
            image = torch.as_tensor(data["image"]).float()[None].to(device)
            total: torch.Tensor | None = None
            looks = max(2, self.num_samples)
            with torch.no_grad():
                for _ in range(looks):
                    pred = sliding_window_inference(image, self.roi_size, 1, network)[0]
                    found = torch.from_numpy(as_probabilities(pred))
                    total = found if total is None else total + found
        except LabelServerError:
            raise
        except Exception as error:
            raise TaskFailed(f"The model failed on {Path(uri).name}: {error}") from error
        if total is None:
            return 0.0
        mean = (total / looks).clamp(min=1e-12)
        return float((-mean * mean.log()).mean())
