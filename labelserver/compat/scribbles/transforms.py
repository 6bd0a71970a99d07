"""Transforms for scribbles."""

from labelserver.compat.absent import Absent


class InteractiveSegmentationTransform(Absent):
    """Base of these transforms."""

    instead = "Use a click model."


class AddBackgroundScribblesFromROId(Absent):
    """Background outside a region."""

    instead = "Use a click model."


class MakeLikelihoodFromScribblesHistogramd(Absent):
    """Likelihood by histogram."""

    instead = "Use a click model."


class MakeLikelihoodFromScribblesGMMd(Absent):
    """Likelihood by Gaussian mixture."""

    instead = "Use a click model."


class SoftenProbSoftmax(Absent):
    """Softer probabilities."""

    instead = "Use a click model."


class MakeISegUnaryd(Absent):
    """Unary term."""

    instead = "Use a click model."


class ApplyGraphCutOptimisationd(Absent):
    """Graph cut."""

    instead = "Use a click model."


class ApplyCRFOptimisationd(Absent):
    """Conditional random field."""

    instead = "Use a click model."
