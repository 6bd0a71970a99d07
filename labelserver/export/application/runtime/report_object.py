"""Volumes of the labels as a DICOM structured report: Comprehensive 3D SR, TID 1500 (PS3.16), with its evidence.

Each label that was found is a volumetric measurement group (TID 1411) that refers to its segment; so the report needs
the segmentation, and is written together with it.
"""

from __future__ import annotations

import warnings
from typing import Any

import highdicom as hd
from highdicom import sr
from pydicom.sr.codedict import codes

from labelserver.export.application.runtime.answers import MANUFACTURER, Answer, Measured, clipped, complete, new_uid
from labelserver.export.application.runtime.coding import property_category, property_type


def report(answer: Answer, segmentation: Any) -> Any:
    """A highdicom Comprehensive3DSR, complete and not verified. `segmentation`: what it measures."""
    device = new_uid()
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device,
            name=clipped(answer.about.name),
            manufacturer_name=MANUFACTURER,
            model_name=clipped(answer.about.model),
            serial_number=answer.about.weights_sha256[:16] or "0",
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion
        if answer.source.get("Modality") == "CT"
        else codes.SCT.ImagingProcedure,
        imaging_measurements=[_group(answer, m, segmentation) for m in answer.measured if m.voxels],
        title=codes.DCM.ImagingMeasurementReport,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = sr.Comprehensive3DSR(
            evidence=[segmentation, *answer.sources],
            content=content,
            series_instance_uid=new_uid(),
            series_number=answer.series_number(2),
            sop_instance_uid=new_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description=clipped(f"{answer.about.model}: volumes"),
            manufacturer_model_name=clipped(answer.about.app),
            software_versions=clipped(answer.about.version),
        )
    complete(made, answer)
    return made


def _group(answer: Answer, found: Measured, segmentation: Any) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    algorithm = sr.AlgorithmIdentification(name=clipped(answer.about.name), version=clipped(answer.about.version))
    series = sr.SourceSeriesForSegmentation(referenced_series_instance_uid=str(answer.source.SeriesInstanceUID))
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=answer.tracking_uid(found.label), identifier=clipped(f"{answer.about.model}/{found.label.name}")
        ),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=found.number,
            source_series=series,
        ),
        finding_type=property_type(found.label),
        finding_category=property_category(found.label),
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(
                name=codes.SCT.Volume,
                value=round(found.volume_ml, 3),
                unit=hd.sr.CodedConcept("ml", "UCUM", "milliliter"),
            )
        ],
    )
