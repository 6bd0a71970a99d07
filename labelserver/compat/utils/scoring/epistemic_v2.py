"""Uncertainty of an inference task by MC dropout."""

from labelserver.tasks.scoring_epistemic_v2 import EpistemicScoring

__all__ = ["EpistemicScoring"]
