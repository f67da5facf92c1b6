"""A model's base path: a folder of this machine, written as a path or as a ``file://`` URI.

Source: tensorflow/tensorflow, ``tsl/platform/path.cc`` (``ParseURI``), and RFC 8089 for ``file://``.
"""

import re
from pathlib import Path
from typing import Final

from sealserve.errors import InputError
from sealserve.serving.request_errors import Status

_URI: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^/]*)(?P<path>.*)", re.DOTALL)


class BasePathSchemeError(InputError):
    """The base path is a URI that does not name a folder of this machine."""

    code = "servable.base-path-scheme"
    status = Status.INVALID_ARGUMENT


def read_base_path(text: str) -> Path:
    """Return the folder that a base path names. A path may be relative; a URI cannot.

    Raises:
        BasePathSchemeError: It is a URI with another scheme than ``file``, or of another host.
    """
    uri = _URI.fullmatch(text)
    if uri is None:
        return Path(text)
    if uri["scheme"].lower() != "file":
        raise BasePathSchemeError(
            f"The base path {text} has the scheme {uri['scheme']}: expected a folder of this machine.",
            hint="Copy the model to this machine, or mount the bucket, and give the path of the folder.",
        )
    if uri["host"] not in {"", "localhost"} or not uri["path"]:
        raise BasePathSchemeError(
            f"The base path {text} is not a folder of this machine: expected file:///PATH, got the host"
            f" {uri['host']!r}.",
            hint="Write three slashes: file:///models/resnet50.",
        )
    return Path(uri["path"])
