"""``/etc/sgx_default_qcnl.conf``: the address from which aesmd's quote provider library gets platform certificates.

Two formats are in use. Since DCAP 1.14, the format is JSON with ``//`` comments. Before, it was ``NAME=value`` lines
with ``#`` comments, which cloud guides still show and the library still reads. Source:
intel/SGXDataCenterAttestationPrimitives, QuoteGeneration/qcnl/qcnl_config.cpp, linux/sgx_default_qcnl.conf and
linux/sgx_default_qcnl_azure.conf.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from sealserve.errors import InputError

PATH: Final = "/etc/sgx_default_qcnl.conf"

_COMMENT: Final = re.compile(r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LINE: Final = re.compile(r"^\s*([A-Z_]+)\s*=\s*(\S+)\s*$")


class QcnlError(InputError):
    """The configuration of the quote provider library is invalid."""

    code = "host.qcnl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcnl:
    """The settings in the file that sealserve uses.

    Attributes:
        pccs_url: The base URL of the PCCS's API, with ``/sgx/certification/vN/``.
        use_secure_cert: Whether the PCCS must have a certificate that the system trusts.
    """

    pccs_url: str
    use_secure_cert: bool = True


def parse(text: str) -> Qcnl:
    """Return the settings in the file.

    Raises:
        QcnlError: The text has neither of the two formats, or sets no PCCS.
    """
    settings = _json(text) if text.lstrip(" \t\r\n").startswith(("{", "//", "/*")) else _lines(text)
    url = settings.get("pccs_url")
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise QcnlError(
            f"{PATH} sets no PCCS: expected an http or https URL as pccs_url, "
            f"got {'nothing' if url is None else repr(url)}.",
            hint="Run `sealserve cloud qcnl` to write the file for a cloud, or set the URL of your own PCCS.",
        )
    secure = settings.get("use_secure_cert", True)
    if not isinstance(secure, bool):
        raise QcnlError(
            f"{PATH} is invalid: expected true or false as use_secure_cert, got {secure!r}.",
            hint="Set use_secure_cert to true or false.",
        )
    return Qcnl(pccs_url=url, use_secure_cert=secure)


def render(settings: dict[str, Any], *, comment: str) -> str:
    """Return the file's content, in JSON format.

    Args:
        settings: Its keys and values.
        comment: Text of the comment at the top, without comment markers.
    """
    lines = "".join(f"// {line}\n" for line in comment.splitlines())
    return f"{lines}{json.dumps(settings, indent=2)}\n"


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_COMMENT.sub(lambda found: found[1] or "", text))
    except (ValueError, RecursionError) as error:
        raise QcnlError(
            f"{PATH} is not valid JSON with comments: {error}.",
            hint="Correct the file, or write it with `sealserve cloud qcnl`.",
        ) from error
    if not isinstance(value, dict):
        raise QcnlError(
            f"{PATH} is invalid: expected a JSON object, got {type(value).__name__}.",
            hint="Correct the file, or write it with `sealserve cloud qcnl`.",
        )
    return value


def _lines(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if (matched := _LINE.match(line)) is not None:
            name, value = matched.groups()
            found[name.lower()] = value if name != "USE_SECURE_CERT" else value.upper() == "TRUE"
    return found
