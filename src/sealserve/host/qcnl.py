"""``/etc/sgx_default_qcnl.conf``: where the quote provider library of aesmd looks for a platform's certificates.

Two forms are in use. JSON with ``//`` comments, since DCAP 1.14; before it ``NAME=value`` lines with ``#`` comments,
which the guides of the clouds still show and the library still reads. Source: intel/SGXDataCenterAttestationPrimitives,
QuoteGeneration/qcnl/qcnl_config.cpp, linux/sgx_default_qcnl.conf and linux/sgx_default_qcnl_azure.conf.
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
    """The configuration of the quote provider library cannot be read."""

    code = "host.qcnl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcnl:
    """What the file says, as far as sealserve has a use for it.

    Attributes:
        pccs_url: The base of the PCCS's API, with ``/sgx/certification/vN/``.
        use_secure_cert: Whether the PCCS must have a certificate that the system trusts.
    """

    pccs_url: str
    use_secure_cert: bool = True


def parse(text: str) -> Qcnl:
    """Return what the file says.

    Raises:
        QcnlError: It is neither of the two forms, or names no PCCS.
    """
    settings = _json(text) if text.lstrip(" \t\r\n").startswith(("{", "//", "/*")) else _lines(text)
    url = settings.get("pccs_url")
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise QcnlError(
            f"{PATH} names no PCCS: pccs_url is {url!r}.",
            hint="`sealserve cloud qcnl` writes one for a cloud; without a cloud, name your own PCCS.",
        )
    secure = settings.get("use_secure_cert", True)
    if not isinstance(secure, bool):
        raise QcnlError(f"{PATH}: use_secure_cert is {secure!r}, and must be true or false.")
    return Qcnl(pccs_url=url, use_secure_cert=secure)


def render(settings: dict[str, Any], *, comment: str) -> str:
    """Return the file, in JSON form.

    Args:
        settings: Its keys and values.
        comment: What stands above them: lines without a mark.
    """
    lines = "".join(f"// {line}\n" for line in comment.splitlines())
    return f"{lines}{json.dumps(settings, indent=2)}\n"


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_COMMENT.sub(lambda found: found[1] or "", text))
    except (ValueError, RecursionError) as error:
        raise QcnlError(f"{PATH} is no JSON with comments: {error}.") from error
    if not isinstance(value, dict):
        raise QcnlError(f"{PATH} holds {type(value).__name__}, not an object.")
    return value


def _lines(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if (matched := _LINE.match(line)) is not None:
            name, value = matched.groups()
            found[name.lower()] = value if name != "USE_SECURE_CERT" else value.upper() == "TRUE"
    return found
