"""Writers of answers."""

from labelserver.tasks.polygons import PolygonWriter
from labelserver.tasks.writers import ClassificationWriter, DetectionWriter, Writer

__all__ = ["ClassificationWriter", "DetectionWriter", "PolygonWriter", "Writer"]
