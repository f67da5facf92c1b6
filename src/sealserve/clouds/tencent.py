"""Tencent Cloud CVM M6ce: virtual machines with SGX on Ice Lake processors."""

from datetime import date

from sealserve.clouds.facts import (
    INTEL_ENCLAVE,
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

_BUILD = Citation("https://cloud.tencent.com/document/practice/213/63353", date(2024, 6, 6))
_CCP = Citation("https://cloud.tencent.com/document/product/1542/73896", date(2025, 7, 3))
_OLD_GUIDE = Citation(
    "https://github.com/intel/confidential-computing-zoo/blob/main/documents/readthedoc/docs/source/Cloud/cloudDeployment.md",
    date(2026, 6, 18),
)

PRESET = Preset(
    cloud=Cloud.TENCENT_M6CE,
    title="Tencent Cloud CVM M6ce (Intel Ice Lake, SGX with FLC and SGX2)",
    state=Fact(
        value="The vendor documents SGX only with TencentOS Server 3.1 (TK4), whose Linux 5.4 is too old for Gramine: "
        "check that a newer image has /dev/sgx_enclave before you rely on it.",
        source=_CCP,
    ),
    sizes=Fact(
        value=(Size(name="M6ce.4XLARGE128", vcpus=16, memory_gib=128, epc_gib=None),),
        basis=Basis.REPORT,
        source=_OLD_GUIDE,
        note="memory according to the size's name; the example's pages state 64 GiB, and 32 or 64 GiB of EPC",
    ),
    suggested="M6ce.4XLARGE128",
    images=(
        Fact(
            value=Image(name="Ubuntu Server 22.04 LTS", kernel="5.15", supported=True),
            basis=Basis.UNVERIFIED,
            note="Gramine has packages for it; no source confirms that it is offered for M6ce and has the device",
        ),
        Fact(
            value=Image(name="TencentOS Server 4", kernel="6.6", supported=True),
            basis=Basis.UNVERIFIED,
            note="new enough; no source confirms that its kernel has CONFIG_X86_SGX on M6ce",
        ),
        Fact(
            value=Image(name="TencentOS Server 3.1 (TK4)", kernel="5.4.119", supported=False),
            source=_BUILD,
            note="used by the vendor's page and the older public example; driver and FSGSBASE are backported to a "
            "kernel that is older than the 5.11 that Gramine 1.9 requires",
        ),
    ),
    pccs=Fact(
        value=AttestationService(
            url="https://sgx-dcap-server-tc.{region}.tencent.cn/sgx/certification/v4/", regions=("bj", "sh", "gz")
        ),
        source=_BUILD,
        note="Beijing, Shanghai, Guangzhou. Tencent's page of 2024 gives version 3 of the API, which Intel has "
        "switched off. The path here is for version 4, which was not verified with Tencent's service",
    ),
    quote_provider=Fact(value="libsgx-dcap-default-qpl", source=_BUILD),
    devices=Fact(
        value=(ENCLAVE_DEVICE, PROVISION_DEVICE),
        basis=Basis.UNVERIFIED,
        note="the names of Linux's own driver; TencentOS 3.1 has a different driver",
    ),
    kubernetes=KubernetesFacts(
        device_plugin=Fact(
            value="Intel's SGX device plugin, which you install yourself: TKE documents no plugin",
            basis=Basis.UNVERIFIED,
        ),
        epc_resource=Fact(
            value=INTEL_EPC,
            source=Citation(
                "https://intel.github.io/intel-device-plugins-for-kubernetes/0.31/cmd/sgx_plugin/README.html"
            ),
        ),
        epc_unit=1,
        device_resources=Fact(
            value=(INTEL_ENCLAVE,),
            source=Citation(
                "https://intel.github.io/intel-device-plugins-for-kubernetes/0.31/cmd/sgx_plugin/README.html"
            ),
        ),
        shared_storage_class=Fact(
            value=None, basis=Basis.UNVERIFIED, note="use your own CFS class: the class is created per cluster"
        ),
        internal_load_balancer=Fact(
            value=(("service.kubernetes.io/qcloud-loadbalancer-internal-subnetid", "SUBNET"),),
            source=Citation("https://cloud.tencent.com/document/product/457/51258", date(2026, 1, 30)),
            note="SUBNET is a placeholder for the ID of your subnet",
        ),
        proxy_protocol=Fact(
            value=None,
            basis=Basis.UNVERIFIED,
            note="no annotation was found",
        ),
    ),
)
