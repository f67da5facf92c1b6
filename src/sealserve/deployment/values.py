"""Types of values that several sections of ``sealserve.toml`` use: addresses, ports, Kubernetes and registry names."""

import os
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, NoReturn

from pydantic import AfterValidator, Field, PlainValidator, StringConstraints, ValidationInfo

from sealserve.names import DNS_LABEL
from sealserve.tcp_ports import LARGEST_PORT


def _as_broker_address(text: str) -> str:
    if ":" in text:
        raise ValueError(
            "Gramine's client splits its list of brokers at every colon. Expected a DNS name (with an AAAA record for "
            "IPv6) or an IPv4 address, without the port (use broker.port)"
        )
    return text


def _as_ip_address(text: str) -> str:
    """Return the address in its usual form. A scope (``%eth0``) is rejected: its meaning differs per machine."""
    if "%" in text:
        raise ValueError("expected an IP address without a scope")
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("expected an IP address, such as 192.0.2.7 or 2001:db8::7") from None


def _as_network(value: object) -> IPv4Network | IPv6Network:
    """Return the network that a text describes. `ipaddress` would also accept numbers and uses its own messages."""
    try:
        return ip_network(value) if isinstance(value, str) else _no_network()
    except ValueError:
        return _no_network()


def _no_network() -> NoReturn:
    raise ValueError("expected an IP network in quotation marks, such as 10.213.0.0/22 or 2001:db8::/64")


def _as_ipv4_network(value: object) -> IPv4Network:
    network = _as_network(value)
    if not isinstance(network, IPv4Network):
        raise ValueError("expected an IPv4 network, such as 10.213.0.0/22")  # noqa: TRY004  # pydantic's rule
    return network


FOLDER: Final = "folder"
"""The key of the validation context that holds the base folder of relative paths."""


def _resolved(path: Path, info: ValidationInfo) -> Path:
    """Return a path of the file as an absolute path. Removes ``..`` where the result names the same file."""
    folder: Path | None = (info.context or {}).get(FOLDER)
    if folder is None:  # the text was not read from a file
        return path
    joined = folder / path  # an absolute path stays unchanged
    plain = Path(os.path.normpath(joined))
    return plain if plain.resolve() == joined.resolve() else joined  # ".." after a link leads to a different folder


# Patterns of texts. value_faults.PATTERNS has the description of each pattern.
BROKER_ADDRESS_PATTERN: Final = r"^[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?$"
ENCLAVE_SIZE_PATTERN: Final = r"^(auto|[1-9][0-9]{0,6}[MG])$"
LABEL_KEY_PATTERN: Final = rf"^({DNS_LABEL}(\.{DNS_LABEL})*/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$"
KUBERNETES_NAME_PATTERN: Final = rf"^{DNS_LABEL}$"
QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|[MGT]|[KMGT]i)?$"
# github.com/distribution/reference: an optional domain with a port, then lower-case path components
_PART: Final = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
IMAGE_PREFIX_PATTERN: Final = rf"^([A-Za-z0-9.-]+(:[0-9]+)?/)?({_PART}/)*{_PART}$"
IMAGE_TAG_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"

FilePath = Annotated[Path, AfterValidator(_resolved)]
"""Path of a file or a folder, relative to ``sealserve.toml``."""
SignerName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
"""A signer or its issuer. Release statements name it, and limit its length."""
BrokerAddress = Annotated[
    str,
    AfterValidator(_as_broker_address),
    StringConstraints(pattern=BROKER_ADDRESS_PATTERN, max_length=253),
]
"""A DNS name or an IPv4 address without a port, in the form that Gramine's client parses.

Source: gramineproject/gramine 0154244, ``tools/sgx/ra-tls/secret_prov_attest.c``, ``secret_provision_start``.
"""
IpAddress = Annotated[str, AfterValidator(_as_ip_address)]
OptionalIpAddress = Annotated[str, AfterValidator(lambda text: text and _as_ip_address(text))]
"""An IP address, or an empty text for no address."""
IPv4Subnet = Annotated[IPv4Network, PlainValidator(_as_ipv4_network)]
Networks = tuple[Annotated[IPv4Network | IPv6Network, PlainValidator(_as_network)], ...]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN)]
Port = Annotated[int, Field(ge=1, le=LARGEST_PORT)]
KubernetesName = Annotated[str, StringConstraints(pattern=KUBERNETES_NAME_PATTERN)]
Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN)]
EnclaveSize = Annotated[str, StringConstraints(pattern=ENCLAVE_SIZE_PATTERN)]
ImagePrefix = Annotated[str, StringConstraints(pattern=IMAGE_PREFIX_PATTERN, max_length=200)]
ImageTag = Annotated[str, StringConstraints(pattern=IMAGE_TAG_PATTERN)]
