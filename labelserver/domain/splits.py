"""Which images a training may learn from and which it only measures itself on.

A hash of whose image it is, keyed with the project's split key, places every patient (or single image) in [0, 1); one
whose place is below the project's share is held out. A store fixes the side when it first sees the image, labelled or
not, and never changes it (`fixed_sides`). Two exceptions keep small projects alive, both taken at first sight: as soon
as there are two, one is held out, and one always is to learn from; also among those that come with labels.

`held_out` is for stores that fix no sides: the same places, asked anew for the labelled images of each training.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

_SCALE = float(2**64)

#: A BIDS entity anywhere in a path: ``sub-01/anat/sub-01_T1w.nii.gz``.
_BIDS = re.compile(r"(?:^|/)sub-([A-Za-z0-9]+)(?=[_/.]|$)")


class Side(StrEnum):
    """What an image is for."""

    TRAINING = "training"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True)
class ImageSide:
    """The side of one image. `subject` is the same for all images of a patient and says nothing about who it is."""

    side: Side
    subject: str
    duplicate_of: str = ""  #: id of another image, seen earlier, with the same voxels


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How a project splits: fixed when it is first opened."""

    key: bytes
    share: float  #: of the subjects, held out; between 0 and 1
    patient_pattern: str = ""  #: a regular expression; its first group (or the match) in a path names the patient


def place_of(subject: str, key: bytes = b"") -> float:
    """A number in [0, 1) that depends on the subject and the key alone."""
    digest = hashlib.blake2b(subject.encode(), key=key[:64], digest_size=8, person=b"ls-split").digest()
    return int.from_bytes(digest, "big") / _SCALE


def subject_of(rule: SplitRule, image_id: str, path: str, patient_id: str = "") -> str:
    """Whose image this is, as 32 hex digits that only the project's key gives a meaning.

    Args:
        rule: of the project.
        image_id: stands for itself if nothing names a patient.
        path: below the images folder.
        patient_id: PatientID of a DICOM series, or what the image's info says.
    """
    named = f"image:{image_id}"
    found = re.search(rule.patient_pattern, path) if rule.patient_pattern else None
    bids = _BIDS.search(path)
    if found is not None and (group := found.group(found.re.groups and 1)):
        named = f"path:{group}"
    elif patient_id:
        named = f"patient:{patient_id}"
    elif bids is not None:
        named = f"bids:{bids.group(1)}"
    return hashlib.blake2b(named.encode(), key=rule.key[:64], digest_size=16, person=b"ls-subject").hexdigest()


@dataclass(frozen=True, slots=True)
class Known:
    """How many subjects are on each side already."""

    training: int = 0
    held_out: int = 0


def fixed_sides(
    subjects: Sequence[str],
    rule: SplitRule,
    known: Known,
    labelled: Collection[str] = (),
    known_labelled: Known = Known(),
) -> dict[str, Side]:
    """The sides of subjects seen for the first time.

    Args:
        subjects: the new ones.
        rule: of the project.
        known: all older subjects.
        labelled: those of `subjects` that come with labels; with two labels one is held out and one is not.
        known_labelled: the older ones that have labels.
    """
    ordered = sorted(set(subjects), key=lambda subject: (place_of(subject, rule.key), subject))
    sides = {s: Side.HELD_OUT if place_of(s, rule.key) < rule.share else Side.TRAINING for s in ordered}
    _keep_both([s for s in ordered if s in labelled], sides, known_labelled)
    _keep_both(ordered, sides, known)
    return sides


def _keep_both(group: list[str], sides: dict[str, Side], known: Known) -> None:
    """Move one of the group, ordered by place, if without it one side had nobody."""
    chosen = sum(sides[subject] is Side.HELD_OUT for subject in group)
    if group and not known.training and chosen == len(group):
        sides[group[-1]] = Side.TRAINING
        chosen -= 1
    if group and not known.held_out and not chosen and known.training + len(group) >= 2:
        sides[group[0]] = Side.HELD_OUT


def held_out(image_ids: Iterable[str], share: float, key: bytes = b"") -> frozenset[str]:
    """The ids to measure on. `share` is in [0, 1); 0 or a single id: none. At least one is left to train on."""
    ordered = sorted(set(image_ids), key=lambda image_id: (place_of(image_id, key), image_id))
    if share <= 0 or len(ordered) < 2:
        return frozenset()
    below = sum(place_of(image_id, key) < share for image_id in ordered)
    return frozenset(ordered[: min(max(below, 1), len(ordered) - 1)])
