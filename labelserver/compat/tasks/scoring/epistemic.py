"""Uncertainty of a network by MC dropout (first signature)."""

from labelserver.tasks.scoring_epistemic import EpistemicScoring

__all__ = ["EpistemicScoring"]
