"""Reads and validates ``sealserve.toml``."""

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
    """Return the deployment that the file at ``path`` describes. Paths in it become absolute.

    Raises:
        InputError: `deployment.missing` if the file does not exist. For other codes, see `parse`.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except InputFileMissingError as error:
        raise DeploymentCode.MISSING.error(
            f"The deployment file {path} does not exist.", hint="Create it with `sealserve init`."
        ) from error
    except UnicodeDecodeError as error:
        raise DeploymentCode.SYNTAX.error(
            f"{path} is not UTF-8 text, and TOML requires UTF-8.", hint="Save the file with the encoding UTF-8."
        ) from error
    return parse(text, source=str(path), folder=path.parent)


def parse(text: str, *, source: str = "sealserve.toml", folder: Path | None = None) -> Deployment:
    """Return the deployment that a TOML text describes.

    Args:
        text: The file's content.
        source: The name of the file in error messages.
        folder: Base folder of relative paths. By default, paths stay relative.

    Warns:
        DeprecatedKeyWarning: Some keys have new names. The message lists them.

    Raises:
        InputError: `deployment.syntax` if the text is not valid TOML.
        InputError: `deployment.unknown-key` if a key is unknown. The hint names the most similar known key.
        InputError: `deployment.invalid-value` if a value is missing or invalid.
    """
    # 1. Parse. A number of 5,000 digits is a ValueError. The parser accepts deeper nesting than the next steps can.
    try:
        data = tomllib.loads(text)
        dated = next(_dates(data), None)
    except RecursionError as error:
        message = f"{source} is not valid TOML: its tables or lists are nested too deeply."
        raise DeploymentCode.SYNTAX.error(message) from error
    except ValueError as error:
        raise DeploymentCode.SYNTAX.error(f"{source} is not valid TOML: {error}.") from error
    # 2. Reject dates: no key accepts a date, and JSON has no dates.
    if dated is not None:
        location, value = dated
        place, key = explanation.describe(location, text, source)
        raise DeploymentCode.INVALID_VALUE.error(
            f"{place}: {key}: dates are not supported, got {value}.", hint="Put the value in quotation marks."
        )
    # 3. Accept former spellings of keys.
    if isinstance(data.get("model"), Mapping):
        data["model"] = [data["model"]]
    moved = moved_keys.take_along(data)
    if (clash := next((key for key in moved if key.clash), None)) is not None:
        raise explanation.clash(clash, text, source)
    # 4. Validate as JSON, which has the types of TOML. Strict mode rejects `true` and "1" as numbers.
    try:
        deployment = Deployment.model_validate_json(json.dumps(data), strict=True, context={FOLDER: folder})
    except ValidationError as error:
        raise explanation.explain(error, text, source, data=data, moved=moved) from error
    # 5. The file is valid: warn about keys that must be renamed.
    if moved:
        warnings.warn(explanation.renaming(moved, text, source), DeprecatedKeyWarning, stacklevel=2)
    return deployment


def _dates(value: object, location: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], date | time]]:
    """Yield each date and time in a parsed file, with its location.

    Raises:
        RecursionError: Tables and lists are nested more deeply than any known key.
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
