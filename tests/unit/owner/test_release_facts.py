"""The settings that need a new release: settings that building, specifying or registering a release reads."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from tests.harness.workspaces import Site, make_site

from sealserve.deployment import Deployment
from sealserve.deployment.section import Section, fields_of, section_of
from sealserve.owner import enclaves, models, provisioning
from sealserve.owner.drift import facts_now
from sealserve.owner.owner import Owner
from sealserve.owner.release_facts import (
    MODEL_SETTINGS,
    OPTIMIZATION_SETTINGS,
    PREPARATION_SETTINGS,
    RELEASE_SETTINGS,
    SIGNER_SETTINGS,
    default_of,
)
from sealserve.sealing.release import verify_release

APPLIED_DIRECTLY: Final[Mapping[str, str]] = {
    "service": "client_name port rest_port listen tls_key_file tls_root_file",
    "broker": "name reached_at listen drain_minutes collateral_url collateral_ca_file collateral_update metrics_port "
    "admin_port admin_listen instance processes log_format certificate_hours",
    "database": "url password_file ca_file dangerous_unverified_server",
    "broker.limits": "keys_per_platform results_per_platform period_minutes",
    "broker.notifications": "url secret_file events ca_file",
    "keystore": "kind passphrase_file transit_url transit_mount transit_key transit_token_file transit_ca_file "
    "transit_namespace pkcs11_module pkcs11_token pkcs11_serial pkcs11_key pkcs11_pin_file pkcs11_files",
    "target": "kind replicas cloud",
    "images": "prefix tag",
    "docker": "subnet",
    "kubernetes": "namespace start_seconds ip_families run_as_user grpc_readiness",
    "kubernetes.store": "source folder addresses storage_class storage_size",
    "kubernetes.resources": "cpu memory epc epc_resource enclave_resource",
    "kubernetes.scheduling": "node_selector tolerations",
    "kubernetes.autoscaler": "max_replicas cpu_percent latency_metric latency_target",
    "kubernetes.images": "pull_policy pull_secret inventory",
    "kubernetes.ingress": "kind replicas gateway tls_route_version controller_namespace",
    "kubernetes.service": "type node_port rest_node_port annotations internal proxy_protocol",
    "kubernetes.dns": "namespace labels port addresses",
    "kubernetes.broker": "naming ip external_name dangerous_inside database_addresses keystore_addresses",
    "kubernetes.monitoring": "enabled namespace scrape_secret",
}
"""The settings that need no new release, by section. A new key belongs here, or in RELEASE_SETTINGS, or is a fault."""

NOT_SEALED: Final = {"target.kind"}
"""Settings that a specification reads, but that do not need a new release: each target has its own enclaves."""

STATED: Final = {"broker.name"}
"""Settings in the release's statement to users. Each registration signs the statement again if they changed."""

MODEL_IDENTITY: Final = {"name", "version", "path"}
"""The settings of a model that count by other means: its key, and the digest of its source."""


OF_MODELS = MODEL_SETTINGS | SIGNER_SETTINGS | PREPARATION_SETTINGS | OPTIMIZATION_SETTINGS | MODEL_IDENTITY
Reads = Callable[[Deployment], set[str]]


def keys_of(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in fields_of(section).items():
        inner = section_of(field)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from keys_of(inner, f"{prefix}{name}.")


def test_each_key_of_a_deployment_is_classified_once() -> None:
    direct = {f"{section}.{name}" for section, names in APPLIED_DIRECTLY.items() for name in names.split()}
    of_models = {f"model.{name}" for name in OF_MODELS}
    classified = [*direct, *RELEASE_SETTINGS, *of_models]
    assert sorted(classified) == sorted(keys_of(Deployment))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Returns the keys of a deployment that are read from then on."""

    def watch(deployment: Deployment) -> set[str]:
        places = {id(section): place for section, place in _sections(deployment, "")}
        seen: set[str] = set()
        get = Section.__getattribute__

        def recording(section: Section, name: str) -> Any:
            place = places.get(id(section))
            field = None if place is None else type(section).model_fields.get(name)
            if field is not None and section_of(field) is None:
                seen.add(f"{place}{field.alias or name}")
            return get(section, name)

        monkeypatch.setattr(Section, "__getattribute__", recording)
        return seen

    return watch


def _sections(section: Section, place: str) -> Iterator[tuple[Section, str]]:
    yield section, place
    for name, field in type(section).model_fields.items():
        if section_of(field) is not None:
            found = getattr(section, name)
            for inner in found if isinstance(found, tuple) else (found,):
                yield from _sections(inner, f"{place}{field.alias or name}.")


def test_what_is_sealed_measured_or_appraised_needs_a_new_release(tmp_path: Path, reads: Reads) -> None:
    batching = tmp_path / "batching.config"
    batching.write_text("max_batch_size { value: 8 }")
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    files = {"batching_parameters_file": str(batching), "monitoring_config_file": str(monitoring)}
    site = make_site(tmp_path / "site", server={**files, "dangerous_shared_batches": True}, target={"kind": "docker"})
    site.import_model()
    site.certify()
    read = reads(site.deployment)
    release = site.build_release().folder
    verified = verify_release(release, Owner.open(site.workspace).public_key())
    site.build_enclave(release)
    provisioning.register(site.workspace, site.deployment, verified, now=site.now)
    enclaves.explain_size(site.deployment, verified, None)
    of_models = {f"model.{name}" for name in OF_MODELS}
    assert read - RELEASE_SETTINGS - of_models == NOT_SEALED | STATED
    assert read >= RELEASE_SETTINGS


def test_the_settings_of_a_conversion_need_a_new_release(tmp_path: Path, reads: Reads) -> None:
    site = make_site(tmp_path / "site")
    read = reads(site.deployment)
    models.bring_in(site.workspace, site.deployment.model)
    assert read <= {f"model.{name}" for name in OF_MODELS}


def test_no_secret_and_no_place_of_one_is_a_fact(site: Site) -> None:
    assert not any(key.startswith("keystore.") for key in RELEASE_SETTINGS)
    facts = facts_now(site.workspace, site.deployment)
    assert str(site.directory) not in str(facts)


def test_a_setting_that_an_older_release_does_not_have_had_its_default() -> None:
    assert default_of("server.threads") == "1"
    assert default_of("service.tls") == '"two-way"'
    assert default_of("platform") == '"simulated"'
    assert default_of("server.no-such-key") is None
    assert default_of("no-such-section.key") is None
    # Versions without attested serving always sealed a TLS key of the owner.
    assert default_of("server.dangerous_owner_tls_key") == "true"
    assert default_of("model[flowers:1].labels") is None
