"""The values that several sections of ``sealserve.toml`` have: addresses, ports, Kubernetes' and registries' names."""

import os
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo

from sealserve.names import DNS_LABEL


def _as_broker_address(text: str) -> str:
    if ":" in text:
        raise ValueError(
            "Gramine's client splits its list of brokers at every colon, so it reaches no IPv6 address and takes no "
            "port here: give a DNS name (with an AAAA record for IPv6), and the port as broker.port"
        )
    return text


def _as_ip_address(text: str) -> str:
    """Return the address in its usual form. A scope (``%eth0``) is refused: it means something on one machine only."""
    if "%" in text:
        raise ValueError("an IP address without a scope is expected")
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("an IP address is expected, such as 192.0.2.7 or 2001:db8::7") from None


FOLDER: Final = "folder"
"""The key of the validation context: the folder that relative paths start from."""


def _resolved(path: Path, info: ValidationInfo) -> Path:
    """Return a path of the file as an absolute one, without ``..`` where that names the same file."""
    folder: Path | None = (info.context or {}).get(FOLDER)
    if folder is None:  # a text that is no file's
        return path
    joined = folder / path  # an absolute path stays what it is
    plain = Path(os.path.normpath(joined))
    return plain if plain.resolve() == joined.resolve() else joined  # ".." after a link leads elsewhere


FilePath = Annotated[Path, AfterValidator(_resolved)]
"""A path of a file or a folder, relative to ``sealserve.toml``."""
BrokerAddress = Annotated[
    str,
    AfterValidator(_as_broker_address),
    StringConstraints(pattern=r"^[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?$", max_length=253),
]
"""A DNS name or an IPv4 address, as Gramine's client reads it; no port.

Source: gramineproject/gramine 0154244, ``tools/sgx/ra-tls/secret_prov_attest.c``, ``secret_provision_start``.
"""
IpAddress = Annotated[str, AfterValidator(_as_ip_address)]
OptionalIpAddress = Annotated[str, AfterValidator(lambda text: text and _as_ip_address(text))]
"""An IP address, or an empty text for none."""
Networks = tuple[Annotated[IPv4Network, Field(strict=False)] | Annotated[IPv6Network, Field(strict=False)], ...]
LabelKey = Annotated[
    str, StringConstraints(pattern=rf"^({DNS_LABEL}(\.{DNS_LABEL})*/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
KubernetesName = Annotated[str, StringConstraints(pattern=rf"^{DNS_LABEL}$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[MGT]|[KMGT]i)?$")]
# github.com/distribution/reference: an optional domain with a port, then lower-case path components
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
ImagePrefix = Annotated[
    str, StringConstraints(pattern=rf"^([A-Za-z0-9.-]+(:[0-9]+)?/)?({_PART}/)*{_PART}$", max_length=200)
]
ImageTag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
