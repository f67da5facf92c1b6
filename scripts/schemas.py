"""Write docs/reference/release.schema.json from the code that reads it, or check that what is committed is that."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sealserve.sealing.release_index import ReleaseIndex

FILE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "release.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"  # what pydantic writes


def render() -> str:
    """Return the schema, as JSON for people."""
    schema = {"$schema": DIALECT, "$comment": "Written by scripts/schemas.py: run `make schemas`.", **_schema()}
    return json.dumps(schema, indent=2, sort_keys=False) + "\n"


def _schema() -> dict[str, Any]:
    schema = ReleaseIndex.model_json_schema(mode="serialization")  # each key is written, those with a default as well
    schema["title"] = "release.json, version 1"
    return schema


def main() -> None:
    """Write the file, or with ``--check`` compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the file is out of date")
    if not parser.parse_args().check:
        FILE.write_text(render(), encoding="utf-8")
        return
    if not FILE.is_file() or FILE.read_text(encoding="utf-8") != render():
        print(f"{FILE.name} is out of date: run `make schemas`", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
