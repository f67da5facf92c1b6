import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.deployment.sections.server import TracesTable
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.index import BuiltEnclave, EnclaveIndexMissingError, verify_enclave_index
from sealserve.enclave.inventory import GramineFiles, Inventory, MeasuredFile, measure
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.measurement import enclave_names, load_enclave, port_of, rest_port_of
from sealserve.enclave.signing import resign
from sealserve.owner import enclaves
from sealserve.owner.codes import OwnerCode
from sealserve.owner.drift import facts_now
from sealserve.owner.owner import Owner
from sealserve.owner.release_facts import as_released
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.codes import PkiCode
from sealserve.sealing.release import verify_release
from sealserve.sealing.release_files import ReleaseFileChangedError
from sealserve.serving_interface import OPTIMIZATION_FILE
from sealserve.sgx.signing_key import create_signing_key
from sealserve.terms import RuntimeKind, ServerKind, TlsMode


def test_the_servers_arguments_are_those_of_the_deployment(tmp_path: Path) -> None:
    site = make_site(tmp_path, server={"threads": 3, "max_connection_age_seconds": 7}, broker={"port": 4455})
    site.import_model()
    site.certify()
    release = site.build_release()
    spec = enclaves.specify(site.workspace, site.deployment, release.folder, name="replica-7", port=8517)
    assert spec.name == "replica-7"
    assert spec.release_id == release.id
    assert spec.broker == ("127.0.0.1", 4455)
    assert spec.threads == 3
    assert spec.simulated
    assert {
        "--port=8517",
        "--rest_api_port=0",
        "--model_config_file=/release/config/models.config",
        "--file_list=/release/files.json",
        "--ssl_config_file=/release/tls/clients.cfg",
        "--tensorflow_intra_op_parallelism=3",
        (
            "--grpc_channel_arguments=grpc.max_connection_age_ms=7000,"
            "grpc.http2.min_ping_interval_without_data_ms=5000,grpc.keepalive_permit_without_calls=1"
        ),
    } <= set(spec.argv)
    text = enclaves.specified_manifest(site.workspace, spec).to_bytes().decode()
    assert release.id in text
    assert "--port=8517" in text


def test_the_servers_configuration_files_are_named_where_the_release_has_them(tmp_path: Path) -> None:
    (tmp_path / "batching.config").write_text("max_batch_size { value: 8 }")
    (tmp_path / "monitoring.config").write_text("")
    site = make_site(
        tmp_path / "site",
        model={"labels": ("stable",)},
        server={
            "batching_parameters_file": tmp_path / "batching.config",
            "monitoring_config_file": tmp_path / "monitoring.config",
            "dangerous_shared_batches": True,
        },
    )
    site.import_model()
    site.certify()
    spec = enclaves.specify(site.workspace, site.deployment, site.build_release().folder, name="replica-0", port=8510)
    assert {
        "--model_config_file=/release/config/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        "--batching_parameters_file=/release/config/batching.config",
        "--dangerous_shared_batches=true",
        "--monitoring_config_file=/release/config/monitoring.config",
        "--monitoring_port=9510",
        "--tensorflow_session_config_file=/release/config/session.config",
    } <= set(spec.argv)


def test_soft_placement_can_be_turned_off(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", server={"soft_placement": False})
    site.import_model()
    site.certify()
    spec = enclaves.specify(site.workspace, site.deployment, site.build_release().folder, name="replica-0", port=8510)
    assert not [flag for flag in spec.argv if "session_config" in flag]


def test_the_page_of_metrics_has_a_port_that_follows_from_grpcs() -> None:
    assert [enclaves.monitoring_port(port) for port in (8500, 64535, 64536, 65535)] == [9500, 65535, 63536, 64535]


def test_a_release_of_the_other_platform_gets_no_enclave(ready: Site) -> None:
    release = ready.build_release()
    sgx = ready.deployment.model_copy(update={"runtime": RuntimeKind.SGX})
    with raises(
        OwnerCode.ENCLAVE_RELEASE_PLATFORM, match=r"for another platform: expected 'sgx' .* got 'simulated'"
    ) as caught:
        enclaves.specify(ready.workspace, sgx, release.folder, name="replica-0", port=8510)
    assert caught.value.code == "enclave.release-platform"


def test_gramine_direct_needs_gramine_in_the_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path / "site", platform="gramine-direct")
    site.import_model()
    site.certify()
    release = site.build_release()
    program = measure([sys.executable])
    without = Inventory(server=ServerKind.EMBEDDED, program=sys.executable, files=program)
    monkeypatch.setattr(enclaves, "inventory_here", lambda _: without)
    with raises(EnclaveCode.WITHOUT_GRAMINE, match="cannot run in gramine-direct: the inventory") as caught:
        enclaves.specify(site.workspace, site.deployment, release.folder, name="replica-0", port=8510)
    assert "gramine.readthedocs.io" in (caught.value.hint or "")

    folder = "/usr/lib/x86_64-linux-gnu/gramine"
    libos, libpal = (
        MeasuredFile(path=f"{folder}/{name}", size=1, sha256="a" * 64) for name in ("libsysdb.so", "sgx/libpal.so")
    )
    found = without.model_copy(update={"gramine": GramineFiles(folder=folder, libos=libos, libpal=libpal)})
    monkeypatch.setattr(enclaves, "inventory_here", lambda _: found)
    spec = enclaves.specify(site.workspace, site.deployment, release.folder, name="replica-0", port=8510)

    assert (spec.simulated, spec.attests) == (True, True)
    manifest = enclaves.specified_manifest(site.workspace, spec)
    assert manifest.loader.env["SEALSERVE_PLATFORM"] == "simulated"
    assert manifest.loader.entrypoint is not None
    assert not [name for name in manifest.loader.env if "RELAY" in name]


def test_what_sealserve_toml_says_of_the_enclave_is_in_it(tmp_path: Path) -> None:
    chosen = {"size": "8G", "edmm": True, "isv_prod_id": 9, "isv_svn": 2, "required_cpu_features": ["avx512"]}
    site = make_site(tmp_path, enclave=chosen)
    site.import_model()
    site.certify()
    release = site.build_release()
    spec = enclaves.specify(site.workspace, site.deployment, release.folder, name="replica-0", port=8510)
    assert (spec.enclave_size, spec.edmm, spec.isv_prod_id, spec.isv_svn) == (2**33, True, 9, 2)
    assert spec.required_cpu_features == ("avx512",)
    assert spec.max_threads == 1 + 5 + 4 + 64 + 4  # TensorFlow, its pool of runs, requests, the rest, Gramine


def test_an_optimized_model_needs_a_larger_enclave_of_tensorflow_serving(tmp_path: Path) -> None:
    site = make_site(tmp_path, server={"kind": "tensorflow-serving"})
    record = site.import_model() / OPTIMIZATION_FILE
    site.certify()
    needed = []
    for _ in range(2):
        verified = verify_release(site.build_release().folder, Owner.open(site.workspace).public_key())
        needed.append(enclaves.explain_size(site.deployment, verified, None).needed)
        record.parent.mkdir(exist_ok=True)
        record.write_bytes(bytes(1000))
    assert needed[1] - needed[0] > 20_000


def test_one_way_tls_is_read_from_the_release_and_not_from_sealserve_toml(tmp_path: Path) -> None:
    binary = tmp_path / "bin/tensorflow_model_server"
    binary.parent.mkdir()
    binary.write_bytes(b"binary")
    site = make_site(tmp_path / "site", service={"tls": "one-way"}, server={"kind": "tensorflow-serving"})
    site.import_model()
    site.certify()
    release = site.build_release()
    serving = Inventory(server=ServerKind.TENSORFLOW_SERVING, program=str(binary), files=measure([str(binary)]))
    two_way = site.deployment.model_copy(
        update={"service": site.deployment.service.model_copy(update={"tls": TlsMode.TWO_WAY})}
    )
    spec = enclaves.specify(site.workspace, two_way, release.folder, name="a", port=1, inventory=serving)
    with raises(EnclaveCode.MANIFEST_INSECURE, match="with one-way TLS, any client may reload models") as caught:
        enclaves.build(site.workspace, release.folder, spec, now=site.now)
    assert caught.value.code == "manifest.insecure"
    dangerous = [Danger.SERVER_FLAGS]
    assert enclaves.build(site.workspace, release.folder, spec, now=site.now, dangerous=dangerous).name == "a"


@pytest.mark.parametrize("owner_tls_key", [True, False])
def test_the_release_decides_who_creates_the_tls_key(tmp_path: Path, owner_tls_key: bool) -> None:
    site = make_site(tmp_path, server={"dangerous_owner_tls_key": owner_tls_key})
    site.import_model()
    site.certify()
    release = site.build_release().folder
    changed = site.deployment.server.model_copy(update={"dangerous_owner_tls_key": not owner_tls_key})
    later = site.deployment.model_copy(update={"server": changed})
    spec = enclaves.specify(site.workspace, later, release, name="server", port=8500)
    assert spec.attests is not owner_tls_key
    assert ("sealserve.attester" in spec.argv) is not owner_tls_key
    configured = next(argument for argument in spec.argv if argument.startswith("--ssl_config_file="))
    assert configured.endswith("/ssl.cfg" if owner_tls_key else "/clients.cfg")


def test_an_older_releases_enclave_allows_the_operations_of_that_release(tmp_path: Path) -> None:
    site = make_site(tmp_path, model={"dangerous_operations": ("Print",)})
    site.import_model()
    site.certify()
    release = site.build_release()
    facts = facts_now(site.workspace, site.deployment)
    (model,) = site.deployment.models
    later = site.deployment.model_copy(
        update={"models": (model.model_copy(update={"dangerous_operations": ("PyFunc",)}),)}
    )

    def flags(known: Mapping[str, str] | None) -> list[str]:
        deployment = as_released(later, known)
        spec = enclaves.specify(site.workspace, deployment, release.folder, name="server", port=8500)
        return [argument for argument in spec.argv if argument.startswith("--dangerous")]

    assert flags(facts) == ["--dangerous_operations=Print"]
    without = {key: value for key, value in facts.items() if not key.endswith(".dangerous_operations")}
    assert flags(without) == []  # a release of a version that did not record the setting
    assert flags(None) == ["--dangerous_operations=PyFunc"]


def test_an_older_releases_enclave_has_the_traces_of_that_release(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    (tmp_path / "ca.pem").write_bytes(
        Authority.create(AuthorityKind.SERVICE, names=["collector"], simulated=True, now=now).certificate_pem
    )
    traces = {"endpoint": "https://collector:4317", "ca_file": tmp_path / "ca.pem", "percent": 3}
    site = make_site(tmp_path / "site", server={"traces": traces})
    site.import_model()
    site.certify()
    release = site.build_release()
    facts = facts_now(site.workspace, site.deployment)
    off = site.deployment.server.model_copy(update={"traces": TracesTable()})
    later = site.deployment.model_copy(update={"server": off})

    def flags(known: Mapping[str, str] | None) -> list[str]:
        spec = enclaves.specify(site.workspace, as_released(later, known), release.folder, name="server", port=8500)
        return sorted(argument for argument in spec.argv if "traces" in argument)

    assert flags(facts) == [
        "--traces_ca_file=/release/config/traces-ca.pem", "--traces_endpoint=https://collector:4317",
        "--traces_per_second=100", "--traces_percent=3",
    ]  # fmt: skip
    assert flags(None) == []


def test_the_ca_of_the_trace_collector_is_checked(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    traces = {"endpoint": "https://collector:4317", "ca_file": tmp_path / "ca.pem"}
    site = make_site(tmp_path / "site", server={"traces": traces})
    site.import_model()
    site.certify()
    with raises(PkiCode.CERTIFICATE_UNREADABLE, match="server.traces.ca_file"):
        site.build_release()


def test_a_changed_release_gets_no_enclave(ready: Site) -> None:
    release = ready.build_release()
    sealed = release.folder / "models/half-plus-two/1/saved_model.pb"
    sealed.write_bytes(bytes(len(sealed.read_bytes())))
    with pytest.raises(ReleaseFileChangedError) as caught:
        ready.build_enclave(release.folder)
    assert caught.value.code == "release.file-changed"
    assert enclave_names(release.folder) == []


def test_the_manifest_shown_is_the_one_that_is_signed(ready: Site) -> None:
    release = ready.build_release()
    spec = enclaves.specify(ready.workspace, ready.deployment, release.folder, name="replica-0", port=8510)
    first = enclaves.build(ready.workspace, release.folder, spec, now=ready.now)
    assert first.manifest.read_bytes() == enclaves.specified_manifest(ready.workspace, spec).to_bytes()
    again = enclaves.build(ready.workspace, release.folder, spec, now=ready.now)
    assert again.mr_enclave == first.mr_enclave
    assert port_of(load_enclave(release.folder, "replica-0").manifest) == 8510


def test_enclaves_are_named_in_order(ready: Site) -> None:
    release = ready.build_release()
    for index in (1, 0):
        ready.build_enclave(release.folder, name=f"replica-{index}", port=8510 + index)
    assert enclave_names(release.folder) == ["replica-0", "replica-1"]
    owner_key = Owner.open(ready.workspace).index_signer().public_key()
    found = enclaves.verified_sigstructs(release.folder, release.id, owner_key)
    assert found.keys() == {"replica-0", "replica-1"}
    assert found["replica-0"].mr_enclave != found["replica-1"].mr_enclave
    assert found["replica-0"].mr_signer == found["replica-1"].mr_signer


def test_what_is_allowed_is_what_was_verified(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = ready.build_release()
    ready.build_enclave(release.folder)
    before = load_enclave(release.folder, "replica-0").sigstruct
    stranger = create_signing_key(ready.directory / "stranger.pem")

    def verify_and_swap(folder: Path, owner_key: Ed25519PublicKey, **_: object) -> tuple[BuiltEnclave, ...]:
        verified = verify_enclave_index(folder, owner_key)
        resign(folder, "replica-0", signing_key=stranger, signed_on=ready.now.date())
        return verified

    monkeypatch.setattr(enclaves, "verify_enclave_index", verify_and_swap)
    owner_key = Owner.open(ready.workspace).index_signer().public_key()
    (found,) = enclaves.verified_sigstructs(release.folder, release.id, owner_key).values()
    assert found == before != load_enclave(release.folder, "replica-0").sigstruct


def test_enclaves_of_another_release_are_not_its_own(ready: Site) -> None:
    first, second = ready.build_release(), ready.build_release()
    ready.build_enclave(first.folder)
    owner_key = Owner.open(ready.workspace).index_signer().public_key()
    with pytest.raises(EnclaveIndexMissingError) as missing:
        enclaves.verified_sigstructs(second.folder, second.id, owner_key)
    assert missing.value.code == "enclave-index.missing"
    (first.folder / "enclave").rename(second.folder / "enclave")
    with raises(
        EnclaveCode.ENCLAVE_INDEX_RELEASE, match=r"holds enclaves for a different release: expected .*, got "
    ) as caught:
        enclaves.verified_sigstructs(second.folder, second.id, owner_key)
    assert caught.value.code == "enclave-index.release"


def test_a_manifest_without_a_port_is_an_error_with_a_code(ready: Site) -> None:
    release = ready.build_release()
    ready.build_enclave(release.folder)
    manifest = load_enclave(release.folder, "replica-0").manifest
    assert port_of(manifest) == 8510
    kept = [argument for argument in manifest.loader.argv if not argument.startswith("--port")]
    for arguments in ((), ("--port", "8510"), ("--port=x",), ("--port=",)):
        loader = manifest.loader.model_copy(update={"argv": [*kept, *arguments]})
        with raises(EnclaveCode.PORT, match="--port=NUMBER") as caught:
            port_of(manifest.model_copy(update={"loader": loader}))
        assert caught.value.code == "enclave.port"


def test_the_port_of_rest_is_read_from_the_manifest(ready: Site) -> None:
    release = ready.build_release()
    ready.build_enclave(release.folder)
    manifest = load_enclave(release.folder, "replica-0").manifest
    others = [argument for argument in manifest.loader.argv if not argument.startswith("--rest_api_port")]

    def with_arguments(*arguments: str) -> EnclaveManifest:
        loader = manifest.loader.model_copy(update={"argv": [*others, *arguments]})
        return manifest.model_copy(update={"loader": loader})

    assert rest_port_of(manifest) is None
    for arguments, expected in (((), None), (("--rest_api_port=8501",), 8501),
                                (("--rest_api_port=8501", "--rest_api_port=0"), None)):  # fmt: skip
        assert rest_port_of(with_arguments(*arguments)) == expected
    for text in ("--rest_api_port=x", "--rest_api_port="):
        with raises(EnclaveCode.PORT, match="is not a port: expected a number"):
            rest_port_of(with_arguments(text))


def test_what_was_removed_is_removed_where_it_was_shipped(ready: Site) -> None:
    release = ready.build_release()
    ready.build_enclave(release.folder)
    shipped = ready.workspace.host.releases / release.folder.name
    shipped.mkdir(parents=True)
    enclaves.ship(release.folder, shipped)
    enclaves.remove(ready.workspace, release.folder, name="replica-0")
    enclaves.ship(release.folder, shipped)
    assert not (shipped / "enclave").exists()


def test_what_was_built_since_replaces_what_was_shipped(ready: Site) -> None:
    release = ready.build_release()
    ready.build_enclave(release.folder)
    shipped = ready.workspace.host.releases / release.folder.name
    (shipped / "enclave").mkdir(parents=True)
    (shipped / "enclave" / "old").touch()
    (shipped / ".enclave.0123456789ab.partial").mkdir()  # left by a process that was killed
    enclaves.ship(release.folder, shipped)
    names = {path.name for path in (release.folder / "enclave").iterdir()}
    assert {path.name for path in (shipped / "enclave").iterdir()} == names
    assert [path.name for path in shipped.iterdir()] == ["enclave"]


def test_the_signing_key_is_made_on_first_use(site: Site) -> None:
    site.import_model()
    site.certify()
    release = site.build_release()
    site.build_enclave(release.folder)
    assert site.workspace.owner.enclave_signing_key.stat().st_mode & 0o077 == 0
