"""``labelserver datasets schema show|set``: what the voxel values of a project's labels mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.dataset_verbs import StudiesOption, open_store, who
from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from labelserver.domain.schema import LabelSchema

cli = typer.Typer(help="The label schema: show it, or set it from a JSON file.", no_args_is_help=True)


@cli.command()
def show(
    studies: StudiesOption,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, which `set` reads.")] = False,
) -> None:
    """Show names, values, ids, colours and terms."""
    store = open_store(studies)
    schema = store.schema()
    store.close()
    if as_json:
        typer.echo(json.dumps(schema.to_json(), indent=1, ensure_ascii=False))
    else:
        _print(schema)


@cli.command("set")
def set_(
    file: Annotated[Path, typer.Argument(help='JSON: {"mode": "strict", "labels": [{"name", "value", ...}]}.')],
    studies: StudiesOption,
) -> None:
    """Set the schema. Labels that are in use keep their id and value; a new name for an old id is a renaming."""
    from labelserver.domain.schema import LabelSchema

    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(document, dict):
        raise CommandFailed(f'{file} must hold an object such as {{"mode": "open", "labels": [...]}}.')
    wanted = LabelSchema.from_json(document)
    store = open_store(studies)
    schema = store.set_schema(wanted, person=who())
    store.close()
    _print(schema)


def _print(schema: LabelSchema) -> None:
    from labelserver.cli.showing import print_table

    rows = []
    for entry in schema.entries:
        term = f"{entry.term.scheme} {entry.term.value} {entry.term.meaning}" if entry.term is not None else ""
        rows.append((str(entry.value), entry.name, entry.id, "#{:02x}{:02x}{:02x}".format(*entry.color), term))
    title = f"Label schema, version {schema.version}, {schema.mode.value}"
    print_table(title, ("value", "name", "id", "colour", "term"), rows, "The schema has no labels yet.")
