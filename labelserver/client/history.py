"""Calls about labels with their history, drafts, the label schema and the image list: the routes below ``/api/v1/``.

Who saves a label that was made from another one passes the other's `etag`: if somebody saved meanwhile, `Conflict` says
so and nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labelserver.client.calling import Caller
from labelserver.client.transfer import CountedFile
from labelserver.domain.json_types import JsonObject
from labelserver.domain.schema import SchemaMode
from labelserver.wire.images import Image, ImageList
from labelserver.wire.labels import Draft, LabelRevision, RevisionDiff, RevisionList, Schema, SchemaLabel
from labelserver.wire.restoring import RestoredImage

#: As `if_match`: the image has no label under this tag yet.
NO_LABEL = ""


@dataclass(frozen=True, slots=True)
class FetchedLabel:
    """A label's file on this machine; `etag` names it when a changed one is saved."""

    file: Path
    etag: str


class HistoryCalls(Caller):
    """Labels as revisions. An image's id may hold "/"."""

    def label_history(self, image_id: str, tag: str = "final") -> list[LabelRevision]:
        """All revisions, oldest first; also of a label that was removed."""
        return self._parsed(RevisionList, self._json("GET", f"{_label(image_id, tag)}/revisions")).revisions

    def label_revision(self, image_id: str, number: int, tag: str = "final") -> LabelRevision:
        return self._parsed(LabelRevision, self._json("GET", f"{_label(image_id, tag)}/revisions/{number}"))

    def fetch_label(
        self, image_id: str, tag: str = "final", *, flat: bool = False, folder: Path | None = None
    ) -> FetchedLabel:
        """The current label with the schema's values. `flat`: overlapping segments as one map."""
        query = {"flat": "true"} if flat else {}
        return FetchedLabel(*self._fetch(_label(image_id, tag), query, folder, f"{image_id}.nii.gz"))

    def fetch_revision(
        self, image_id: str, number: int, tag: str = "final", *, folder: Path | None = None
    ) -> FetchedLabel:
        """The file of any revision."""
        path = f"{_label(image_id, tag)}/revisions/{number}/file"
        return FetchedLabel(*self._fetch(path, {}, folder, f"{image_id}.nii.gz"))

    def fetch_annotated(
        self, image_id: str, number: int | None = None, tag: str = "final", *, folder: Path | None = None
    ) -> Path:
        """A mask on the image's grid, 1 where a revision (default: the current one) was annotated."""
        path = _label(image_id, tag) + ("" if number is None else f"/revisions/{number}/file")
        return self._fetch(path, {"annotated": "mask"}, folder, f"{image_id}.annotated.nii.gz")[0]

    def save_revision(
        self,
        image_id: str,
        file: Path,
        tag: str = "final",
        params: JsonObject | None = None,
        *,
        if_match: str | None = None,
        annotated: Mapping[str, Any] | None = None,
        annotated_mask: Path | None = None,
    ) -> LabelRevision:
        """Save a label on the image's grid.

        Args:
            image_id: of the image.
            file: a volume or segmentation file.
            tag: of the label.
            params: such as ``label_info``, kept with the revision.
            if_match: the `etag` of the label that this one was made from; `NO_LABEL`: there was none; None: no matter.
            annotated: what was looked at, for example ``{"labels": ["liver"], "region": {"kind": "slices", "axis": 2,
                "slices": [4, 5]}}``; see `labelserver.wire.labels.Annotated`.
            annotated_mask: a volume on the image's grid, not 0 where it was looked at.

        Raises:
            Conflict: the label is not the one that `if_match` names; nothing was stored.
        """
        data = {"params": json.dumps(self._signed(params))}
        if annotated is not None:
            data["annotated"] = json.dumps(annotated)
        given = {"label": file, "annotated_mask": annotated_mask}
        with ExitStack() as stack:
            files = {
                name: (Path(path).name, stack.enter_context(CountedFile(Path(path), None)))
                for name, path in given.items()
                if path is not None
            }
            path, headers = _label(image_id, tag), condition_of(if_match)
            answer = self._json("PUT", path, data=data, files=files, headers=headers)
        return self._parsed(LabelRevision, answer)

    def restore_revision(
        self, image_id: str, number: int, tag: str = "final", *, if_match: str | None = None
    ) -> LabelRevision:
        """Make an older revision's content the newest. Raises `Conflict` as `save_revision`."""
        path = f"{_label(image_id, tag)}/revisions/{number}/restore"
        return self._parsed(LabelRevision, self._json("POST", path, headers=condition_of(if_match)))

    def diff_revisions(
        self, image_id: str, before: int | None = None, after: int | None = None, tag: str = "final"
    ) -> RevisionDiff:
        """What changed; by default from the current revision's parent to the current revision."""
        given = {"from": before, "to": after}
        query = {name: number for name, number in given.items() if number is not None}
        return self._parsed(RevisionDiff, self._json("GET", f"{_label(image_id, tag)}/diff", params=query))

    # -- drafts: of this client's person

    def save_draft(self, image_id: str, file: Path, tag: str = "final", params: JsonObject | None = None) -> Draft:
        """Keep unfinished work. It is no label, and replaces the draft before."""
        with CountedFile(Path(file), None) as opened:
            answer = self._json(
                "PUT",
                _draft(image_id),
                params={"tag": tag},
                data={"params": json.dumps(params or {})},
                files={"label": (Path(file).name, opened)},
            )
        return self._parsed(Draft, answer)

    def draft(self, image_id: str, tag: str = "final") -> Draft:
        """What is known about the draft. Raises `NothingThere` if there is none."""
        return self._parsed(Draft, self._json("GET", f"{_draft(image_id)}/info", params={"tag": tag}))

    def fetch_draft(self, image_id: str, tag: str = "final", *, folder: Path | None = None) -> Path:
        return self._fetch(_draft(image_id), {"tag": tag}, folder, f"{image_id}.nii.gz")[0]

    def drop_draft(self, image_id: str, tag: str = "final") -> None:
        """Also if there is none."""
        self._json("DELETE", _draft(image_id), params={"tag": tag})

    # -- schema

    def schema(self) -> Schema:
        """What the voxel values of this project's labels mean."""
        return self._parsed(Schema, self._json("GET", "/api/v1/schema"))

    def set_schema(
        self,
        labels: Sequence[SchemaLabel | JsonObject],
        *,
        mode: SchemaMode | str = SchemaMode.OPEN,
        based_on: int | None = None,
    ) -> Schema:
        """Make these labels the next version of the schema.

        Raises:
            Conflict: stored labels use what would be left out, or the schema is not at version `based_on` any more.
        """
        wanted = [SchemaLabel.model_validate(label) for label in labels]
        schema = Schema(mode=SchemaMode(mode), labels=wanted, based_on=based_on)
        return self._parsed(Schema, self._json("PUT", "/api/v1/schema", json=schema.model_dump(mode="json")))

    # -- images

    def image_page(
        self,
        *,
        state: str = "all",
        tag: str = "final",
        sort: str = "id",
        lowest_first: bool = False,
        after: str = "",
        limit: int = 100,
    ) -> ImageList:
        """A page of the image list; `next` of a page is `after` of the one behind it."""
        query = {"state": state, "tag": tag, "sort": sort, "lowest_first": lowest_first, "after": after, "limit": limit}
        return self._parsed(ImageList, self._json("GET", "/api/v1/images", params=query))

    def images(self, **query: Any) -> Iterator[Image]:
        """All images of the list, page after page; `query` as for `image_page`."""
        after: str | None = ""
        while after is not None:
            page = self.image_page(**{**query, "after": after})
            yield from page.images
            after = page.next

    def restore_image(self, image_id: str) -> RestoredImage:
        """Undo the removal of an image and of the labels that went with it."""
        path = f"/api/v1/images/{_plain(image_id)}/restore"
        return self._parsed(RestoredImage, self._json("POST", path))


def _plain(image_id: str) -> str:
    return quote(image_id, safe="/")


def _label(image_id: str, tag: str) -> str:
    return f"/api/v1/images/{_plain(image_id)}/labels/{quote(tag, safe='')}"


def _draft(image_id: str) -> str:
    return f"/api/v1/images/{_plain(image_id)}/drafts/mine"


def condition_of(if_match: str | None) -> dict[str, str]:
    """The headers that let a call change only the label that `if_match` names."""
    if if_match is None:
        return {}
    return {"If-None-Match": "*"} if if_match == NO_LABEL else {"If-Match": if_match}
