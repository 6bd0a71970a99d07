"""Coded terms and colours of labels, as DICOM wants them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from labelserver.export.application.runtime.answers import clipped

if TYPE_CHECKING:
    from labelserver.export.application.runtime.about import Label

#: A designator that begins with 99 is private (PS3.16 section 8.2).
PRIVATE_SCHEME = "99LABELSERVER"


def property_type(label: Label) -> CodedConcept:
    """The label schema's term; without one a private code that is the same for the same name everywhere."""
    if label.term is not None:
        return CodedConcept(label.term.value, label.term.scheme, clipped(label.term.meaning))
    digest = hashlib.sha256(label.name.encode()).hexdigest()[:16]
    return CodedConcept(digest.upper(), PRIVATE_SCHEME, clipped(label.name))


def property_category(label: Label) -> CodedConcept:
    """Anatomical structure: the schema has no category of its own, and this is the widest one (PS3.16 CID 7150)."""
    return CodedConcept.from_code(codes.SCT.AnatomicalStructure)


def display_color(label: Label) -> CIELabColor:
    """RGB to CIELab as DICOM encodes it."""
    return CIELabColor.from_rgb(*label.color)
