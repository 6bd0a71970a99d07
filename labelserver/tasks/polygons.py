"""Polygons as files of slide viewers: DSA's JSON elements and ASAP's XML. Serializers write them, never templates."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from labelserver.tasks.colors import get_color, to_hex
from labelserver.tasks.transform_runs import transform_latencies
from labelserver.tasks.writers import new_file


class PolygonWriter:
    """Turns what `FindContoursd` left in ``data[json][label]`` into a viewer's file and a JSON document."""

    def __init__(
        self,
        label: str = "annotation",
        json: str = "result",
        key_output_format: str = "output",
        key_write_to_file: str = "result_write_to_file",
    ) -> None:
        self.label = label
        self.json = json
        self.key_output_format = key_output_format
        self.key_write_to_file = key_write_to_file

    def __call__(self, data: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """File by ``data["output"]``: ``dsa`` (default) or ``asap``; none for ``json``. And the JSON document."""
        found = (data.get(self.json) or {}).get(self.label)
        annotations = found if isinstance(found, list) else [found] if found else []
        first = annotations[0] if annotations else {}
        document = {
            "name": f"{data.get('model', '')}: {Path(str(data.get('image_path', ''))).name}",
            "description": data.get("description", ""),
            "model": data.get("model", ""),
            "location": first.get("location", [0, 0]),
            "size": first.get("size", [0, 0]),
            "annotations": annotations,
            "latencies": {"transform": transform_latencies(data)},
        }
        kind = str(data.get(self.key_output_format) or "dsa").lower()
        if kind not in ("dsa", "asap") or not data.get(self.key_write_to_file, True):
            return None, document
        colors = data.get("label_colors")
        return str(_dsa(document, colors) if kind == "dsa" else _asap(document, colors)), document


def _outlines(document: Mapping[str, Any]) -> list[tuple[str, list[list[float]]]]:
    """(label, points) of every polygon."""
    return [
        (element["label"], contour)
        for annotation in document["annotations"]
        for element in annotation.get("elements", [])
        for contour in element["contours"]
    ]


def _dsa(document: Mapping[str, Any], colors: Mapping[str, Any] | None) -> Path:
    elements = []
    for label, points in _outlines(document):
        red, green, blue = get_color(label, colors)
        elements.append(
            {
                "type": "polyline",
                "group": label,
                "lineColor": f"rgb({red}, {green}, {blue})",
                "lineWidth": 2,
                "closed": True,
                "points": [[x, y, 0] for x, y in points],
                "label": {"value": label},
            }
        )
    about = {key: document[key] for key in ("description", "model", "location", "size", "latencies")}
    path = new_file(".json")
    path.write_text(
        json_format.dumps(
            {"name": document["name"], "elements": elements, "description": json_format.dumps(about, default=str)}
        )
    )
    return path


def _asap(document: Mapping[str, Any], colors: Mapping[str, Any] | None) -> Path:
    (x, y), (width, height) = document["location"][:2], document["size"][:2]
    root = ElementTree.Element("ASAP_Annotations")
    listed = ElementTree.SubElement(
        root,
        "Annotations",
        Name=str(document["name"]),
        Description=str(document["description"]),
        Model=str(document["model"]),
        X=str(x),
        Y=str(y),
        W=str(width),
        H=str(height),
    )
    groups: dict[str, str] = {}
    for index, (label, points) in enumerate(_outlines(document)):
        color = groups.setdefault(label, to_hex(get_color(label, colors)))
        one = ElementTree.SubElement(
            listed, "Annotation", Name=f"Annotation {index}", Type="Polygon", PartOfGroup=label, Color=color
        )
        coordinates = ElementTree.SubElement(one, "Coordinates")
        for order, point in enumerate(points):
            ElementTree.SubElement(coordinates, "Coordinate", Order=str(order), X=str(point[0]), Y=str(point[1]))
    known = ElementTree.SubElement(root, "AnnotationGroups")
    for label, color in groups.items():
        group = ElementTree.SubElement(known, "Group", Name=label, PartOfGroup="None", Color=color)
        ElementTree.SubElement(group, "Attributes")
    path = new_file(".xml")
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path
