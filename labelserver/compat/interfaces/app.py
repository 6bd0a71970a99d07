"""The app class."""

from labelserver.app.label_app import LabelApp as MONAILabelApp

__all__ = ["MONAILabelApp"]
