import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness import keys
from tests.harness.errors import raises
from tests.harness.model_server_command import COMMAND, PROGRAM

from sealserve.atomic_file import write_file
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.index import BuiltEnclave, EnclaveIndexMissingError, remove_enclave
from sealserve.enclave.inventory import measure
from sealserve.enclave.measurement import SignedEnclave, load_enclave, measure_simulated
from sealserve.enclave.signing import resign, verify_enclave_index
from sealserve.enclave.spec import EnclaveSpec, make_manifest
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.release import Release, verify_release
from sealserve.sealing.signed_index import ENCLAVE_DOMAIN, RELEASE_DOMAIN, sign_index
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.report import Attributes
from sealserve.sgx.sigstruct import Sigstruct, mr_signer

Make = Callable[..., EnclaveSpec]
Build = Callable[..., BuiltEnclave]


def test_a_built_enclave_has_genuine_files_and_reference_values(
    build: Build, make_spec: Make, release: Release, signing_key: rsa.RSAPrivateKey, index_key: Ed25519PrivateKey
) -> None:
    built = build(make_spec())

    manifest = built.manifest.read_bytes()
    assert built.manifest.name == "replica-0.manifest.sgx"
    layout = (4 * 2**30).to_bytes(8, "little") + (80).to_bytes(4, "little")
    expected = hashlib.sha256(b"sealserve simulated enclave v1\0" + layout + hashlib.sha256(manifest).digest()).digest()
    assert built.mr_enclave == measure_simulated(manifest) == expected
    sigstruct = Sigstruct.parse(built.sigstruct.read_bytes())
    assert sigstruct.verify() == built.mr_signer == mr_signer(signing_key.public_key())
    assert sigstruct.mr_enclave == built.mr_enclave
    assert (built.isv_prod_id, built.isv_svn, built.simulated) == (7, 3, True)
    assert built.attributes == Attributes(flags=4, xfrm=3)
    assert built.attribute_mask.flags == 2**64 - 1
    assert verify_enclave_index(release.folder, index_key.public_key()) == (built,)
    verify_release(release.folder, index_key.public_key())


def test_building_twice_gives_the_same_measurement(build: Build, make_spec: Make) -> None:
    first = build(make_spec())
    content = first.manifest.read_bytes()

    second = build(make_spec())

    assert second == first
    assert second.manifest.read_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": (*COMMAND, "--port=8501")},
        {"broker": ("127.0.0.1", 4434)},
        {"threads": 2},
        {"enclave_size": 2**33},
        {"isv_svn": 4},
        {"trusted_files": measure([PROGRAM, "/bin/true"])},
    ],
)
def test_whatever_is_measured_changes_the_measurement(
    build: Build, make_spec: Make, changes: dict[str, object]
) -> None:
    assert build(make_spec(**changes)).mr_enclave != build(make_spec()).mr_enclave


def test_the_index_covers_all_enclaves_of_the_release(
    build: Build, make_spec: Make, release: Release, index_key: Ed25519PrivateKey
) -> None:
    one = build(make_spec(name="replica-1"))
    zero = build(make_spec(name="replica-0", argv=(*COMMAND, "--port=8501")))

    assert verify_enclave_index(release.folder, index_key.public_key()) == (zero, one)
    index = json.loads((release.folder / "enclave/index.json").read_bytes())
    assert index["release_id"] == release.id
    assert [entry["name"] for entry in index["enclaves"]] == ["replica-0", "replica-1"]
    assert [file["path"] for file in index["files"]] == [
        "broker-ca.pem",
        "replica-0.manifest.sgx",
        "replica-0.sig",
        "replica-1.manifest.sgx",
        "replica-1.sig",
    ]


def test_an_interrupted_build_is_mended_by_the_next(
    build: Build, make_spec: Make, release: Release, index_key: Ed25519PrivateKey
) -> None:
    build(make_spec(name="replica-1"))
    write_file(release.folder / "enclave/replica-0.manifest.sgx", b"half of a build")
    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"not in the index: replica-0\.manifest\.sgx"):
        verify_enclave_index(release.folder, index_key.public_key())

    build(make_spec(name="replica-0"))

    assert len(verify_enclave_index(release.folder, index_key.public_key())) == 2


def test_an_enclave_is_removed_and_the_others_stay(
    build: Build, make_spec: Make, release: Release, index_key: Ed25519PrivateKey
) -> None:
    one = build(make_spec(name="replica-1"))
    gone = build(make_spec(name="replica-0"))
    gone.sigstruct.unlink()  # removed manually, so that verification fails
    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"missing: replica-0\.sig") as caught:
        build(make_spec(name="replica-2"))
    assert "sealserve enclave remove" in (caught.value.hint or "")

    remove_enclave(release.folder, "replica-0", index_key)

    assert verify_enclave_index(release.folder, index_key.public_key()) == (one,)
    assert not gone.manifest.exists()
    with raises(EnclaveCode.MISSING, match="does not contain the enclave 'replica-0'") as missing:
        remove_enclave(release.folder, "replica-0", index_key)
    assert missing.value.hint == "Choose an enclave of this release: replica-1."

    remove_enclave(release.folder, "replica-1", index_key)

    assert not (release.folder / "enclave").exists()
    verify_release(release.folder, index_key.public_key())
    assert build(make_spec(name="replica-1")) == one
    one.sigstruct.write_bytes(b"half of a build")
    (release.folder / "enclave/index.json").unlink()
    remove_enclave(release.folder, "replica-1", index_key)
    assert not (release.folder / "enclave").exists()


def test_a_tampered_neighbour_is_not_removed_along(
    build: Build, make_spec: Make, release: Release, index_key: Ed25519PrivateKey
) -> None:
    neighbour = build(make_spec(name="replica-1"))
    build(make_spec(name="replica-0"))
    neighbour.sigstruct.write_bytes(bytes(1808))
    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"changed: replica-1\.sig"):
        remove_enclave(release.folder, "replica-0", index_key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(b"127.0.0.1:4433", b"127.0.0.1:4434"), "SECRET_PROVISION_SERVERS"),
        (lambda text: text.replace(b'"simulated"', b'"sgx"'), "SEALSERVE_PLATFORM"),
    ],
)
def test_a_manifest_of_the_owners_is_for_this_broker_and_platform(
    build: Build, make_spec: Make, broker_ca: bytes, change: Callable[[bytes], bytes], message: str
) -> None:
    own = make_manifest(make_spec(), broker_ca_sha256=hashlib.sha256(broker_ca).hexdigest()).to_bytes()
    build(make_spec(), manifest=own)
    with raises(EnclaveCode.OTHER_MANIFEST, match=message):
        build(make_spec(), manifest=change(own))
    with raises(EnclaveCode.MANIFEST_TEMPLATE, match="is a template"):
        build(make_spec(), manifest=own + b"# {% endraw %}\n")


def test_a_manifest_of_the_owners_contains_the_tls_settings_of_the_release(
    build: Build, make_spec: Make, broker_ca: bytes
) -> None:
    """A server that attests itself would start without the settings, and accept clients without a certificate."""
    argv = tuple(part.replace(".serving", ".attester").replace("ssl.cfg", "clients.cfg") for part in COMMAND)
    spec = make_spec(attests=True, argv=argv)
    one_way = make_spec(attests=True, argv=(*argv[:4], *argv[5:]), mounts=(spec.mounts[0], spec.mounts[2]))
    own = make_manifest(one_way, broker_ca_sha256=hashlib.sha256(broker_ca).hexdigest()).to_bytes()
    build(spec)
    build(one_way, manifest=own)
    with raises(EnclaveCode.OTHER_MANIFEST, match="lacks the release's TLS settings: .* 'file:tls/'"):
        build(spec, manifest=own)


def test_a_tampered_neighbour_is_not_signed_again(build: Build, make_spec: Make) -> None:
    neighbour = build(make_spec(name="replica-1"))
    neighbour.sigstruct.write_bytes(bytes(1808))

    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"changed: replica-1\.sig"):
        build(make_spec())


def test_an_enclave_for_another_release_is_refused(build: Build, make_spec: Make) -> None:
    with raises(EnclaveCode.OTHER_RELEASE, match="is specified for a different release: .* got 000") as caught:
        build(make_spec(release_id="0" * 64))

    assert caught.value.code == "enclave.other-release"


def test_the_brokers_ca_is_one_certificate_for_all_enclaves(build: Build, make_spec: Make, broker_ca: bytes) -> None:
    other = broker_ca + b"\n"

    build(make_spec())
    with raises(EnclaveCode.BROKER_CA, match="expected a certificate in PEM form"):
        build(make_spec(), broker_ca=b"nothing")
    with raises(EnclaveCode.BROKER_CA, match="which the release's other enclaves trust") as caught:
        build(make_spec(name="replica-1"), broker_ca=other)
    assert caught.value.code == "enclave.broker-ca"
    build(make_spec(), broker_ca=other)


def test_signing_again_keeps_the_measurement(
    build: Build, make_spec: Make, release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(make_spec())
    other_key = keys.signing_key(1)

    with caplog.at_level(logging.WARNING):
        sigstruct = resign(
            release.folder, "replica-0", signing_key=other_key, signed_on=date(2026, 11, 24), dangerous_debug=True
        )

    assert "dangerous: enclave replica-0 is signed with DEBUG" in caplog.text
    assert load_enclave(release.folder, "replica-0").sigstruct == sigstruct
    assert sigstruct.mr_enclave == built.mr_enclave
    assert sigstruct.mr_signer != built.mr_signer
    assert sigstruct.attributes.debug


def test_a_loader_refuses_a_changed_manifest(build: Build, make_spec: Make, release: Release) -> None:
    built = build(make_spec())
    built.manifest.write_bytes(built.manifest.read_bytes().replace(b"--port=8500", b"--port=8501"))

    with raises(EnclaveCode.MEASUREMENT, match=f"was signed for MRENCLAVE {built.mr_enclave.hex()}") as caught:
        load_enclave(release.folder, "replica-0")

    assert caught.value.code == "enclave.measurement"


def test_a_loader_refuses_a_changed_sigstruct(build: Build, make_spec: Make, release: Release) -> None:
    built = build(make_spec())
    sigstruct = Sigstruct.parse(built.sigstruct.read_bytes())
    built.sigstruct.write_bytes(replace(sigstruct, isv_svn=9).to_bytes())

    with raises(SgxCode.SIGSTRUCT_SIGNATURE, match="is not signed by the key with MRSIGNER"):
        load_enclave(release.folder, "replica-0")


def test_a_missing_enclave_is_said_with_those_that_are_there(build: Build, make_spec: Make, release: Release) -> None:
    with raises(EnclaveCode.MISSING, match="sealserve enclave build"):
        load_enclave(release.folder, "replica-0")
    build(make_spec())
    with raises(
        EnclaveCode.MISSING, match=r"not contain the enclave 'other'.*Choose an enclave of this release: replica-0\."
    ) as caught:
        load_enclave(release.folder, "other")
    assert caught.value.code == "enclave.missing"


class TestIndex:
    @pytest.fixture(autouse=True)
    def built(self, build: Build, make_spec: Make) -> BuiltEnclave:
        return build(make_spec())

    def test_a_missing_index_is_said(self, release: Release, index_key: Ed25519PrivateKey) -> None:
        (release.folder / "enclave/index.json.sig").unlink()

        with pytest.raises(EnclaveIndexMissingError, match="does not have a signed index of enclaves") as caught:
            verify_enclave_index(release.folder, index_key.public_key())
        assert caught.value.code == "enclave-index.missing"

    def test_another_owner_is_not_believed(self, release: Release) -> None:
        with raises(SealingCode.INDEX_BAD_SIGNATURE, match="does not verify with the owner's key"):
            verify_enclave_index(release.folder, Ed25519PrivateKey.generate().public_key())

    def test_a_signature_of_another_domain_does_not_count(self, release: Release, index_key: Ed25519PrivateKey) -> None:
        content = (release.folder / "enclave/index.json").read_bytes()
        (release.folder / "enclave/index.json.sig").write_bytes(sign_index(RELEASE_DOMAIN, content, index_key))

        with raises(SealingCode.INDEX_BAD_SIGNATURE, match="does not verify with the owner's key"):
            verify_enclave_index(release.folder, index_key.public_key())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{}", "release_id: Field required"),
            (b"[", "the file: Invalid JSON"),
            (b'{"enclaves":[],"files":[],"release_id":"' + b"0" * 64 + b'","version":1}', "enclaves: Tuple should"),
        ],
    )
    def test_a_signed_index_of_another_form_is_refused(
        self, release: Release, index_key: Ed25519PrivateKey, content: bytes, message: str
    ) -> None:
        self.sign(release, index_key, content)

        with raises(EnclaveCode.ENCLAVE_INDEX_INVALID, match=message) as caught:
            verify_enclave_index(release.folder, index_key.public_key())
        assert caught.value.code == "enclave-index.invalid"

    def test_only_the_canonical_form_counts(self, release: Release, index_key: Ed25519PrivateKey) -> None:
        content = (release.folder / "enclave/index.json").read_bytes()
        self.sign(release, index_key, content + b"\n")

        with raises(EnclaveCode.ENCLAVE_INDEX_INVALID, match="not in canonical JSON form"):
            verify_enclave_index(release.folder, index_key.public_key())

    def test_the_enclaves_of_another_release_are_refused(self, release: Release, index_key: Ed25519PrivateKey) -> None:
        (release.folder / "release.json").write_bytes(b"another release")

        with raises(
            EnclaveCode.ENCLAVE_INDEX_RELEASE, match=f"holds enclaves for a different release: .* got {release.id}"
        ) as caught:
            verify_enclave_index(release.folder, index_key.public_key())
        assert caught.value.code == "enclave-index.release"

    def test_a_folder_without_a_release_is_said(self, release: Release, index_key: Ed25519PrivateKey) -> None:
        (release.folder / "release.json").unlink()

        with raises(EnclaveCode.ENCLAVE_INDEX_RELEASE, match="is not a release"):
            verify_enclave_index(release.folder, index_key.public_key())

    def test_every_difference_is_named(self, release: Release, index_key: Ed25519PrivateKey) -> None:
        folder = release.folder / "enclave"
        (folder / "replica-0.sig").write_bytes(b"changed")
        (folder / "broker-ca.pem").unlink()
        (folder / "more").write_bytes(b"")

        with raises(EnclaveCode.ENCLAVE_INDEX_FILES) as caught:
            verify_enclave_index(release.folder, index_key.public_key())
        assert caught.value.code == "enclave-index.files"
        for text in ("changed: replica-0.sig", "missing: broker-ca.pem", "not in the index: more"):
            assert text in str(caught.value)

    def test_a_file_that_changes_meanwhile_is_not_believed(
        self, release: Release, index_key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def swap_and_load(folder: Path, name: str, **_: object) -> SignedEnclave:
            resign(folder, name, signing_key=keys.signing_key(1), signed_on=date(2026, 1, 1))
            return load_enclave(folder, name)

        monkeypatch.setattr("sealserve.enclave.index.load_enclave", swap_and_load)
        with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"replica-0\.sig does not match its signed index"):
            verify_enclave_index(release.folder, index_key.public_key())

    def test_an_index_that_lies_about_a_measurement_is_refused(
        self, release: Release, index_key: Ed25519PrivateKey, built: BuiltEnclave
    ) -> None:
        content = (release.folder / "enclave/index.json").read_bytes()
        self.sign(release, index_key, content.replace(built.mr_enclave.hex().encode(), b"0" * 64))

        with raises(
            EnclaveCode.ENCLAVE_INDEX_FILES,
            match="'replica-0' does not match the signed index: expected MRENCLAVE 0000",
        ):
            verify_enclave_index(release.folder, index_key.public_key())

    def test_an_enclave_that_opens_another_release_is_refused(
        self, release: Release, index_key: Ed25519PrivateKey
    ) -> None:
        other = release.folder.with_name("other")
        shutil.copytree(release.folder, other)
        (other / "release.json").write_bytes(b"another release")
        content = (other / "enclave/index.json").read_bytes()
        self.sign(
            Release(id="", folder=other, index=release.index),
            index_key,
            content.replace(release.id.encode(), hashlib.sha256(b"another release").hexdigest().encode()),
        )

        with raises(
            EnclaveCode.ENCLAVE_INDEX_RELEASE, match=f"'replica-0' opens a different release: .* got {release.id}"
        ):
            verify_enclave_index(other, index_key.public_key())

    @staticmethod
    def sign(release: Release, key: Ed25519PrivateKey, content: bytes) -> None:
        (release.folder / "enclave/index.json").write_bytes(content)
        (release.folder / "enclave/index.json.sig").write_bytes(sign_index(ENCLAVE_DOMAIN, content, key))
