"""``monailabel.interfaces`` of the early releases."""

from labelserver.app.label_app import LabelApp as MONAILabelApp
from labelserver.compat.interfaces.exception import MONAILabelError, MONAILabelException
from labelserver.contracts.datastore import Datastore, DefaultLabelTag

__all__ = ["Datastore", "DefaultLabelTag", "MONAILabelApp", "MONAILabelError", "MONAILabelException"]
