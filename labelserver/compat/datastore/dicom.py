"""Images of a DICOMweb server."""

from labelserver.compat.absent import Absent


class DICOMWebDatastore(Absent):
    """Series of a DICOMweb server."""

    instead = "Put the images into a folder and name it with --studies."


class DICOMwebClientX(Absent):
    """A DICOMweb client."""

    instead = "Put the images into a folder and name it with --studies."
