"""The presets by name."""

from typing import Any, Final

from sealserve.clouds import alibaba, azure, tencent
from sealserve.clouds.facts import Preset
from sealserve.host import qcnl
from sealserve.terms import EVERY_ADDRESS, Cloud, PlatformKind

PRESETS: Final = {preset.cloud: preset for preset in (alibaba.PRESET, tencent.PRESET, azure.PRESET)}


def preset_of(cloud: Cloud) -> Preset:
    """Return the preset of a cloud."""
    return PRESETS[cloud]


def quote_provider_settings(preset: Preset, region: str | None) -> str:
    """Return the content of ``/etc/sgx_default_qcnl.conf`` for machines of a cloud.

    Raises:
        InputError: `cloud.region` if the region does not exist, or is None although the cloud requires it.
    """
    service = preset.pccs.value
    source = preset.pccs.source.url if preset.pccs.source else ""
    settings = {"pccs_url": service.address(region), "use_secure_cert": True, **dict(service.settings)}
    return qcnl.render(settings, comment=f"{preset.title}\n{source}")


def epc_unit(cloud: Cloud | None, resource: str) -> int:
    """Return the bytes of one unit of an EPC resource: 1, unless the cloud's own plugin uses a different unit."""
    if cloud is None:
        return 1
    known = preset_of(cloud).kubernetes
    return known.epc_unit if resource == known.epc_resource.value else 1


def deployment_settings(preset: Preset) -> dict[str, Any]:
    """Return the settings of ``sealserve.toml`` for a cloud, by section: for `sealserve.deployment.write_example`."""
    kubernetes = preset.kubernetes
    return {
        "platform": PlatformKind.SGX.value,
        "service": {"listen": EVERY_ADDRESS},  # users are on other machines; NGINX holds no key
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
