"""Reading ``sealserve.toml``; an error names the file, the line and the key."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel, ValidationError

from sealserve.deployment.errors import (
    DeploymentKeyError,
    DeploymentMissingError,
    DeploymentSyntaxError,
    DeploymentValueError,
)
from sealserve.deployment.section import fields_of, section_of
from sealserve.deployment.whole import Deployment
from sealserve.errors import InputError
from sealserve.regular_file import InputFileMissingError, read_regular

_HEADING = re.compile(r"^\s*\[\[?\s*(?P<name>[^\]\n]+?)\s*\]")
_ENTRY = re.compile(r"^\s*(?P<key>[A-Za-z0-9_.\"'-]+)\s*=")


def parse(text: str, *, source: str = "sealserve.toml") -> Deployment:
    """Return the deployment that ``text`` (TOML) describes.

    Args:
        text: The file's content.
        source: What to call it in errors.

    Raises:
        DeploymentSyntaxError: No TOML.
        DeploymentKeyError: A key that is not known; the message names the nearest one that is.
        DeploymentValueError: A value that is missing or not usable.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or 1,000 lists in each other, as well
        raise DeploymentSyntaxError(f"{source} is not valid TOML: {error}.") from error
    if isinstance(data.get("model"), Mapping):
        data["model"] = [data["model"]]
    try:
        # As JSON, which has the types of TOML: strict, so that `true` is no number, and "1" none either.
        return Deployment.model_validate_json(json.dumps(data, default=_refuse_date), strict=True)
    except _DatedError as error:
        raise DeploymentValueError(
            f"{source}: a date ({error.args[0]}) stands where no key takes one.", hint="Put it in quotation marks."
        ) from error
    except ValidationError as error:
        raise _explained(error, text, source) from error


class _DatedError(Exception):
    """A value of TOML is a date or a time, which no key takes."""


def _refuse_date(value: object) -> NoReturn:
    raise _DatedError(str(value))


def _explained(error: ValidationError, text: str, source: str) -> InputError:
    """Return our own error for pydantic's. An unknown key comes first: it explains why another one is missing."""
    found = error.errors(include_url=False, include_context=False)
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    keys = [part for part in first["loc"] if isinstance(part, str)]
    where = ".".join(keys) or "the file"
    line = _line_of(text, first["loc"])
    place = source if line is None else f"{source}, line {line}"
    if first["type"] == "extra_forbidden":
        return DeploymentKeyError(f"{place}: unknown key {where!r}.", hint=_nearest(keys))
    if first["type"] == "missing":
        return DeploymentValueError(f"{place}: {where!r} is missing.")
    message = first["msg"].removeprefix("Value error, ")
    value = f" (it is {_written(first['input'])})" if keys else ""
    return DeploymentValueError(f"{place}: {where}: {message}{value}.")


def _written(value: object) -> str:
    """Return a value about as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _line_of(text: str, location: Sequence[int | str]) -> int | None:
    """Return the number of the line that sets a key, or None where it is written in another way, or not at all.

    Args:
        text: The file's content.
        location: The key, with those of the tables around it and the index of a ``[[table]]``.
    """
    keys = [part for part in location if isinstance(part, str)]
    index = next((part for part in location if isinstance(part, int)), 0)
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (heading := _HEADING.match(line)) is not None:
            table = [part.strip(" \"'") for part in heading["name"].split(".")]
            seen[heading["name"]] = seen.get(heading["name"], -1) + 1
            if table == keys:
                return number
        elif (entry := _ENTRY.match(line)) is not None:
            path = [*table, *(part.strip(" \"'") for part in entry["key"].split("."))]
            occurrence = max(seen.get(".".join(table), 0), 0)
            if path == keys[: len(path)] and (len(keys) == 1 or occurrence == index or not table):
                return number
    return None


def read(path: Path) -> Deployment:
    """Return the deployment described by the file at ``path``; paths in it become absolute.

    Raises:
        DeploymentMissingError: No such file.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except InputFileMissingError as error:
        raise DeploymentMissingError(f"There is no {path}.", hint="Run `sealserve init` to write one.") from error
    except UnicodeDecodeError as error:
        raise DeploymentSyntaxError(f"{path} is not UTF-8 text.") from error
    deployment = parse(text, source=str(path))
    here = path.parent
    models = tuple(model.model_copy(update={"path": _below(here, model.path)}) for model in deployment.models)
    files = ("batching_parameters_file", "monitoring_config_file")
    server = deployment.server.model_copy(
        update={name: _below(here, getattr(deployment.server, name)) for name in files}
    )
    kubernetes = deployment.kubernetes.model_copy(
        update={name: _below(here, getattr(deployment.kubernetes, name)) for name in ("inventory", "store_folder")}
    )
    secrets = ("passphrase_file", "transit_token_file", "transit_ca_file")
    keystore = deployment.keystore.model_copy(
        update={name: _below(here, getattr(deployment.keystore, name)) for name in secrets}
    )
    return deployment.model_copy(
        update={"models": models, "server": server, "kubernetes": kubernetes, "keystore": keystore}
    )


def _below(folder: Path, path: Path | None) -> Path | None:
    """Return a path of the file as an absolute one, without ``..`` where that names the same file."""
    if path is None:
        return None
    joined = folder / path  # an absolute path stays what it is
    plain = Path(os.path.normpath(joined))
    return plain if plain.resolve() == joined.resolve() else joined  # ".." after a link leads elsewhere


def _nearest(location: Sequence[str]) -> str:
    section: type[BaseModel] = Deployment
    for part in location[:-1]:
        section = section_of(fields_of(section)[part])
    known = list(fields_of(section))
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(known)}."
