"""Segmentation from scribbles."""

from labelserver.compat.absent import Absent


class ScribblesLikelihoodInferTask(Absent):
    """Base of the scribble tasks."""

    instead = "Use a click model."


class HistogramBasedGraphCut(Absent):
    """Scribbles by histogram and graph cut."""

    instead = "Start the app with --conf scribbles false."


class GMMBasedGraphCut(Absent):
    """Scribbles by Gaussian mixture and graph cut."""

    instead = "Start the app with --conf scribbles false."
