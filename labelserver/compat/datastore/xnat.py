"""Images of an XNAT server."""

from labelserver.compat.absent import Absent


class XNATDatastore(Absent):
    """Scans of an XNAT server."""

    instead = "Put the images into a folder and name it with --studies."
