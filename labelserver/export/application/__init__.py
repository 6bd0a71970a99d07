"""The deploy application: a model version as a folder that reads DICOM and writes DICOM with plain ``python``."""

from labelserver.export.application.writing import ApplicationOptions, write_application

__all__ = ["ApplicationOptions", "write_application"]
