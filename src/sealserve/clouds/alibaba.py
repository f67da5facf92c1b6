"""Alibaba Cloud ECS g7t: virtual machines with SGX on Ice Lake processors."""

from datetime import date

from sealserve.clouds.facts import (
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

_BUILD = Citation(
    "https://www.alibabacloud.com/help/en/ecs/user-guide/build-an-sgx-encrypted-computing-environment",
    date(2024, 6, 19),
)
_FAMILIES = Citation("https://www.alibabacloud.com/help/en/ecs/user-guide/overview-of-instance-families")
_PLUGIN = Citation("https://www.alibabacloud.com/help/en/ack/product-overview/sgx-device-plugin", date(2024, 3, 5))
_ANNOTATIONS = Citation("https://www.alibabacloud.com/help/document_detail/86531.htm", date(2026, 2, 27))
_OLD_GUIDE = Citation(
    "https://github.com/intel/confidential-computing-zoo/blob/main/documents/readthedoc/docs/source/Cloud/cloudDeployment.md",
    date(2026, 6, 18),
)

PRESET = Preset(
    cloud=Cloud.ALIBABA_G7T,
    title="Alibaba Cloud ECS g7t (Intel Xeon Scalable of the third generation, SGX with FLC and SGX2)",
    state=Fact(
        value="Sold by size and region; ecs.g7t.32xlarge on request. If a host fails, SGX sealing keys are lost; "
        "sealserve uses none.",
        source=_FAMILIES,
    ),
    sizes=Fact(
        value=(
            Size(name="ecs.g7t.large", vcpus=2, memory_gib=8, epc_gib=4),
            Size(name="ecs.g7t.xlarge", vcpus=4, memory_gib=16, epc_gib=8),
            Size(name="ecs.g7t.2xlarge", vcpus=8, memory_gib=32, epc_gib=16),
            Size(name="ecs.g7t.3xlarge", vcpus=12, memory_gib=48, epc_gib=24),
            Size(name="ecs.g7t.4xlarge", vcpus=16, memory_gib=64, epc_gib=32),
            Size(name="ecs.g7t.6xlarge", vcpus=24, memory_gib=96, epc_gib=48),
            Size(name="ecs.g7t.8xlarge", vcpus=32, memory_gib=128, epc_gib=64),
            Size(name="ecs.g7t.16xlarge", vcpus=64, memory_gib=256, epc_gib=128),
            Size(name="ecs.g7t.32xlarge", vcpus=128, memory_gib=512, epc_gib=256),
        ),
        source=_FAMILIES,
    ),
    suggested="ecs.g7t.4xlarge",
    images=(
        Fact(
            value=Image(name="Ubuntu 22.04 64-bit, UEFI", kernel="5.15", supported=True),
            source=_BUILD,
            note="the vendor's page names the image; the kernel version is Ubuntu's, and Gramine has packages for it",
        ),
        Fact(
            value=Image(name="Ubuntu 24.04 64-bit, UEFI", kernel="6.8", supported=True),
            basis=Basis.UNVERIFIED,
            note="Gramine has packages for it; no source confirms that the image with UEFI is offered for g7t",
        ),
        Fact(
            value=Image(name="Alibaba Cloud Linux 3, UEFI", kernel="5.10", supported=False),
            source=_BUILD,
            note="older than the 5.11 that Gramine 1.9 requires; the vendor backported the driver, "
            "but we have not tested Gramine 1.9 on it",
        ),
        Fact(
            value=Image(name="Alibaba Cloud Linux 2.1903", kernel="4.19.91-24", supported=False),
            basis=Basis.REPORT,
            source=_OLD_GUIDE,
            note="used by the older public example, with the vendor's backports; far older than 5.11",
        ),
    ),
    pccs=Fact(
        value=AttestationService(
            url="https://sgx-dcap-server-vpc.{region}.aliyuncs.com/sgx/certification/v4/",
            regions=(
                "cn-qingdao",
                "cn-beijing",
                "cn-zhangjiakou",
                "cn-wulanchabu",
                "cn-hangzhou",
                "cn-shanghai",
                "cn-shenzhen",
                "cn-heyuan",
                "cn-guangzhou",
                "cn-chengdu",
                "cn-hongkong",
                "ap-southeast-1",
                "ap-southeast-5",
            ),
        ),
        source=_BUILD,
        note="from inside the virtual network; from outside, use sgx-dcap-server without -vpc",
    ),
    quote_provider=Fact(value="libsgx-dcap-default-qpl", source=_BUILD),
    devices=Fact(value=(ENCLAVE_DEVICE, PROVISION_DEVICE), source=_BUILD),
    kubernetes=KubernetesFacts(
        device_plugin=Fact(
            value="ACK's sgx-device-plugin, installed by default; it schedules by EPC but does not limit it",
            source=_PLUGIN,
        ),
        epc_resource=Fact(
            value="alibabacloud.com/sgx_epc_MiB",
            source=Citation("https://www.alibabacloud.com/help/zh/doc-detail/177706.htm"),
        ),
        epc_unit=2**20,
        device_resources=Fact(
            value=(),
            source=Citation("https://github.com/AliyunContainerService/sgx-device-plugin"),
            note="the EPC resource alone provides the device nodes",
        ),
        shared_storage_class=Fact(
            value=None,
            source=Citation("https://www.alibabacloud.com/help/en/doc-detail/264679.htm"),
            note="use your own NAS class (CNFS): the class is created per cluster",
        ),
        internal_load_balancer=Fact(
            value=(("service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type", "intranet"),),
            source=_ANNOTATIONS,
        ),
        proxy_protocol=Fact(
            value=(("service.beta.kubernetes.io/alibaba-cloud-loadbalancer-proxy-protocol", "on"),),
            source=_ANNOTATIONS,
            note="from version 2.6.0 of the cloud controller manager; changing it interrupts the service",
        ),
    ),
)
