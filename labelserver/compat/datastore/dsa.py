"""Slides of a Digital Slide Archive."""

from labelserver.compat.absent import Absent


class DSADatastore(Absent):
    """Images and annotations of a Digital Slide Archive."""

    instead = "Put the images into a folder and name it with --studies."
