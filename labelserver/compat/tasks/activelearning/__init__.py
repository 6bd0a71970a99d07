"""Ready-made strategies."""

from labelserver.tasks.strategies import Epistemic, First, Last, Random

__all__ = ["Epistemic", "First", "Last", "Random"]
