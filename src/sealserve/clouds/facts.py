"""The types of a cloud preset. Each fact has its source, and the reliability of this source."""

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
    """The reliability of a fact."""

    VENDOR = "vendor"
    """The vendor's own documentation or source code."""
    REPORT = "report"
    """A public report, or the older public example. The sealserve project has not verified it."""
    UNVERIFIED = "unverified"
    """No source was found. Verify it before you rely on it."""


@dataclass(frozen=True, slots=True)
class Citation:
    """The source of a fact.

    Attributes:
        url: The page or file.
        dated: The date on the page, or None if it has no date.
    """

    url: str
    dated: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Generic[_T]):
    """A value with its source.

    Attributes:
        value: The value.
        basis: The reliability of its source.
        source: The source. None only for unverified facts.
        note: Additional remarks.
    """

    value: _T
    basis: Basis = Basis.VENDOR
    source: Citation | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Check that a fact has a source unless it is unverified."""
        if (self.source is None) is not (self.basis is Basis.UNVERIFIED):
            raise ValueError(f"a fact that is {self.basis} must {'' if self.source is None else 'not '}have a source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """An instance type.

    Attributes:
        name: The cloud's name for it.
        vcpus: Number of virtual processors.
        memory_gib: Total memory, in GiB.
        epc_gib: Its EPC (encrypted memory), in GiB. None if no source states it.
    """

    name: str
    vcpus: int
    memory_gib: int
    epc_gib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An operating system image.

    Attributes:
        name: The cloud's name for it.
        kernel: Its Linux version, as far as it is known.
        supported: Whether Gramine 1.9 supports it (Linux 5.11 or later, with the in-kernel driver).
    """

    name: str
    kernel: str
    supported: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationService:
    """A cloud's PCCS, in the form of ``/etc/sgx_default_qcnl.conf``.

    Attributes:
        url: The base URL of its API. ``{region}`` is a placeholder, if each region has its own service.
        regions: The regions with a service. Empty if one service covers all regions.
        settings: Further settings that the file must contain.
    """

    url: str
    regions: tuple[str, ...] = ()
    settings: tuple[tuple[str, object], ...] = ()

    def address(self, region: str | None) -> str:
        """Return the base URL of the API for a region.

        Raises:
            InputError: `cloud.region` if the region does not exist, or is None although the cloud requires it.
        """
        if not self.regions:
            return self.url
        if region not in self.regions:
            known = ", ".join(self.regions)
            raise CloudsCode.CLOUD_REGION.error(
                f"The cloud has no attestation service in region {region!r}."
                if region
                else "The cloud's attestation service depends on the region: expected --region, got none.",
                hint=f"Set --region to one of {known}.",
            )
        return self.url.format(region=region)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesFacts:
    """Names in the cloud's managed Kubernetes.

    Attributes:
        device_plugin: The plugin that provides SGX to pods, and how to install it.
        epc_resource: The resource for the EPC of a container.
        epc_unit: Bytes of one unit of this resource.
        device_resources: Further resources that a container must request, once each, to get the device.
        shared_storage_class: The storage class of volumes that several pods can write to.
        internal_load_balancer: Annotations that keep a load balancer inside the virtual network.
        proxy_protocol: Annotations that make a load balancer send the PROXY protocol. None if none are known.
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
    """The SGX machines of a cloud.

    Attributes:
        cloud: Its name in ``sealserve.toml``.
        title: The cloud and the family of machines.
        state: Current availability.
        sizes: The instance types.
        suggested: The instance type that the guide uses.
        images: Operating system images, including unsupported ones.
        pccs: The service that provides the platform's certificates.
        quote_provider: The package with the library through which aesmd uses this service.
        devices: The device nodes.
        kubernetes: The managed Kubernetes.
        guide: The documentation page from an empty account to a served request.
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
        """Path of the documentation page."""
        return f"docs/how-to/{self.cloud}.md"


PORTS: Final = (
    (4433, "from the enclaves' machines to the owner's broker"),
    (8500, "from the users to NGINX: gRPC over TLS"),
    (8501, "from the users to NGINX: REST over TLS; open it only if server.rest is true"),
)
"""The ports of the older public example, whose guide opens 4433 and 8500-8501 in each cloud."""
