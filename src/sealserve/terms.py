"""The words of the field that all of sealserve shares: kinds, modes and limits, as ``sealserve.toml`` writes them."""

from enum import StrEnum
from typing import NewType

ModelName = NewType("ModelName", str)

LARGEST_VERSION = 2**63 - 1
"""The largest version of a model: TensorFlow Serving reads a version folder's name as a signed 64-bit number.

Source: tensorflow/serving 9d981c5c, ``sources/storage_path/file_system_storage_path_source.cc``
(``ParseVersionNumber``: a 64-bit number that is not negative).
"""
LEAF_DAYS = 90
"""Days for which a certificate of the service or of a user is valid, unless the owner asks for another number."""
DEFAULT_USER = "default"
"""The user whose certificate is in the folder ``user/``."""
INTEL_PCS = "https://api.trustedservices.intel.com"
"""Intel's provisioning certification service (PCS), the source of collateral."""
EVERY_ADDRESS = "::"
"""Listening here takes connections at every address of the machine, IPv6 and IPv4."""
EVERY_IPV4_ADDRESS = "0.0.0.0"  # noqa: S104  # the same, on a machine without IPv6


class PlatformKind(StrEnum):
    """What runs the enclaves."""

    SGX = "sgx"
    SIMULATED = "simulated"


class TargetKind(StrEnum):
    """Where a deployment runs."""

    LOCAL = "local"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


class SystemdService(StrEnum):
    """What a systemd unit runs."""

    BROKER = "broker"
    """The owner's broker."""
    DEPLOYMENT = "deployment"
    """A deployment on the local target: `sealserve up` when the machine starts, `sealserve down` when it stops."""


class TlsMode(StrEnum):
    """Who shows a certificate: the service alone, or the service and its users."""

    ONE_WAY = "one-way"
    TWO_WAY = "two-way"


class Cloud(StrEnum):
    """A cloud whose SGX machines sealserve knows facts about."""

    ALIBABA_G7T = "alibaba-g7t"
    TENCENT_M6CE = "tencent-m6ce"
    AZURE_DCSV3 = "azure-dcsv3"


class ServerKind(StrEnum):
    """Which model server runs inside the enclave."""

    EMBEDDED = "embedded"
    TENSORFLOW_SERVING = "tensorflow-serving"


class IngressKind(StrEnum):
    """What takes connections to a Kubernetes deployment from outside."""

    NGINX = "nginx"
    GATEWAY_API = "gateway-api"
    INGRESS_NGINX = "ingress-nginx"
    F5 = "f5"


class BrokerNaming(StrEnum):
    """How the broker's name is resolved in a cluster's pods."""

    DNS = "dns"
    COREDNS_HOSTS = "coredns-hosts"
    EXTERNAL_NAME = "external-name"
