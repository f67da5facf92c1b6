import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.manifest import EncryptedMount
from sealserve.enclave.manifest_reader import parse_manifest
from sealserve.enclave.spec import EnclaveSpec, make_manifest
from sealserve.errors import VerificationError

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def text(make_spec: Callable[..., EnclaveSpec]) -> bytes:
    return make_manifest(make_spec(), broker_ca_sha256="a" * 64).to_bytes()


def edited(text: bytes, edit: Edit) -> bytes:
    data = tomllib.loads(text.decode())
    edit(data)
    return tomli_w.dumps(data).encode()


def test_a_manifest_survives_the_text(text: bytes) -> None:
    manifest = parse_manifest(text)

    assert manifest.to_bytes() == text
    assert manifest.enclave_size == 4 * 2**30
    assert manifest.private_root == "/release"
    assert [mount.source for mount in manifest.encrypted_mounts] == ["files.json", "tls", "models"]


def test_what_gramine_adds_is_accepted(text: bytes) -> None:
    def add(data: dict[str, Any]) -> None:
        data["loader"]["entrypoint"] = {"uri": "file:/usr/lib/gramine/libsysdb.so", "sha256": "0" * 64}
        data["sgx"]["cpu_features"] = {"avx": "unspecified", "mpx": "disabled", "pkru": "disabled"}
        data["sgx"]["edmm_enable"] = True

    assert parse_manifest(edited(text, add)).sgx.edmm_enable


@pytest.mark.parametrize(("size", "expected"), [("1G", 2**30), ("512M", 2**29), ("65536K", 2**26), ("4096", 4096)])
def test_sizes_have_gramines_units(text: bytes, size: str, expected: int) -> None:
    assert parse_manifest(edited(text, lambda data: data["sgx"].update(enclave_size=size))).enclave_size == expected


def test_a_path_inside_is_found_on_the_host(text: bytes) -> None:
    manifest = parse_manifest(text)

    assert manifest.host_path("/broker-ca.pem") == "enclave/broker-ca.pem"
    assert manifest.host_path(sys.executable) == sys.executable
    assert manifest.host_path(str(Path(sys.executable).parent) + "ary") is None


@pytest.mark.parametrize("raw", [b"\xff", b"[sgx", b"a = 1\na = 2\n", b"x = " + b"[" * 5000])
def test_what_is_no_toml_is_said(raw: bytes) -> None:
    with raises(EnclaveCode.MANIFEST_SYNTAX, match=r"replica-0\.manifest\.sgx is not valid TOML") as caught:
        parse_manifest(raw, name="replica-0.manifest.sgx")

    assert caught.value.code == "manifest.syntax"


@pytest.mark.parametrize(
    "setting",
    [
        "libos",
        "libos.entrypoint",
        "loader.argv",
        "loader.env",
        "loader.env.SECRET_PROVISION_SERVERS",
        "loader.env.SECRET_PROVISION_CA_CHAIN_PATH",
        "loader.env.SECRET_PROVISION_SET_KEY",
        "loader.env.SECRET_PROVISION_CONSTRUCTOR",
        "loader.env.SEALSERVE_RELEASE_ID",
        "loader.env.SEALSERVE_PLATFORM",
        "loader.env.LD_PRELOAD",
        "fs.mounts",
        "sys.enable_sigterm_injection",
        "sys.enable_extra_runtime_domain_names_conf",
        "sgx.debug",
        "sgx.remote_attestation",
        "sgx.enclave_size",
        "sgx.max_threads",
        "sgx.isvprodid",
        "sgx.isvsvn",
        "sgx.trusted_files",
    ],
)
def test_a_missing_setting_is_named(text: bytes, setting: str) -> None:
    def remove(data: dict[str, Any]) -> None:
        *tables, last = setting.split(".")
        for table in tables:
            data = data[table]
        del data[last]

    with pytest.raises(VerificationError, match=f"the setting {setting} is missing") as caught:
        parse_manifest(edited(text, remove))

    # Without mounts, the server's files count as not sealed too.
    assert caught.value.code == ("manifest.insecure" if setting == "fs.mounts" else "manifest.missing-setting")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sys.allowed_ioctls", []),
        ("sgx.preheat_enclave", True),
        ("sgx.seal_key", {"flags_mask": "0x0"}),
        ("fs.start_dir", "/"),
        ("unheard_of", 1),
    ],
)
def test_a_setting_that_is_not_known_to_be_harmless_is_refused(text: bytes, setting: str, value: object) -> None:
    def add(data: dict[str, Any]) -> None:
        *tables, last = setting.split(".")
        for table in tables:
            data = data[table]
        data[last] = value

    with raises(EnclaveCode.MANIFEST_UNKNOWN_SETTING, match=f"the setting {setting} is not accepted") as e:
        parse_manifest(edited(text, add))

    assert e.value.code == "manifest.unknown-setting"


INSECURE: list[tuple[Edit, Danger]] = [
    (lambda m: m["sgx"].update(debug=True), Danger.DEBUG),
    (lambda m: m["sgx"].update(enable_stats=True), Danger.DEBUG),
    (lambda m: m["sgx"].update(profile={"enable": "main", "mode": "aex"}), Danger.DEBUG),
    (lambda m: m["loader"].update(log_level="debug"), Danger.LOG),
    (lambda m: m["loader"].update(insecure__use_host_env=True), Danger.HOST_INPUT),
    (lambda m: m["loader"]["env"].update(PATH={"passthrough": True}), Danger.HOST_INPUT),
    (lambda m: m["fs"].pop("root"), Danger.HOST_FILES),
    (lambda m: m["fs"].update(root={"uri": "file:/"}), Danger.HOST_FILES),
    (lambda m: m["fs"]["mounts"].append({"type": "chroot", "path": "/", "uri": "file:/"}), Danger.HOST_FILES),
    (lambda m: m["sgx"].update(allowed_files=["file:/a", "file:/b"]), Danger.HOST_FILES),
    (
        lambda m: m["fs"]["mounts"].insert(0, {"type": "untrusted_shm", "path": "/s", "uri": "dev:x"}),
        Danger.HOST_DEVICES,
    ),
    (lambda m: m["sys"].update(allowed_ioctls=[{"request_code": 1}], ioctl_structs={"a": []}), Danger.HOST_DEVICES),
    (lambda m: m["fs"].update(insecure__keys={"release": "0" * 32}), Danger.MANIFEST_KEYS),
    (lambda m: m["sys"].update(insecure__allow_eventfd=True), Danger.INSECURE_SETTINGS),
]


@pytest.mark.parametrize(("edit", "danger"), INSECURE)
def test_what_is_insecure_is_refused_unless_its_class_is_allowed(text: bytes, edit: Edit, danger: Danger) -> None:
    insecure = edited(text, edit)
    with raises(EnclaveCode.MANIFEST_INSECURE, match=rf"line \d+: .*--dangerous-{danger}") as caught:
        parse_manifest(insecure, dangerous=[other for other in Danger if other is not danger])
    assert caught.value.code == "manifest.insecure"
    assert parse_manifest(insecure, dangerous=[danger]) == parse_manifest(text), "it is not in what is returned"


def _start(manifest: dict[str, Any], program: str) -> None:
    manifest["libos"]["entrypoint"] = manifest["loader"]["argv"][0] = program


BAD_VALUES: list[tuple[Edit, str]] = [
    (lambda m: m["sgx"].update(remote_attestation="none"), "sgx.remote_attestation"),
    (lambda m: m["sgx"].update(enclave_size="1T"), "sgx.enclave_size"),
    (lambda m: m["sgx"].update(max_threads=3), "sgx.max_threads"),
    (lambda m: m["sgx"].update(isvprodid=65536), "sgx.isvprodid"),
    (lambda m: m["sgx"].update(isvsvn=True), "sgx.isvsvn"),
    (lambda m: m["sgx"]["trusted_files"].append("file:/bin/sh"), "sgx.trusted_files.2"),
    (lambda m: m["sgx"]["trusted_files"][0].update(sha256="A" * 64), "sgx.trusted_files.0.sha256"),
    (lambda m: m["sgx"]["trusted_files"].append(m["sgx"]["trusted_files"][0]), "lists a file twice"),
    (lambda m: m["sys"].update(enable_sigterm_injection=False), "sys.enable_sigterm_injection"),
    (lambda m: m["loader"].update(argv=[]), "loader.argv"),
    (lambda m: m["fs"]["mounts"].append({"path": "/etc", "uri": "file:/etc"}), "fs.mounts"),
    (lambda m: m["fs"]["mounts"].append({"type": "tmpfs", "path": "x"}), "'x' must be an absolute"),
    (lambda m: m["fs"]["mounts"].append({"type": "tmpfs", "path": "/x"}), "'/x' must be below '/release'"),
    (lambda m: m["fs"]["mounts"].append(m["fs"]["mounts"][0]), "the same path"),
    (lambda m: m["fs"]["mounts"][-2].update(uri="file:/models/"), "must be in the release's folder"),
    (lambda m: m["fs"]["mounts"][-2].update(uri="file:a/../../models/"), "must be in the release's folder"),
    (lambda m: m["fs"]["mounts"][-2].update(uri="file:./"), "must be in the release's folder"),
    (
        lambda m: m["fs"]["mounts"][-2].update(key_name="default"),
        "'default' of 'file:models/' is not SECRET_PROVISION_SET_KEY's",
    ),
    (lambda m: _start(m, "bin/python"), "'bin/python' must be an absolute"),
    (lambda m: _start(m, "/etc/python3"), "libos.entrypoint '/etc/python3' must be one of sgx.trusted_files"),
]


@pytest.mark.parametrize(("edit", "message"), BAD_VALUES, ids=[message for _, message in BAD_VALUES])
def test_a_bad_value_is_named(text: bytes, edit: Edit, message: str) -> None:
    with raises(EnclaveCode.MANIFEST_INVALID_SETTING) as caught:
        parse_manifest(edited(text, edit))

    assert caught.value.code == "manifest.invalid-setting"
    assert message in str(caught.value)


def test_a_mounts_source_is_normalised_as_gramine_does() -> None:
    assert EncryptedMount(path="/release/m", uri="file:./models//").source == "models"
    assert EncryptedMount(path="/release/m", uri="file:models/").is_folder
    assert not EncryptedMount(path="/release/f", uri="file:files.json").is_folder
