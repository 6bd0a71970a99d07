"""What a version of a model can be taken out as."""

from __future__ import annotations

from enum import StrEnum

from labelserver.domain.errors import InvalidParams


class ExportFormat(StrEnum):
    """Each is a superset of the one before."""

    TORCHSCRIPT = "torchscript"  #: ``model.ts`` with its configuration inside, ``.pt2`` and ONNX beside it
    BUNDLE = "bundle"  #: a MONAI bundle
    APP = "app"  #: a folder that runs with plain Python: DICOM in, DICOM SEG out
    MAP = "map"  #: a MONAI Application Package: what a container is built from


#: all formats, one after the other
ALL = "all"


def parse_formats(text: object) -> tuple[ExportFormat, ...]:
    """``torchscript``, ``bundle``, ``app``, ``map``, or ``all``.

    Raises:
        InvalidParams: anything else.
    """
    if text == ALL:
        return tuple(ExportFormat)
    if isinstance(text, str) and text in set(ExportFormat):
        return (ExportFormat(text),)
    allowed = ", ".join([*ExportFormat, ALL])
    raise InvalidParams(f"There is no format {str(text)[:60]!r}. Choose one of {allowed}.")
