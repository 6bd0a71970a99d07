"""Segment Anything 2."""

from labelserver.compat.absent import Absent


class Sam2InferTask(Absent):
    """Segment Anything 2 behind the inference interface."""

    instead = "Leave it out: is_sam2_module_available() answers False."
