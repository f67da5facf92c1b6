"""What a cloud preset is made of. Each fact has its source, and says whether the source is one to rely on."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final, Generic, TypeVar

from sealserve.clouds.codes import CloudsCode
from sealserve.terms import Cloud

_T = TypeVar("_T")

INTEL_ENCLAVE: Final = "sgx.intel.com/enclave"
INTEL_PROVISION: Final = "sgx.intel.com/provision"
INTEL_EPC: Final = "sgx.intel.com/epc"


class Basis(StrEnum):
    """What a fact rests on."""

    VENDOR = "vendor"
    """The vendor's own documentation or source code."""
    REPORT = "report"
    """Somebody's public report, or the older public example: nobody here has seen it."""
    UNVERIFIED = "unverified"
    """No source was found: look yourself."""


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a fact comes from.

    Attributes:
        url: The page or file.
        dated: The date that it bears; None where it bears none.
    """

    url: str
    dated: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Generic[_T]):
    """A value, and why it is believed.

    Attributes:
        value: The value.
        basis: What it rests on.
        source: Where it comes from; None only for what is unverified.
        note: What else there is to say.
    """

    value: _T
    basis: Basis = Basis.VENDOR
    source: Citation | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Check that only what is unverified has no source."""
        if (self.source is None) is not (self.basis is Basis.UNVERIFIED):
            raise ValueError(f"a fact that is {self.basis} must {'' if self.source is None else 'not '}have a source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A kind of machine that can be rented.

    Attributes:
        name: What the cloud calls it.
        vcpus: Its virtual processors.
        memory_gib: All its memory, in GiB.
        epc_gib: The encrypted part of it, in GiB; None where no source says.
    """

    name: str
    vcpus: int
    memory_gib: int
    epc_gib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An operating system.

    Attributes:
        name: What the cloud calls it.
        kernel: Its Linux version, as far as it is known.
        supported: Whether Gramine 1.9 takes it (Linux 5.11 or later, with the in-kernel driver).
    """

    name: str
    kernel: str
    supported: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationService:
    """A cloud's PCCS, in the form of ``/etc/sgx_default_qcnl.conf``.

    Attributes:
        url: The base of its API; ``{region}`` stands for the region, where there is a service for each.
        regions: The regions that have one; empty where one serves all.
        settings: What else the file must say.
    """

    url: str
    regions: tuple[str, ...] = ()
    settings: tuple[tuple[str, object], ...] = ()

    def address(self, region: str | None) -> str:
        """Return the base of the API for a region.

        Raises:
            InputError: `cloud.region`: No such region, or none named where one is needed.
        """
        if not self.regions:
            return self.url
        if region not in self.regions:
            known = ", ".join(self.regions)
            raise CloudsCode.CLOUD_REGION.error(
                f"There is no attestation service in region {region!r}." if region else "The region must be named.",
                hint=f"--region takes: {known}.",
            )
        return self.url.format(region=region)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesFacts:
    """What the cloud's managed Kubernetes calls things.

    Attributes:
        device_plugin: Which plugin hands out SGX, and how one gets it.
        epc_resource: The resource that says how much EPC a container may use.
        epc_unit: How many bytes one unit of that resource is.
        device_resources: Other resources that a container asks for, once each, to get the device.
        shared_storage_class: The storage class of volumes that several pods write.
        internal_load_balancer: Annotations that keep a load balancer inside the virtual network.
        proxy_protocol: Annotations that make a load balancer send the PROXY protocol; None where none is known.
    """

    device_plugin: Fact[str]
    epc_resource: Fact[str]
    epc_unit: int
    device_resources: Fact[tuple[str, ...]]
    shared_storage_class: Fact[str | None]
    internal_load_balancer: Fact[tuple[tuple[str, str], ...]]
    proxy_protocol: Fact[tuple[tuple[str, str], ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A cloud's SGX machines.

    Attributes:
        cloud: Its name in ``sealserve.toml``.
        title: The cloud and the family of machines.
        state: What has to be known today.
        sizes: The machines.
        suggested: The size that the guide takes.
        images: Operating systems, those that no longer do included.
        pccs: Where the platform's certificates come from.
        quote_provider: The package with the library through which aesmd asks there.
        devices: The device nodes.
        kubernetes: The managed Kubernetes.
        guide: The page that leads from an empty account to a served request.
    """

    cloud: Cloud
    title: str
    state: Fact[str]
    sizes: Fact[tuple[Size, ...]]
    suggested: str
    images: tuple[Fact[Image], ...]
    pccs: Fact[AttestationService]
    quote_provider: Fact[str]
    devices: Fact[tuple[str, ...]]
    kubernetes: KubernetesFacts

    @property
    def guide(self) -> str:
        """The page of the documentation."""
        return f"docs/how-to/{self.cloud}.md"


PORTS: Final = (
    (4433, "from the enclaves' machines to the owner's broker"),
    (8500, "from the users to NGINX: gRPC over TLS"),
    (8501, "from the users to NGINX: REST over TLS; open it only if server.rest is true"),
)
"""The ports of the older public example; its guide opens 4433 and 8500-8501 in each cloud."""
