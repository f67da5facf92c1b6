"""Terms that all of sealserve shares: kinds, modes and limits, with the values used in ``sealserve.toml``."""

from enum import StrEnum
from typing import NewType

ModelName = NewType("ModelName", str)

LARGEST_VERSION = 2**63 - 1
"""The largest model version: TensorFlow Serving parses the name of a version folder as a signed 64-bit number.

Source: tensorflow/serving 9d981c5c, ``sources/storage_path/file_system_storage_path_source.cc``
(``ParseVersionNumber``: a non-negative 64-bit number).
"""
LEAF_DAYS = 90
"""Days for which a certificate of the service or of a user is valid, unless the owner asks for another number."""
DEFAULT_USER = "default"
"""The user whose certificate is in the folder ``user/``."""
INTEL_PCS = "https://api.trustedservices.intel.com"
"""Intel's provisioning certification service (PCS), the source of collateral."""
MOST_PROCESSES = 32
"""The maximum number of processes of a broker."""
EVERY_ADDRESS = "::"
"""Listening on this address accepts connections to every address of the machine, IPv6 and IPv4."""
EVERY_IPV4_ADDRESS = "0.0.0.0"  # noqa: S104  # the equivalent on a machine without IPv6


class PlatformKind(StrEnum):
    """The kind of platform that runs the enclaves."""

    SGX = "sgx"
    SIMULATED = "simulated"


class RuntimeKind(StrEnum):
    """The runtimes of enclaves: the values of ``platform`` in ``sealserve.toml``."""

    SGX = "sgx"
    """Gramine on SGX."""
    GRAMINE_DIRECT = "gramine-direct"
    """Gramine's library OS without SGX. A launcher creates simulated quotes."""
    SIMULATED = "simulated"
    """sealserve's own loader of simulated enclaves."""

    @property
    def platform(self) -> PlatformKind:
        """The kind of platform in the evidence of the enclaves. gramine-direct has simulated evidence."""
        return PlatformKind.SGX if self is RuntimeKind.SGX else PlatformKind.SIMULATED


class CollateralUpdate(StrEnum):
    """The update channel of collateral. The two channels differ only after a TCB recovery.

    Source: Intel PCS API version 4, "Get TCB Info", parameter ``update``.
    """

    STANDARD = "standard"
    """A TCB recovery applies some weeks after its publication, so that machines can be updated before."""
    EARLY = "early"
    """A TCB recovery applies from the day of its publication."""


class Approval(StrEnum):
    """Who approves that a platform gets the key of a release."""

    NONE = "none"
    """No approval: the policy alone decides."""
    MANUAL = "manual"
    """A person approves each platform."""


class TargetKind(StrEnum):
    """The target of a deployment."""

    LOCAL = "local"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


class SystemdService(StrEnum):
    """The services that a systemd unit can run."""

    BROKER = "broker"
    """The owner's broker."""
    DEPLOYMENT = "deployment"
    """A deployment on the local target: `sealserve up` when the machine starts, `sealserve down` when it stops."""


class LogFormat(StrEnum):
    """The format of a service's log lines."""

    TEXT = "text"
    """A time, a level and a message."""
    JSON = "json"
    """One JSON object per line."""


class TlsMode(StrEnum):
    """Which sides present a certificate: only the service, or the service and its users."""

    ONE_WAY = "one-way"
    TWO_WAY = "two-way"


class Cloud(StrEnum):
    """The clouds with SGX machines that sealserve supports with presets."""

    ALIBABA_G7T = "alibaba-g7t"
    TENCENT_M6CE = "tencent-m6ce"
    AZURE_DCSV3 = "azure-dcsv3"


class CpuFeature(StrEnum):
    """A feature of processors that an enclave can require. The values are Gramine's names (``sgx.cpu_features``)."""

    AVX = "avx"
    AVX512 = "avx512"
    AMX = "amx"


class Precision(StrEnum):
    """The precision in which an optimized model computes. Its inputs and outputs keep their types."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class ServerKind(StrEnum):
    """The model server inside the enclave."""

    EMBEDDED = "embedded"
    TENSORFLOW_SERVING = "tensorflow-serving"


class IngressKind(StrEnum):
    """The component that accepts external connections to a Kubernetes deployment."""

    NGINX = "nginx"
    GATEWAY_API = "gateway-api"
    INGRESS_NGINX = "ingress-nginx"
    F5 = "f5"


class BrokerNaming(StrEnum):
    """How the pods of a cluster resolve the broker's name."""

    DNS = "dns"
    COREDNS_HOSTS = "coredns-hosts"
    EXTERNAL_NAME = "external-name"


class AdministratorRole(StrEnum):
    """The role of a remote administrator. `sealserve.broker.administration.roles` states what each role permits."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
