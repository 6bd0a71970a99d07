"""Images that people label in CVAT."""

from labelserver.compat.absent import Absent


class CVATDatastore(Absent):
    """A local folder whose labels are drawn in CVAT."""

    instead = "Put the images into a folder and name it with --studies."
