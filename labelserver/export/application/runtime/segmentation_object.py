"""Labels as a DICOM Segmentation that refers to the source slice by slice.

Its frames lie where their source slices lie, whatever the order of files, the sign of the step or the tilt of the
gantry. Segment numbers are 1 to N in the order of the application's labels, whether or not a label was found.
Sources: DICOM PS3.3 A.51 (Segmentation), C.8.20.
"""

from __future__ import annotations

import warnings
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from labelserver.domain.errors import UnsupportedFormat
from labelserver.export.application.runtime.answers import MANUFACTURER, Answer, clipped, complete, new_uid
from labelserver.export.application.runtime.coding import display_color, property_category, property_type


def segmentation(answer: Answer) -> Any:
    """A highdicom Segmentation, BINARY or LABELMAP as the application's outputs say.

    Raises:
        UnsupportedFormat: the source is an enhanced image in several files.
    """
    if answer.is_multiframe and len(answer.sources) > 1:
        raise UnsupportedFormat(
            f"The series is an enhanced image in {len(answer.sources)} files; a segmentation refers to one. "
            "Ask for --segmentation none --nifti, or send one file."
        )
    labelmap = answer.about.outputs.segmentation == "labelmap"
    algorithm = _algorithm(answer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values of the source that are not quite as the standard wants them
        made: Any = hd.seg.Segmentation(
            source_images=list(answer.sources),
            pixel_array=_numbers(answer),
            segmentation_type="LABELMAP" if labelmap else "BINARY",
            segment_descriptions=[_description(answer, number, algorithm) for number in _segments(answer)],
            series_instance_uid=new_uid(),
            series_number=answer.series_number(1),
            sop_instance_uid=new_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=clipped(answer.about.app),
            software_versions=clipped(answer.about.version),
            device_serial_number=answer.about.weights_sha256[:16] or "0",
            content_label="SEGMENTATION",
            content_description=clipped(f"{answer.about.model}, version {answer.about.version}"),
            transfer_syntax_uid=RLELossless if labelmap else ExplicitVRLittleEndian,
            omit_empty_frames=not answer.about.outputs.all_frames,
            series_description=clipped(f"{answer.about.model}: labels"),
        )
    complete(made, answer)
    return made


def _segments(answer: Answer) -> range:
    return range(1, len(answer.about.labels) + 1)


def _numbers(answer: Answer) -> NDArray[Any]:
    """(source frames, rows, columns) of segment numbers."""
    table = np.zeros(int(max(answer.labels.max(initial=0), *(x.value for x in answer.about.labels))) + 1, np.uint16)
    for number, label in enumerate(answer.about.labels, start=1):
        table[label.value] = number
    planes = table[answer.labels].transpose(2, 1, 0)
    if answer.is_multiframe:
        placed = np.zeros((int(answer.source.NumberOfFrames), *planes.shape[1:]), planes.dtype)
        placed[[frame for _, frame in answer.frames]] = planes
        planes = placed
    return np.ascontiguousarray(planes if len(answer.about.labels) > 255 else planes.astype(np.uint8))


def _algorithm(answer: Answer) -> hd.AlgorithmIdentificationSequence:
    return hd.AlgorithmIdentificationSequence(
        name=clipped(answer.about.name),
        family=codes.DCM.ArtificialIntelligence,
        version=clipped(answer.about.version),
        source=MANUFACTURER,
    )


def _description(
    answer: Answer, number: int, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    label = answer.about.labels[number - 1]
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=clipped(label.name),
        segmented_property_category=property_category(label),
        segmented_property_type=property_type(label),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=answer.tracking_uid(label),
        tracking_id=clipped(f"{answer.about.model}/{label.name}"),
        display_color=display_color(label),
    )
