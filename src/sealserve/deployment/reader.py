"""Reading ``sealserve.toml``."""

import json
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from datetime import date, time
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from sealserve.deployment import explanation, moved_keys
from sealserve.deployment.codes import DeploymentCode
from sealserve.deployment.values import FOLDER
from sealserve.deployment.whole import Deployment
from sealserve.deprecation import DeprecatedKeyWarning
from sealserve.regular_file import InputFileMissingError, read_regular

_DEEPEST: Final = 20


def read(path: Path) -> Deployment:
    """Return the deployment described by the file at ``path``; paths in it become absolute.

    Raises:
        InputError: `deployment.missing`: No such file.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except InputFileMissingError as error:
        raise DeploymentCode.MISSING.error(f"There is no {path}.", hint="Run `sealserve init` to write one.") from error
    except UnicodeDecodeError as error:
        raise DeploymentCode.SYNTAX.error(f"{path} is not UTF-8 text.") from error
    return parse(text, source=str(path), folder=path.parent)


def parse(text: str, *, source: str = "sealserve.toml", folder: Path | None = None) -> Deployment:
    """Return the deployment that ``text`` (TOML) describes.

    Args:
        text: The file's content.
        source: What to call it in errors.
        folder: Where relative paths start; by default they stay relative.

    Warns:
        DeprecatedKeyWarning: Keys have new names; the text lists them.

    Raises:
        InputError: `deployment.syntax`: No TOML.
        InputError: `deployment.unknown-key`: A key that is not known; the message names the nearest one that is.
        InputError: `deployment.invalid-value`: A value that is missing or not usable.
    """
    # 1. Parse. A number of 5,000 digits is a ValueError; some nesting the parser takes, and what follows would not.
    try:
        data = tomllib.loads(text)
        dated = next(_dates(data), None)
    except RecursionError as error:
        message = f"{source} is not valid TOML: its tables or lists are nested too deeply."
        raise DeploymentCode.SYNTAX.error(message) from error
    except ValueError as error:
        raise DeploymentCode.SYNTAX.error(f"{source} is not valid TOML: {error}.") from error
    # 2. Refuse dates, which no key takes and JSON does not have.
    if dated is not None:
        location, value = dated
        place, key = explanation.describe(location, text, source)
        raise DeploymentCode.INVALID_VALUE.error(
            f"{place}: {key}: a date ({value}) stands where no key takes one.", hint="Put it in quotation marks."
        )
    # 3. Accept the former ways to write keys.
    if isinstance(data.get("model"), Mapping):
        data["model"] = [data["model"]]
    moved = moved_keys.take_along(data)
    if (clash := next((key for key in moved if key.clash), None)) is not None:
        raise explanation.clash(clash, text, source)
    # 4. Validate as JSON, which has the types of TOML: strict, so that `true` is no number, and "1" none either.
    try:
        deployment = Deployment.model_validate_json(json.dumps(data), strict=True, context={FOLDER: folder})
    except ValidationError as error:
        raise explanation.explain(error, text, source, data=data, moved=moved) from error
    # 5. The file is usable: tell which of its keys to rename.
    if moved:
        warnings.warn(explanation.renaming(moved, text, source), DeprecatedKeyWarning, stacklevel=2)
    return deployment


def _dates(value: object, location: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], date | time]]:
    """Yield each date and time in a parsed file, with its location.

    Raises:
        RecursionError: More tables and lists are in each other than any key of ours is in.
    """
    if len(location) > _DEEPEST:
        raise RecursionError
    if isinstance(value, date | time):
        yield location, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _dates(item, (*location, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _dates(item, (*location, index))
