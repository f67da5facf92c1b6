"""A model's base path: a folder on this machine, written as a path or as a ``file://`` URI.

Source: tensorflow/tensorflow, ``tsl/platform/path.cc`` (``ParseURI``), and RFC 8089 for ``file://``.
"""

import re
from pathlib import Path
from typing import Final

from sealserve.errors import InputError
from sealserve.serving.request_errors import Status

_URI: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^/]*)(?P<path>.*)", re.DOTALL)


class BasePathSchemeError(InputError):
    """The base path is a URI that does not name a folder on this machine."""

    code = "servable.base-path-scheme"
    status = Status.INVALID_ARGUMENT


def read_base_path(text: str) -> Path:
    """Return the folder of a base path. A path may be relative; a URI is always absolute.

    Raises:
        BasePathSchemeError: The scheme of the URI is not ``file``, or its host is not this machine.
    """
    uri = _URI.fullmatch(text)
    if uri is None:
        return Path(text)
    if uri["scheme"].lower() != "file":
        raise BasePathSchemeError(
            f"The base path {text} cannot be used: expected a folder on this machine, got the scheme {uri['scheme']}.",
            hint="Copy the model to this machine, or mount the bucket, and give the path of the folder.",
        )
    if uri["host"] not in {"", "localhost"} or not uri["path"]:
        raise BasePathSchemeError(
            f"The base path {text} is not a folder on this machine: expected file:///PATH, got the host"
            f" {uri['host']!r}.",
            hint="Write three slashes: file:///models/resnet50.",
        )
    return Path(uri["path"])
