"""Azure DCsv3: virtual machines with SGX on Ice Lake processors."""

from datetime import date

from sealserve.clouds.facts import (
    INTEL_EPC,
    AttestationService,
    Basis,
    Citation,
    Fact,
    Image,
    KubernetesFacts,
    Preset,
    Size,
)
from sealserve.host.facts import ENCLAVE_DEVICE, PROVISION_DEVICE
from sealserve.terms import Cloud

_SIZES = Citation(
    "https://learn.microsoft.com/azure/virtual-machines/sizes/general-purpose/dcsv3-series", date(2026, 3, 10)
)
_RETIREMENT = Citation(
    "https://learn.microsoft.com/azure/virtual-machines/sizes/retirement/dcsv3-series-retirement", date(2026, 9, 25)
)
_IMAGES = Citation(
    "https://learn.microsoft.com/azure/confidential-computing/virtual-machine-solutions-sgx", date(2023, 9, 12)
)
_AKS = Citation(
    "https://learn.microsoft.com/azure/confidential-computing/confidential-enclave-nodes-aks-get-started",
    date(2021, 11, 1),
)
_QCNL = Citation(
    "https://github.com/intel/SGXDataCenterAttestationPrimitives/blob/main/QuoteGeneration/qcnl/linux/sgx_default_qcnl_azure.conf"
)
_UBUNTU_ADDS = "the kernel is Ubuntu's for Azure"

PRESET = Preset(
    cloud=Cloud.AZURE_DCSV3,
    title="Azure DCsv3 (Intel Xeon Platinum 8370C, SGX with FLC and SGX2)",
    state=Fact(
        value="Retires on 2029-10-31. New subscriptions cannot use it since 2026-11-01: "
        "an account without DCsv3 must use a different cloud.",
        source=_RETIREMENT,
    ),
    sizes=Fact(
        value=(
            Size(name="Standard_DC1s_v3", vcpus=1, memory_gib=8, epc_gib=4),
            Size(name="Standard_DC2s_v3", vcpus=2, memory_gib=16, epc_gib=8),
            Size(name="Standard_DC4s_v3", vcpus=4, memory_gib=32, epc_gib=16),
            Size(name="Standard_DC8s_v3", vcpus=8, memory_gib=64, epc_gib=32),
            Size(name="Standard_DC16s_v3", vcpus=16, memory_gib=128, epc_gib=64),
            Size(name="Standard_DC24s_v3", vcpus=24, memory_gib=192, epc_gib=128),
            Size(name="Standard_DC32s_v3", vcpus=32, memory_gib=256, epc_gib=192),
            Size(name="Standard_DC48s_v3", vcpus=48, memory_gib=384, epc_gib=256),
        ),
        source=_SIZES,
    ),
    suggested="Standard_DC8s_v3",
    images=(
        Fact(
            value=Image(name="Canonical 0001-com-ubuntu-server-jammy 22_04-lts-gen2", kernel="5.15", supported=True),
            source=_IMAGES,
            note=f"{_UBUNTU_ADDS}, 5.15 or later",
        ),
        Fact(
            value=Image(name="Canonical ubuntu-24_04-lts server (gen 2)", kernel="6.8", supported=True),
            basis=Basis.UNVERIFIED,
            note="Gramine has packages for it; Microsoft's page does not list it for SGX",
        ),
        Fact(
            value=Image(name="Canonical 0001-com-ubuntu-server-focal 20_04-lts-gen2", kernel="5.15", supported=False),
            source=_IMAGES,
            note="on Microsoft's list, but out of Ubuntu's standard support, and Gramine 1.9 has no packages for it",
        ),
        Fact(
            value=Image(name="Ubuntu 18.04 Gen2", kernel="5.4", supported=False),
            source=_AKS,
            note="still named on AKS's page; older than the 5.11 that Gramine 1.9 requires",
        ),
    ),
    pccs=Fact(
        value=AttestationService(
            url="https://global.acccache.azure.net/sgx/certification/v4/",
            settings=(
                ("collateral_service", "https://api.trustedservices.intel.com/sgx/certification/v4/"),
                ("pccs_api_version", "3.1"),
                ("retry_times", 6),
                ("retry_delay", 5),
                ("local_pck_url", "http://169.254.169.254/metadata/THIM/sgx/certification/v4/"),
                ("pck_cache_expire_hours", 48),
                ("verify_collateral_cache_expire_hours", 48),
                (
                    "custom_request_options",
                    {"get_cert": {"headers": {"metadata": "true"}, "params": {"api-version": "2021-07-22-preview"}}},
                ),
            ),
        ),
        source=_QCNL,
        note="the platform's certificate comes from the machine's own metadata address; "
        "Microsoft's collateral is intentionally older than Intel's, so the broker uses Intel's",
    ),
    quote_provider=Fact(
        value="libsgx-dcap-default-qpl",
        source=_QCNL,
        note="with these settings; the alternative is Microsoft's own az-dcap-client, which needs no file",
    ),
    devices=Fact(
        value=(ENCLAVE_DEVICE, PROVISION_DEVICE),
        source=Citation("https://docs.kernel.org/arch/x86/sgx.html"),
        note="Linux's own driver, in Ubuntu's kernels",
    ),
    kubernetes=KubernetesFacts(
        device_plugin=Fact(value="AKS's add-on confcom (`az aks create --enable-addons confcom`)", source=_AKS),
        epc_resource=Fact(
            value=INTEL_EPC,
            source=_AKS,
            note="older pages use kubernetes.azure.com/sgx_epc_mem_in_MiB",
        ),
        epc_unit=1,
        device_resources=Fact(value=(), source=_AKS, note="the EPC resource alone provides the device nodes"),
        shared_storage_class=Fact(
            value="azurefile-csi-premium", source=Citation("https://learn.microsoft.com/azure/aks/azure-files-csi")
        ),
        internal_load_balancer=Fact(
            value=(("service.beta.kubernetes.io/azure-load-balancer-internal", "true"),),
            source=Citation("https://cloud-provider-azure.sigs.k8s.io/topics/loadbalancer/"),
        ),
        proxy_protocol=Fact(
            value=None,
            basis=Basis.UNVERIFIED,
            note="no annotation was found",
        ),
    ),
)
