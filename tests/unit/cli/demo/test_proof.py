import base64
import shutil
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.harness.errors import raises
from tests.harness.tiny_model import WEIGHTS
from tests.harness.workspaces import Site

from sealserve.broker.keystore import KeyId
from sealserve.cli.codes import CliCode
from sealserve.cli.demo import proof
from sealserve.cli.demo.proof import Proof
from sealserve.cli.demo.stage import own_certificate
from sealserve.owner.owner import Owner
from sealserve.sealing.release import VerifiedRelease
from sealserve.secret import SecretBytes


@pytest.fixture
def shipped(site: Site, released: VerifiedRelease) -> VerifiedRelease:
    """A release that the host has, too."""
    shutil.copytree(released.folder, site.workspace.host.releases / released.folder.name)
    return released


def test_the_search_shows_how_far_it_is(site: Site, shipped: VerifiedRelease) -> None:
    shown: list[tuple[int, int]] = []
    found = proof.search(
        site.workspace, site.deployment, shipped.folder, progress=lambda done, of: shown.append((done, of))
    )
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert shown[-1] == (found.size, found.size)


def search(site: Site, release: VerifiedRelease) -> Proof:
    return proof.search(site.workspace, site.deployment, release.folder)


def key_of(site: Site, release: VerifiedRelease) -> SecretBytes:
    with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
        return vault.keystore.load(connection, KeyId(release.index.key_id))


def expose(site: Site, release: VerifiedRelease, content: bytes, *, log: bool = False) -> str:
    path = (site.workspace.owner.logs / "broker.log") if log else site.workspace.host.logs / "replica-0.log"
    path.write_bytes(b"2026 INFO a line\n" + content + b"\n")
    with raises(CliCode.DEMO_EXPOSED, match="The host's files or a log contain secret data: ") as caught:
        search(site, release)
    assert caught.value.code == "demo.exposed"
    assert str(path) in caught.value.message
    assert content[:12].hex() not in caught.value.message
    path.unlink()
    return caught.value.message


def test_a_host_with_ciphertext_only(site: Site, shipped: VerifiedRelease) -> None:
    (site.workspace.owner.logs / "broker.log").write_text(f"released {shipped.id} half-plus-two/1/saved_model.pb\n")
    found = search(site, shipped)
    assert found.files > 10
    assert found.secret_size > len(WEIGHTS)
    assert any(line.endswith(f"releases/{shipped.folder.name}/tls/clients.cfg") for line in found.view)
    assert not any("owner/" in line for line in found.view)


def test_a_piece_of_the_model_is_found(site: Site, shipped: VerifiedRelease) -> None:
    assert "the model's saved_model.pb in " in expose(site, shipped, WEIGHTS[101:117])


@pytest.mark.parametrize(
    ("in_model", "on_host"),
    [
        ('{{"file": "{directory}/make_model.py", "line": 7}}', '{{"log": "{directory}/.sealserve", "pid": 7}}'),
        ("{python} -m train", "starting {python} -m sealserve"),
        ("grpc.tf-serving.service.com:8500", "listen grpc.tf-serving.service.com:8500;"),
        ("decrypts the release and loads", "replica-0 attests to the broker, decrypts the release and loads the model"),
    ],
)
def test_a_model_may_contain_what_the_host_has_anyway(
    site: Site, shipped: VerifiedRelease, monkeypatch: pytest.MonkeyPatch, in_model: str, on_host: str
) -> None:
    """A model keeps the path of the script that made it; the workspace is often in the same folder."""
    names = {"directory": site.directory, "python": sys.executable}
    content = in_model.format(**names).encode() + WEIGHTS
    monkeypatch.setattr(proof, "_secrets", lambda *_: [("the model's saved_model.pb", content)])
    (site.workspace.host.logs / "replica-1.log").write_text(on_host.format(**names))
    search(site, shipped)
    assert "the model's saved_model.pb in " in expose(site, shipped, WEIGHTS[100:132])


def test_the_release_key_is_found_however_it_is_written(site: Site, shipped: VerifiedRelease) -> None:
    raw = key_of(site, shipped).reveal()
    for spelling, name in {
        raw: "the release key in ",
        raw.hex().encode(): "the release key in hexadecimal",
        raw.hex().upper().encode(): "the release key in upper-case hexadecimal",
        base64.b64encode(raw): "the release key in base64",
        base64.b64encode(b"xx" + raw + b"yy"): "the release key in base64",
        base64.b64encode(b"x" + raw): "the release key in base64",
    }.items():
        for log in (False, True):
            assert name in expose(site, shipped, spelling, log=log)


def certificate_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    return x509.load_pem_x509_certificate(own_certificate("a.example", key).chain_pem).public_bytes(
        serialization.Encoding.DER
    )


def test_a_tls_key_of_the_service_is_found_on_this_machine(site: Site, shipped: VerifiedRelease) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    served = [certificate_for(key)]
    found = proof.search(site.workspace, site.deployment, shipped.folder, served=served)
    assert found.keys > 5
    assert found.opened == len(shipped.index.files)
    path = site.workspace.owner.root / "kept.der"
    path.write_bytes(
        b"x" + key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8,
                                 serialization.NoEncryption())
    )  # fmt: skip
    with raises(CliCode.DEMO_EXPOSED, match=r"outside of the enclaves: owner/kept\.der"):
        proof.search(site.workspace, site.deployment, shipped.folder, served=served)


def test_the_view_has_files_and_sockets(tmp_path: Path) -> None:
    import socket  # noqa: PLC0415  # here only

    (tmp_path / "a").write_bytes(bytes(1234))
    (tmp_path / "link").symlink_to("a")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert proof._view(tmp_path) == ["       1234  a", "     socket  s"]
