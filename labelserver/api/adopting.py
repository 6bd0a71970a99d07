"""Weights that lie in the app before it has versions become version 0 of their model, to be named and gone back to.

What an infer task reads below ``APP/model/`` is copied as it is; a worker loads it with ``weights_only=True``, like all
weights. The gate publishes it unchecked, and the file in the app stays where it is.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from anyio import to_thread

from labelserver.api.context import table
from labelserver.bootstrap import Server
from labelserver.contracts.model_store import Candidate
from labelserver.domain.errors import LabelServerError, VersionTaken
from labelserver.domain.models import ADOPTED

logger = logging.getLogger(__name__)

_ENDINGS = (".pt", ".pth", ".safetensors")


async def adopt_weights(server: Server) -> None:
    """Look at every model of the app; one that has a version, or no weights, is left as it is."""
    description = server.engine.description()
    for model in table(description.info, "models") if description is not None else {}:
        lineage = description.trainer_models.get(model, model) if description is not None else model
        try:
            if await to_thread.run_sync(server.model_store.versions, lineage):
                continue
            file = await _lead_file(server, model, validate=True)
            target = await _lead_file(server, model, validate=False)
            if file is not None and target is not None and _is_ours(server, file):
                await to_thread.run_sync(_adopt, server, lineage, file, target)
        except (LabelServerError, OSError) as error:
            reason = {"model": model, "reason": str(error)}
            logger.warning("the weights of a model could not be taken as version 0", extra=reason)


async def _lead_file(server: Server, model: str, *, validate: bool) -> Path | None:
    """The weight file that the model's infer task reads, or would read."""
    answered = await server.engine.call_lead("model_file", {"model": model, "validate": validate})
    return server.roots.app / answered if isinstance(answered, str) and answered else None


def _is_ours(server: Server, file: Path) -> bool:
    return file.parent == server.roots.app / "model" and file.suffix in _ENDINGS and file.is_file()


def _adopt(server: Server, lineage: str, file: Path, target: Path) -> None:
    folder = server.spool / f"adopting-{file.name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        copy = folder / ("model.pt" if file.suffix != ".safetensors" else "weights.safetensors")
        shutil.copyfile(file, copy)
        extra = {"adopted_from": file.relative_to(server.roots.app).as_posix()}
        server.model_store.add(Candidate(lineage, (copy,), publish_path=target, extra=dict(extra), number=ADOPTED))
        if server.model_store.current(lineage) is None:
            server.model_store.decide(lineage, ADOPTED)
    except VersionTaken:
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
