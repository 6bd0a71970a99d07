"""Routes of the peer that are planned and not built: 501 and a sentence, so that nobody searches for a mistake."""

from __future__ import annotations

from fastapi import APIRouter

from labelserver.domain.errors import NotThereYet

router = APIRouter(include_in_schema=False)


@router.api_route("/proxy/{path:path}", methods=["GET", "POST"])
@router.api_route("/ohif/{path:path}", methods=["GET"])
@router.api_route("/ohif", methods=["GET"])
async def other_service(path: str = "") -> None:
    raise NotThereYet("The DICOMweb proxy and the OHIF viewer are not there yet. The README lists what is.")


@router.post("/infer/wsi/{model}")
@router.post("/infer/wsi_v2/{model}")
async def whole_slide(model: str) -> None:
    raise NotThereYet("Inference on whole slides is not there yet. Use POST /infer/{model} with a picture.")
