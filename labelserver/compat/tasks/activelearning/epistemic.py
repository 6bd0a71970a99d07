"""The image a model is least sure about."""

from labelserver.tasks.strategies import Epistemic

__all__ = ["Epistemic"]
