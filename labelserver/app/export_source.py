"""What of a loaded app an export is made from: the task, the version's weights and record, the project's labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from labelserver.app.label_app import LabelApp
from labelserver.app.lineages import lineage_of_infer
from labelserver.contracts.labels import SchemaStore
from labelserver.contracts.model_store import WeightsInUse
from labelserver.domain.errors import InvalidParams, ModelNotFound, TaskNotFound
from labelserver.domain.schema import LabelSchema
from labelserver.export.preparing import ExportSource
from labelserver.export.recording import Recording
from labelserver.model_store.local import LocalModelStore


def export_source(
    app: LabelApp,
    recording: Recording,
    model: str,
    number: int | None = None,
    *,
    case: Path | None = None,
    modality: str = "",
) -> ExportSource:
    """A version of `model`.

    Args:
        app: loaded while `recording` was active.
        recording: see `labelserver.export.recording`.
        model: name of an infer task.
        number: of the version; None: the one in use, else the weights that lie in the app.
        case: for the self-test.
        modality: DICOM's, for example ``CT``; "": what the task's description says.

    Raises:
        TaskNotFound: the app has no such model.
        ModelNotFound: the model has no such version.
    """
    models = app.tasks()["models"]
    if model not in models:
        raise TaskNotFound(f"This app has no model {model[:100]!r}. It has: {', '.join(models) or 'none'}.")
    app_dir = Path(app.app_dir).absolute()
    lineage = lineage_of_infer(model, app.lineages()) or model
    store = LocalModelStore(app_dir)
    wanted = store.current_number(lineage) if number is None else number
    schema = _schema(app)
    source = ExportSource(
        app_dir, app.name, model, models[model], recording, schema=schema, case=case, modality=modality
    )
    if wanted is None:
        return source
    version = store.version(lineage, wanted)
    if not version.publish_path:
        raise ModelNotFound(
            f"Version {wanted} of {lineage} does not say which file it replaces, so the model cannot be run with it."
        )
    weights = WeightsInUse(str(wanted), app_dir / version.publish_path, store.published_file(lineage, wanted))
    if str(weights.published) not in {str(Path(path).absolute()) for path in _paths(models[model])}:
        raise InvalidParams(f"The model {model} does not read the weights that version {wanted} of {lineage} replaces.")
    history = tuple(known for known in store.versions(lineage) if known.number <= wanted)
    decision = store.decision(lineage, wanted)
    return replace(source, weights=weights, version=version, decision=decision, history=history)


def _paths(task: object) -> list[str]:
    paths = getattr(task, "paths", None)
    return [str(path) for path in paths()] if callable(paths) else []


def _schema(app: LabelApp) -> LabelSchema:
    store = app.datastore()
    return store.schema() if isinstance(store, SchemaStore) else LabelSchema()
