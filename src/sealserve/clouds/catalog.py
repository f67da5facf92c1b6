"""The presets by name."""

from typing import Any, Final

from sealserve.clouds import alibaba, azure, tencent
from sealserve.clouds.facts import Preset
from sealserve.host import qcnl
from sealserve.terms import EVERY_ADDRESS, Cloud, PlatformKind

PRESETS: Final = {preset.cloud: preset for preset in (alibaba.PRESET, tencent.PRESET, azure.PRESET)}


def preset_of(cloud: Cloud) -> Preset:
    """Return what is known of a cloud."""
    return PRESETS[cloud]


def quote_provider_settings(preset: Preset, region: str | None) -> str:
    """Return ``/etc/sgx_default_qcnl.conf`` for machines of a cloud.

    Raises:
        InputError: `cloud.region`: No such region, or none named where one is needed.
    """
    service = preset.pccs.value
    source = preset.pccs.source.url if preset.pccs.source else ""
    settings = {"pccs_url": service.address(region), "use_secure_cert": True, **dict(service.settings)}
    return qcnl.render(settings, comment=f"{preset.title}\n{source}")


def epc_unit(cloud: Cloud | None, resource: str) -> int:
    """Return how many bytes one unit of an EPC resource is: 1, unless the cloud's own plugin counts otherwise."""
    if cloud is None:
        return 1
    known = preset_of(cloud).kubernetes
    return known.epc_unit if resource == known.epc_resource.value else 1


def deployment_settings(preset: Preset) -> dict[str, Any]:
    """Return what ``sealserve.toml`` says for a cloud, by section: for `sealserve.deployment.write_example`."""
    kubernetes = preset.kubernetes
    return {
        "platform": PlatformKind.SGX.value,
        "service": {"listen": EVERY_ADDRESS},  # the machine is there to serve others; NGINX holds no key
        "tcb": {"preset": "cloud-smt"},
        "target": {"kind": "docker", "cloud": preset.cloud.value},
        "kubernetes": {
            "resources": {
                "epc_resource": kubernetes.epc_resource.value,
                "enclave_resource": next(iter(kubernetes.device_resources.value), ""),
            },
            "store": {"storage_class": kubernetes.shared_storage_class.value or ""},
        },
    }
