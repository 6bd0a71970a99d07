"""A loss that punishes nothing that nobody looked at."""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from labelserver.domain.schema import NOT_ANNOTATED

#: As MONAI's DiceLoss: keeps the quotient defined where a label is absent from truth and answer.
_SMOOTH = 1e-5


class PartlyAnnotatedDiceCE(torch.nn.Module):
    """Dice plus cross entropy over annotated voxels and labels alone.

    Where everything is annotated it is MONAI's ``DiceCELoss`` with ``to_onehot_y``, ``softmax`` and no background.
    Voxels of the value 255 count for nothing. In a case where a label was not looked for, a background voxel may
    belong to it: the cross entropy asks only that the voxel is background or one of those labels, by adding up their
    probabilities, and the Dice of those labels is left out (the marginal loss of Shi et al. 2021,
    https://arxiv.org/abs/2007.03868).
    """

    #: (B, C) of the batch that is judged next, 1 for channels that were annotated; None: all. Set before each step.
    annotated: torch.Tensor | None = None

    def forward(self, scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """`scores` (B, C, ...) of the network; `label` (B, 1, ...) whole numbers, 255 where not annotated."""
        count = scores.shape[1]
        scores = scores.float()
        flat = scores.reshape(*scores.shape[:2], -1)
        truth = label.reshape(label.shape[0], -1).long()
        known = truth != NOT_ANNOTATED
        target = one_hot(torch.where(known, truth, 0), count).movedim(-1, 1)  # (B, C, voxels)
        looked = self._looked(scores)
        valid = known[:, None].to(flat.dtype)
        return self._dice(flat.softmax(1), target, valid, looked) + _cross_entropy(flat, target, known, looked)

    def _looked(self, scores: torch.Tensor) -> torch.Tensor:
        """(B, C) bool."""
        if self.annotated is None:
            return torch.ones(scores.shape[:2], dtype=torch.bool, device=scores.device)
        return self.annotated.to(scores.device) > 0

    def _dice(
        self, answer: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, looked: torch.Tensor
    ) -> torch.Tensor:
        answer, target = answer[:, 1:] * valid, target[:, 1:] * valid
        shared, sizes = (answer * target).sum(-1), answer.sum(-1) + target.sum(-1)
        losses = 1 - (2 * shared + _SMOOTH) / (sizes + _SMOOTH)
        counted = looked[:, 1:].to(losses.dtype)
        return (losses * counted).sum() / counted.sum().clamp(min=1)


def _cross_entropy(flat: torch.Tensor, target: torch.Tensor, known: torch.Tensor, looked: torch.Tensor) -> torch.Tensor:
    """Mean over annotated voxels; the background stands for all labels that were not looked for."""
    logs = flat.log_softmax(1)
    nowhere = torch.full_like(logs, float("-inf"))
    background = torch.where(looked[..., None], nowhere, logs)
    background = torch.cat([logs[:, :1], background[:, 1:]], dim=1).logsumexp(1, keepdim=True)
    logs = torch.cat([background, logs[:, 1:]], dim=1)
    picked = (logs * target).sum(1)
    return -torch.where(known, picked, 0).sum() / known.sum().clamp(min=1)
