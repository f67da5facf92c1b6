"""Write the JSON schemas in docs/reference/ from the models of the documents, or check that they are up to date."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scripts.generated_files import write_or_check

from sealserve.cli.status_document import StatusDocument
from sealserve.sealing.release_index import ReleaseIndex

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
DIALECT = "https://json-schema.org/draft/2020-12/schema"  # what pydantic writes


def render(name: str) -> str:
    """Return the schema of a file, as indented JSON."""
    schema = {"$schema": DIALECT, "$comment": "Written by scripts/schemas.py: run `make schemas`.", **SCHEMAS[name]()}
    return json.dumps(schema, indent=2, sort_keys=False) + "\n"


def _release() -> dict[str, Any]:
    schema = ReleaseIndex.model_json_schema(mode="serialization")  # every key is written, including defaults
    schema["title"] = "release.json, version 1"
    return schema


def _status() -> dict[str, Any]:
    schema = StatusDocument.model_json_schema(mode="serialization")
    schema["title"] = "sealserve status --json, version 1"
    return schema


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "release.schema.json": _release,
    "status.schema.json": _status,
}


def main() -> None:
    """Write the files, or compare them with ``--check``."""
    files = {FOLDER / name: partial(render, name) for name in SCHEMAS}
    write_or_check(files, description=__doc__, target="schemas")


if __name__ == "__main__":
    main()
