"""Signatures of OpenSSF Model Signing: who is accepted, and hostile signatures, models, keys and certificates."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.harness.errors import raises
from tests.harness.model_signatures import Authority, KeySigner
from tests.harness.tiny_model import frozen_graph, saved_model
from tests.harness.workspaces import NAME, Site, make_site

from sealserve.attested.release_statement import ModelSigner
from sealserve.broker import admin
from sealserve.deployment import ModelSection
from sealserve.model.codes import ModelCode
from sealserve.owner import model_signature, models, releases
from sealserve.owner.codes import OwnerCode
from sealserve.owner.drift import drift_of
from sealserve.owner.owner import Owner
from sealserve.sealing import codec
from sealserve.sealing import release as release_module
from sealserve.sealing.codec import DigestedFile
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.model_signature import MAX_SIGNATURE, SignedModel
from sealserve.sealing.release import Release
from sealserve.sealing.release_index import parse_index
from sealserve.terms import Precision

pytest.importorskip("model_signing", reason="model-signing is missing: `make setup` installs it")

FILE = "saved_model.pb"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the folder of a SavedModel."""
    return saved_model(tmp_path / "model")


@pytest.fixture
def signature(tmp_path: Path) -> Path:
    """Return a place for a signature that is not found without a setting."""
    (tmp_path / "signed").mkdir()
    return tmp_path / "signed" / "model.json"


@pytest.fixture
def signer(tmp_path: Path) -> KeySigner:
    return KeySigner.create(tmp_path)


def verify(
    model: Path, *, now: datetime | None = None, warn: Callable[[str], None] | None = None, **settings: Any
) -> SignedModel | None:
    section = ModelSection(name="m", path=model, **settings)
    return model_signature.verify_model(section, model, now=now or datetime.now(UTC), warn=warn)


def test_the_signer_is_the_digest_of_the_key(model: Path, signature: Path, signer: KeySigner) -> None:
    signer.sign(model, signature)
    der = signer.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert verify(model, signature=signature, signer_key=signer.public) == SignedModel(
        signer=ModelSigner(method="key", identity=hashlib.sha256(der).hexdigest(), issuer=None),
        files={FILE: hashlib.sha256((model / FILE).read_bytes()).hexdigest()},
    )


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=["P-384", "P-521"])
def test_larger_curves_are_supported(model: Path, signature: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    signer = KeySigner.create(tmp_path, curve=curve)
    signer.sign(model, signature)
    assert verify(model, signature=signature, signer_key=signer.public) is not None


def test_the_signer_is_the_subject_of_the_certificate(model: Path, signature: Path, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    authority.sign(model, signature)
    found = verify(model, signature=signature, signer_ca=authority.file, signer_identity="CN=alice")
    assert found is not None
    assert found.signer == ModelSigner(method="certificate", identity="CN=alice", issuer="CN=Model Signers")


@pytest.mark.parametrize("inside", [True, False], ids=["in the folder", "beside the folder"])
def test_the_default_is_model_sig(model: Path, tmp_path: Path, signer: KeySigner, *, inside: bool) -> None:
    folder = saved_model(tmp_path / "copy")
    signer.sign(model, (model if inside else tmp_path) / "model.sig")
    section = ModelSection(name="m", path=model, signer_key=signer.public)
    assert model_signature.verify_model(section, folder, now=datetime.now(UTC)) is not None


def test_a_signature_without_a_trusted_signer_is_reported(model: Path, tmp_path: Path) -> None:
    told: list[str] = []
    assert verify(model, warn=told.append) is None
    assert told == []
    (tmp_path / "model.sig").write_text("of nobody")
    assert verify(model, warn=told.append) is None
    assert verify(model) is None
    (sentence,) = told
    assert f"the signature {tmp_path / 'model.sig'} is not verified" in sentence
    assert "signer_key" in sentence


def test_a_model_of_a_trusted_signer_needs_a_signature(model: Path, tmp_path: Path, signer: KeySigner) -> None:
    with raises(OwnerCode.MODEL_SIGNATURE_MISSING, match=r"expected model\.sig in or beside"):
        verify(model, signer_key=signer.public)
    with raises(OwnerCode.MODEL_SIGNATURE_MISSING, match=r"expected .*/no-such-file\."):
        verify(model, signer_key=signer.public, signature=tmp_path / "no-such-file")


# Other files than the signed files.


def add(model: Path, name: str) -> None:
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text("*")


@pytest.mark.parametrize(
    "name", ["assets/extra.txt", ".gitignore", ".gitattributes", ".git/config", ".github/a.yml", "model.sig"]
)
def test_each_file_must_be_signed(model: Path, signature: Path, signer: KeySigner, name: str) -> None:
    """The package itself ignores files of git, and accepts a signature although such a file was added."""
    signer.sign(model, signature)
    add(model, name)
    with raises(SealingCode.MODEL_SIGNATURE_MISMATCH, match=rf"not signed: '{name}'\."):
        verify(model, signature=signature, signer_key=signer.public)


def test_a_file_that_the_signature_says_to_ignore_must_be_signed_too(
    model: Path, signature: Path, signer: KeySigner
) -> None:
    signer.sign(model, signature)
    signer.sign_changed(
        signature, lambda statement: statement["predicate"]["serialization"].update(ignore_paths=["evil.so"])
    )
    add(model, "evil.so")
    with raises(SealingCode.MODEL_SIGNATURE_MISMATCH, match=r"not signed: 'evil.so'"):
        verify(model, signature=signature, signer_key=signer.public)


def test_a_file_is_missing(model: Path, signature: Path, signer: KeySigner) -> None:
    add(model, "assets/words.txt")
    signer.sign(model, signature)
    (model / "assets/words.txt").unlink()
    with raises(SealingCode.MODEL_SIGNATURE_MISMATCH, match=r"missing: 'assets/words.txt'"):
        verify(model, signature=signature, signer_key=signer.public)


def test_a_file_was_changed(model: Path, signature: Path, signer: KeySigner) -> None:
    signer.sign(model, signature)
    content = bytearray((model / FILE).read_bytes())
    content[-1] ^= 1
    (model / FILE).write_bytes(content)
    with raises(SealingCode.MODEL_SIGNATURE_MISMATCH, match=rf"changed: '{FILE}'\."):
        verify(model, signature=signature, signer_key=signer.public)


def test_the_signature_of_another_model(model: Path, signature: Path, signer: KeySigner, tmp_path: Path) -> None:
    other = saved_model(tmp_path / "other", constant=True)
    signer.sign(other, signature)
    with raises(SealingCode.MODEL_SIGNATURE_MISMATCH, match=rf"changed: '{FILE}'\."):
        verify(model, signature=signature, signer_key=signer.public)


def test_a_link_is_not_followed(model: Path, signature: Path, signer: KeySigner, tmp_path: Path) -> None:
    signer.sign(model, signature)
    content = tmp_path / "elsewhere"
    (model / FILE).rename(content)
    (model / FILE).symlink_to(content)
    with raises(SealingCode.TREE_NOT_REGULAR):
        verify(model, signature=signature, signer_key=signer.public)


# Other signers.


def test_another_key(model: Path, signature: Path, signer: KeySigner, tmp_path: Path) -> None:
    signer.sign(model, signature)
    other = KeySigner.create(tmp_path, "other")
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID, match="Key mismatch"):
        verify(model, signature=signature, signer_key=other.public)
    # Without the hint to the key, the signature itself does not verify.
    bundle = json.loads(signature.read_text())
    bundle["verificationMaterial"]["publicKey"].clear()
    signature.write_text(json.dumps(bundle))
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID, match="InvalidSignature"):
        verify(model, signature=signature, signer_key=other.public)


def test_the_message_of_the_package_is_not_printed(
    model: Path, signature: Path, signer: KeySigner, capfd: pytest.CaptureFixture[str]
) -> None:
    """The package prints a warning about a bundle without the hint, which would damage output for programs."""
    signer.sign(model, signature)
    bundle = json.loads(signature.read_text())
    bundle["verificationMaterial"]["publicKey"].clear()
    signature.write_text(json.dumps(bundle))
    assert verify(model, signature=signature, signer_key=signer.public) is not None
    assert capfd.readouterr() == ("", "")


def test_a_changed_statement(model: Path, signature: Path, signer: KeySigner, tmp_path: Path) -> None:
    """The statement of an attacker, with the hint to the trusted key."""
    signer.sign(model, signature)
    KeySigner.create(tmp_path, "other").sign_changed(signature, lambda statement: statement.update(a="b"))
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID, match="InvalidSignature"):
        verify(model, signature=signature, signer_key=signer.public)


def test_another_method_than_the_trusted_one(model: Path, signature: Path, signer: KeySigner, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    authority.sign(model, signature)
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID):
        verify(model, signature=signature, signer_key=signer.public)
    signer.sign(model, signature)
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID):
        verify(model, signature=signature, signer_ca=authority.file, signer_identity="CN=alice")


def test_another_authority(model: Path, signature: Path, tmp_path: Path) -> None:
    Authority.create(tmp_path, "Model Signers").sign(model, signature)
    other = Authority.create(tmp_path, "Others")
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID, match="invalid"):
        verify(model, signature=signature, signer_ca=other.file, signer_identity="CN=alice")


def test_another_subject_of_the_same_authority(model: Path, signature: Path, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    authority.sign(model, signature, subject="mallory")
    with raises(OwnerCode.MODEL_SIGNATURE_SIGNER, match=r"expected 'CN=alice', got 'CN=mallory'"):
        verify(model, signature=signature, signer_ca=authority.file, signer_identity="CN=alice")


@pytest.mark.parametrize(
    ("days", "reason"), [((-9, -2), "certificate has expired"), ((2, 9), "certificate is not yet valid")]
)
def test_a_certificate_must_be_valid_now(
    model: Path, signature: Path, tmp_path: Path, days: tuple[int, int], reason: str
) -> None:
    """The package accepts both, because it verifies the chain at the start of the certificate's validity."""
    authority = Authority.create(tmp_path)
    authority.sign(model, signature, begin=timedelta(days=days[0]), end=timedelta(days=days[1]))
    with raises(OwnerCode.MODEL_SIGNATURE_SIGNER, match=reason):
        verify(model, signature=signature, signer_ca=authority.file, signer_identity="CN=alice")
    inside = datetime.now(UTC) + timedelta(days=sum(days) / 2)
    assert verify(
        model, now=inside, signature=signature, signer_ca=authority.file, signer_identity="CN=alice"
    ) is not None  # fmt: skip


def test_the_issuer_must_fit_into_a_statement(model: Path, signature: Path, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, " ".join(["Model Signers"] * 5), units=5)
    authority.sign(model, signature)
    with raises(OwnerCode.MODEL_SIGNATURE_SIGNER, match="cannot be named"):
        verify(model, signature=signature, signer_ca=authority.file, signer_identity="CN=alice")


# Files that cannot be used.


def test_a_huge_signature_is_not_read(model: Path, signature: Path, signer: KeySigner) -> None:
    signature.touch()
    os.truncate(signature, MAX_SIGNATURE + 1)
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID, match="it has more than 16,777,216 bytes"):
        verify(model, signature=signature, signer_key=signer.public)


def test_a_pipe_is_not_read(model: Path, signature: Path, signer: KeySigner) -> None:
    os.mkfifo(signature)
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID, match="not a regular file"):
        verify(model, signature=signature, signer_key=signer.public)


def test_a_key_that_cannot_be_used(model: Path, signature: Path, signer: KeySigner, tmp_path: Path) -> None:
    signer.sign(model, signature)
    other = tmp_path / "other.pub"
    with raises(OwnerCode.MODEL_SIGNATURE_TRUST, match="No such file"):
        verify(model, signature=signature, signer_key=other)
    for content, reason in (
        (b"no PEM", "is not a public key in PEM"),
        (signer.private.read_bytes(), "is not a public key in PEM"),
        (_pem(ed25519.Ed25519PrivateKey.generate()), "is not a key on P-256"),
        (_pem(ec.generate_private_key(ec.SECP256K1())), "is not a key on P-256"),
    ):
        other.write_bytes(content)
        with raises(OwnerCode.MODEL_SIGNATURE_TRUST, match=reason):
            verify(model, signature=signature, signer_key=other)
        with raises(OwnerCode.MODEL_SIGNATURE_TRUST, match="does not contain certificates in PEM"):
            verify(model, signature=signature, signer_ca=other, signer_identity="CN=alice")


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_bundle_with_unreadable_certificates(model: Path, signature: Path, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    authority.sign(model, signature)
    bundle = json.loads(signature.read_text())
    damaged: tuple[Any, ...] = ([], [{"rawBytes": "AAAA"}], [{}], "text")
    for certificates in damaged:
        bundle["verificationMaterial"]["x509CertificateChain"]["certificates"] = certificates
        signature.write_text(json.dumps(bundle))
        with raises(OwnerCode.MODEL_SIGNATURE_INVALID):
            verify(model, signature=signature, signer_ca=authority.file, signer_identity="CN=alice")


def test_the_trust_root_of_sigstore_is_a_file_if_it_is_set(
    model: Path, signature: Path, signer: KeySigner, tmp_path: Path
) -> None:
    signer.sign(model, signature)
    root = tmp_path / "trust.json"
    root.write_text("{}")
    sigstore: Any = {"signer_identity": "alice@example.com", "signer_issuer": "https://id.example.com"}
    with raises(OwnerCode.MODEL_SIGNATURE_TRUST_ROOT, match="cannot be loaded"):
        verify(model, signature=signature, **sigstore, signer_trust_file=root)
    with raises(OwnerCode.MODEL_SIGNATURE_TRUST, match="No such file"):
        verify(model, signature=signature, **sigstore, signer_trust_file=tmp_path / "none.json")


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """Return a client trust configuration with the trust root that the package sigstore contains."""
    (folder,) = (found for found in resources.files("sigstore._store").iterdir() if found.name.endswith("sigstore.dev"))
    found = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads((folder / "trusted_root.json").read_text()),
        "signingConfig": json.loads((folder / "signing_config.v0.2.json").read_text()),
    }
    file = tmp_path / "trust.json"
    file.write_text(json.dumps(found))
    return file


def test_a_signature_that_is_not_of_sigstore(model: Path, signature: Path, signer: KeySigner, trust: Path) -> None:
    signer.sign(model, signature)
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID):
        verify(
            model, signature=signature, signer_trust_file=trust, signer_identity="alice@example.com",
            signer_issuer="https://id.example.com",
        )  # fmt: skip


def test_the_signer_is_the_identity_of_sigstore(
    model: Path, signature: Path, signer: KeySigner, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the answer of the package is replaced: no test can sign with Sigstore without network and account."""
    signer.sign(model, signature)
    monkeypatch.setattr("model_signing.verifying.Config.verify", lambda *_: None)
    found = verify(
        model, signature=signature, signer_trust_file=trust, signer_identity="alice@example.com",
        signer_issuer="https://id.example.com",
    )  # fmt: skip
    assert found is not None
    assert found.signer == ModelSigner(
        method="sigstore", identity="alice@example.com", issuer="https://id.example.com"
    )  # fmt: skip


def test_a_signed_model_is_not_optimized() -> None:
    with pytest.raises(ValueError, match="the signature covers the original model, and not its faster form"):
        ModelSection(name="m", signer_key=Path("key.pem"), optimize=Precision.FLOAT32)


@pytest.mark.parametrize(
    "names",
    ["signer_ca", "signer_key signer_ca", "signer_key signer_identity", "signer_identity", "signer_issuer",
     "signer_ca signer_identity signer_issuer", "signer_trust_file", "signer_key signer_trust_file"],
)  # fmt: skip
def test_the_settings_name_one_signer(names: str) -> None:
    with pytest.raises(ValueError, match="the signer is ambiguous or incomplete"):
        ModelSection(name="m", **dict.fromkeys(names.split(), "x"))


# Releases.


@pytest.fixture
def signed(tmp_path: Path, signer: KeySigner) -> Site:
    """A workspace with a signed model, whose signature is in its folder."""
    source = saved_model(tmp_path / NAME)
    add(source, "assets/words.txt")
    signer.sign(source, source / "model.sig")
    site = make_site(tmp_path / "site", source=source, model={"signer_key": str(signer.public)})
    site.import_model()
    site.certify()
    return site


def keys(site: Site) -> int:
    with Owner.open(site.workspace).vault(create=True) as vault:
        return admin.status(vault.database).keys


def test_a_release_names_the_signer(signed: Site, signer: KeySigner) -> None:
    built = signed.build_release()
    verified = releases.verify(built.folder, Owner.open(signed.workspace).public_key())
    (servable,) = verified.index.servables
    expected = ModelSigner(
        method="key", identity=model_signature.key_digest(signer.key.public_key()), issuer=None
    )  # fmt: skip
    assert servable.signer(1) == verified.index.signer(NAME, 1) == expected
    assert servable.signer(2) is verified.index.signer(NAME, 2) is verified.index.signer("other", 1) is None
    assert [file.path for file in built.index.files if file.path.startswith("models/")] == [
        f"models/{NAME}/1/assets/words.txt", f"models/{NAME}/1/{FILE}",
    ]  # fmt: skip
    assert not drift_of(signed.workspace, signed.deployment, built.folder).differences


def test_another_signer_needs_a_new_release(signed: Site, tmp_path: Path) -> None:
    built = signed.build_release()
    model = signed.deployment.model.model_copy(update={"signer_key": KeySigner.create(tmp_path, "other").public})
    found = drift_of(signed.workspace, signed.deployment.model_copy(update={"models": (model,)}), built.folder)
    assert found.keys == f"model[{NAME}:1].signer_key"


def test_the_index_of_an_unsigned_model_is_as_before(ready: Site) -> None:
    built = ready.build_release()
    content = (built.folder / "release.json").read_bytes()
    assert b"signer" not in content
    for signers in (b"[]", b"null"):
        with raises(SealingCode.RELEASE_INVALID_INDEX):
            parse_index(content.replace(b'"versions":[1]', b'"signers":%s,"versions":[1]' % signers))


def test_an_index_names_signers_of_its_versions_in_order(signed: Site) -> None:
    content = json.loads((signed.build_release().folder / "release.json").read_bytes())
    servable = content["servables"][0]
    (found,) = servable["signers"]
    for signers in ([found, found], [{**found, "version": 2}]):
        servable["signers"] = signers
        with raises(SealingCode.RELEASE_INVALID_INDEX, match="signers must be in ascending order"):
            parse_index(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def test_a_release_with_an_invalid_signature_is_not_built(signed: Site, tmp_path: Path) -> None:
    (tmp_path / NAME / "model.sig").unlink()
    KeySigner.create(tmp_path, "other").sign(tmp_path / NAME, tmp_path / NAME / "model.sig")
    with raises(OwnerCode.MODEL_SIGNATURE_INVALID):
        signed.build_release()
    assert not list(signed.workspace.owner.releases.iterdir())
    assert keys(signed) == 0


def test_a_file_that_is_replaced_after_the_verification_is_not_sealed(
    signed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker who waits until the signature was verified."""
    seal: Callable[..., DigestedFile] = codec.seal_digested
    target = signed.workspace.owner.models / NAME / "1" / "assets/words.txt"

    def replace(source: Path, *arguments: Any, **more: Any) -> DigestedFile:
        if source == target:
            source.write_text("#")  # same size
        return seal(source, *arguments, **more)

    monkeypatch.setattr(codec, "seal_digested", replace)
    with raises(SealingCode.MODEL_SIGNATURE_MISMATCH, match=r"changed: 'assets/words.txt'"):
        signed.build_release()
    assert not list(signed.workspace.owner.releases.iterdir())
    assert keys(signed) == 0


def test_a_file_that_is_added_after_the_verification_is_not_sealed(
    signed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_model = model_signature.verify_model

    def then_add(model: ModelSection, folder: Path, **more: Any) -> SignedModel | None:
        found = verify_model(model, folder, **more)
        add(folder, "assets/late.txt")
        return found

    monkeypatch.setattr(model_signature, "verify_model", then_add)
    with raises(SealingCode.MODEL_SIGNATURE_MISMATCH, match=r"not signed: 'assets/late.txt'"):
        signed.build_release()
    assert not list(signed.workspace.owner.releases.iterdir())


def test_a_model_that_is_converted_does_not_have_the_signers_files(tmp_path: Path, signer: KeySigner) -> None:
    """The signature of a frozen graph covers one file without a path. The release seals other files."""
    source = frozen_graph(tmp_path / "graph.pb")
    signer.sign(source, tmp_path / "model.sig")
    folder = saved_model(tmp_path / "copy")
    section = ModelSection(name="m", path=source, signer_key=signer.public)
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match=r"'\.' is not a path inside the model's folder"):
        model_signature.verify_model(section, folder, now=datetime.now(UTC))


def test_a_signature_with_another_name_in_the_folder_is_not_a_part_of_the_model(
    tmp_path: Path, signer: KeySigner
) -> None:
    source = saved_model(tmp_path / NAME)
    place = tmp_path / "place"
    signer.sign(source, place)
    place.rename(source / "oms.json")
    site = make_site(
        tmp_path / "site",
        source=source,
        model={"signer_key": str(signer.public), "signature": str(source / "oms.json")},
    )
    assert [path.name for path in site.import_model().iterdir()] == [FILE]
    site.certify()
    assert site.build_release().index.servables[0].signer(1) is not None


def test_a_folder_behind_a_link_is_not_imported(signed: Site, tmp_path: Path) -> None:
    (tmp_path / NAME / "more").symlink_to(tmp_path)
    with raises(ModelCode.UNUSABLE_FILE):
        models.bring_in_again(signed.workspace, signed.deployment.model)


# Making signatures.


def build(site: Site, key: Path) -> Release:
    return releases.build(site.workspace, site.deployment, now=site.now, sign_model=key)


def test_a_signature_that_we_make_verifies_with_the_public_tool(ready: Site, signer: KeySigner) -> None:
    built = build(ready, signer.private)
    (servable,) = built.index.servables
    found = servable.signer(1)
    assert found is not None
    assert found.identity == model_signature.key_digest(signer.key.public_key())
    made = releases.signature_of(ready.workspace, ready.deployment.model)
    folder = models.servable_folder(ready.workspace, ready.deployment.model)
    assert made == folder.with_name("1.sig")
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", str(folder), "--signature", str(made), "--public_key",
        str(signer.public),
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (folder / "more").write_text("x")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_our_signature_covers_the_files_of_git(tmp_path: Path, signer: KeySigner) -> None:
    source = saved_model(tmp_path / NAME)
    add(source, ".gitignore")
    site = make_site(tmp_path / "site", source=source)
    folder = site.import_model()
    site.certify()
    build(site, signer.private)
    made = releases.signature_of(site.workspace, site.deployment.model)
    found = verify(folder, signature=made, signer_key=signer.public)
    assert found is not None
    assert set(found.files) == {FILE, ".gitignore"}


def test_a_model_keeps_its_signer_if_the_owner_signs_too(signed: Site, signer: KeySigner, tmp_path: Path) -> None:
    owner = KeySigner.create(tmp_path, "owner")
    built = build(signed, owner.private)
    found = built.index.servables[0].signer(1)
    assert found is not None
    assert found.identity == model_signature.key_digest(signer.key.public_key())
    assert releases.signature_of(signed.workspace, signed.deployment.model).is_file()


def test_a_build_that_fails_leaves_no_signature(
    ready: Site, signer: KeySigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(release_module, "sign_index", fail)
    with pytest.raises(OSError):  # noqa: PT011  # the error of this test
        build(ready, signer.private)
    folder = models.servable_folder(ready.workspace, ready.deployment.model)
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_key_that_cannot_sign(ready: Site, tmp_path: Path) -> None:
    key = tmp_path / "key"
    with raises(OwnerCode.MODEL_SIGNATURE_KEY, match="No such file"):
        build(ready, key)
    for content in (b"no PEM", ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )):  # fmt: skip
        key.write_bytes(content)
        with raises(OwnerCode.MODEL_SIGNATURE_KEY, match="expected a"):
            build(ready, key)
    assert not list(ready.workspace.owner.releases.iterdir())


def test_base64_of_the_package_and_ours_agree(model: Path, signature: Path, signer: KeySigner) -> None:
    """The package skips other characters in base64, so that two texts are the same payload."""
    signer.sign(model, signature)
    signer.sign_changed(signature, lambda _: None, envelope=lambda found: found.update(payload=f"{found['payload']}\n"))
    assert base64.b64decode(json.loads(signature.read_text())["dsseEnvelope"]["payload"])
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match="payload is not base64"):
        verify(model, signature=signature, signer_key=signer.public)
