from datetime import date
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve import deployment
from sealserve.clouds.catalog import PRESETS, deployment_settings, preset_of, quote_provider_settings
from sealserve.clouds.codes import CloudsCode
from sealserve.clouds.facts import AttestationService, Basis, Citation, Fact, Preset
from sealserve.doctor.host_checks import MINIMUM_KERNEL, version_of
from sealserve.host import qcnl
from sealserve.terms import Cloud, PlatformKind

PRESET = pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))


def facts(value: object) -> list[Fact[Any]]:
    """Return every fact in a preset."""
    if isinstance(value, Fact):
        return [value]
    if isinstance(value, tuple):
        return [fact for item in value for fact in facts(item)]
    names = getattr(type(value), "__dataclass_fields__", {})
    return [fact for name in names for fact in facts(getattr(value, name))]


def test_every_cloud_has_a_preset() -> None:
    assert set(PRESETS) == set(Cloud)
    assert all(preset_of(cloud).cloud is cloud for cloud in Cloud)


@PRESET
def test_each_fact_has_a_source_or_says_that_it_has_none(preset: Preset) -> None:
    found = facts(preset)
    assert len(found) >= 12
    for fact in found:
        if fact.source is None:
            assert fact.basis is Basis.UNVERIFIED
        else:
            assert fact.source.url.startswith("https://")
            assert fact.source.dated is None or date(2021, 1, 1) <= fact.source.dated <= date(2026, 11, 25)


@PRESET
def test_images_are_supported_when_their_kernel_is_and_gramine_has_packages_for_them(preset: Preset) -> None:
    for image in (fact.value for fact in preset.images):
        version = version_of(image.kernel)
        assert version is not None
        if image.supported:
            assert version >= MINIMUM_KERNEL
    assert any(fact.value.supported for fact in preset.images)
    assert any(not fact.value.supported for fact in preset.images)
    assert all(fact.note for fact in preset.images if not fact.value.supported)


@PRESET
def test_sizes(preset: Preset) -> None:
    sizes = {size.name: size for size in preset.sizes.value}
    assert preset.suggested in sizes
    for size in sizes.values():
        assert size.epc_gib is None or 0 < size.epc_gib < size.memory_gib


@PRESET
def test_the_file_for_aesmd_can_be_parsed(preset: Preset) -> None:
    service = preset.pccs.value
    for region in service.regions or (None,):
        parsed = qcnl.parse(quote_provider_settings(preset, region))
        assert parsed.use_secure_cert
        assert "{" not in parsed.pccs_url
        assert parsed.pccs_url.endswith("/")


def test_a_region_is_checked() -> None:
    service = AttestationService(url="https://{region}.example.com/", regions=("a", "b"))
    assert service.address("b") == "https://b.example.com/"
    with raises(CloudsCode.CLOUD_REGION) as caught:
        service.address("c")
    assert caught.value.message == "The cloud has no attestation service in region 'c'."
    assert caught.value.hint == "Set --region to one of a, b."
    with raises(CloudsCode.CLOUD_REGION) as caught:
        service.address(None)
    assert caught.value.message == "The cloud's attestation service depends on the region: expected --region, got none."
    assert caught.value.code == "cloud.region"


@PRESET
def test_the_deployment_that_a_preset_describes(preset: Preset) -> None:
    text = deployment.write_example({**deployment_settings(preset), "model": {"name": "m", "path": "m.pb"}})
    described = deployment.parse(text)
    assert described.platform is PlatformKind.SGX
    assert described.target.cloud is preset.cloud
    assert described.tcb.preset == "cloud-smt"
    assert described.kubernetes.resources.epc_resource == preset.kubernetes.epc_resource.value
    assert described.kubernetes.store.storage_class == (preset.kubernetes.shared_storage_class.value or "")


def test_a_fact_without_a_source_must_be_unverified() -> None:
    with pytest.raises(ValueError, match="must not have a source"):
        Fact(value=1, basis=Basis.UNVERIFIED, source=Citation("https://example.com"))
    with pytest.raises(ValueError, match="must have a source"):
        Fact(value=1)
