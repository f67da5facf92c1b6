"""A certificate of another CA for the service: what a release contains, what users trust, and each bad input."""

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.harness.certificates import NAME, Signer, key_text, make_key, text
from tests.harness.errors import Expected, raises
from tests.harness.workspaces import Site, make_site

from sealserve.deployment.codes import DeploymentCode
from sealserve.owner import certificates, service_certificate
from sealserve.owner.expiry import certificate_ends
from sealserve.pki import expiry, ssl_config
from sealserve.pki.certificate import KeyMismatchError
from sealserve.pki.codes import PkiCode
from sealserve.pki.ssl_config import SSL_CONFIG_PATH
from sealserve.private_file import PrivateFileExposedError, PrivateFileUnreadableError
from sealserve.regular_file import InputFileMissingError

FILES = {"tls_certificate_file": "fullchain.pem", "tls_key_file": "privkey.pem", "tls_root_file": "root.pem"}
OWNER_KEY = {"dangerous_owner_tls_key": True}


@dataclass
class PublicCa:
    """Another CA with an intermediate CA, and the files that it gave to the owner.

    Args:
        folder: The folder of the files.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.root, self.intermediate = Signer.make("root"), Signer.make("intermediate")
        self.key = make_key("P-256")

    def issue(self, *, chain: bool = True, **leaf: Any) -> None:
        """Write the files."""
        certificate = self.intermediate.leaf(self.key, **leaf)
        others = [self.intermediate.certificate(self.root)] if chain else []
        self.write("fullchain.pem", text(certificate, *others))
        self.write("privkey.pem", key_text(self.key))
        self.write("root.pem", text(self.root.certificate()))

    def write(self, name: str, content: bytes, mode: int = 0o600) -> None:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(mode)


@pytest.fixture
def ca(tmp_path: Path) -> PublicCa:
    made = PublicCa(tmp_path)
    made.issue()
    return made


@pytest.fixture
def site(tmp_path: Path, ca: PublicCa) -> Site:
    files = {name: tmp_path / file for name, file in FILES.items()}
    assert ca.folder == tmp_path
    made = make_site(tmp_path / "site", server=OWNER_KEY, service={"tls": "one-way", **files})
    made.certify()
    return made


def seal(site: Site) -> Any:
    """Return the TLS settings of a release that is built now."""
    return certificates.tls_files(site.workspace, site.deployment, now=datetime.now(UTC))[SSL_CONFIG_PATH]


def test_users_who_trust_the_other_ca_accept_the_service(site: Site, ca: PublicCa, tmp_path: Path) -> None:
    sealed = ssl_config.parse(seal(site))
    assert sealed.server_key.reveal() == key_text(ca.key).strip()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.write("pair.pem", sealed.server_key.reveal() + b"\n" + sealed.server_cert)
    server.load_cert_chain(tmp_path / "pair.pem")
    user = ssl.create_default_context(cafile=site.workspace.user.service_ca)
    near, far = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(far, server_side=True) as connection:
            connection.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with user.wrap_socket(near, server_hostname=NAME) as connection:
        assert connection.recv(5) == b"hello"
    thread.join()


def test_a_new_root_is_given_to_the_users(site: Site, ca: PublicCa) -> None:
    assert not certificates.lacks_certificates(site.workspace, site.deployment)
    ca.root = Signer.make("another root")
    ca.issue()
    assert certificates.lacks_certificates(site.workspace, site.deployment)
    certificates.adapt_certificates(site.workspace, site.deployment, now=site.now)
    assert site.workspace.user.service_ca.read_bytes() == text_of(ca.folder / "root.pem")
    certificates.renew_service_authority(site.workspace, site.deployment, now=site.now)
    assert site.workspace.user.service_ca.read_bytes() == text_of(ca.folder / "root.pem")


def text_of(path: Path) -> bytes:
    return path.read_bytes()


def test_a_private_key_beside_the_certificates_is_given_to_nobody(site: Site, ca: PublicCa) -> None:
    for name, key in (("root.pem", ca.root.key), ("fullchain.pem", ca.key)):
        ca.write(name, text_of(ca.folder / name) + key_text(key))
    site.workspace.user.service_ca.unlink()
    certificates.adapt_certificates(site.workspace, site.deployment, now=site.now)
    assert b"PRIVATE KEY" not in site.workspace.user.service_ca.read_bytes()
    given = service_certificate.given_certificate(site.deployment, now=site.now)
    assert given is not None
    assert b"PRIVATE KEY" not in given.chain_pem


def test_its_end_is_the_end_of_the_service(site: Site, ca: PublicCa) -> None:
    site.import_model()
    folder = site.build_release().folder
    chain = x509.load_pem_x509_certificates(text_of(ca.folder / "fullchain.pem"))
    given = site.deployment.service.tls_certificate_file
    ends = certificate_ends(site.workspace, folder, given=given)
    assert ends[expiry.SERVICE] == chain[0].not_valid_after_utc


def encrypted(ca: PublicCa) -> None:
    ca.write("privkey.pem", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")


def only_for_clients(certificate: x509.Certificate, issuer: Signer) -> x509.Certificate:
    """Return the certificate with an extended key usage that excludes servers."""
    builder = x509.CertificateBuilder(
        certificate.issuer, certificate.subject, certificate.public_key(), 7,
        certificate.not_valid_before_utc, certificate.not_valid_after_utc,
    )  # fmt: skip
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def for_clients(ca: PublicCa) -> None:
    leaf = only_for_clients(ca.intermediate.leaf(ca.key), ca.intermediate)
    ca.write("fullchain.pem", text(leaf, ca.intermediate.certificate(ca.root)))


def from_an_authority_for_clients(ca: PublicCa) -> None:
    authority = only_for_clients(ca.intermediate.certificate(ca.root), ca.root)
    ca.write("fullchain.pem", text(ca.intermediate.leaf(ca.key), authority))


BAD: list[tuple[str, Callable[[PublicCa], None], Expected, str]] = [
    ("another key", lambda ca: ca.write("privkey.pem", key_text(make_key("P-256"))), KeyMismatchError, "fullchain.pem"),
    ("expired", lambda ca: ca.issue(days=(-3, -1)), PkiCode.CERTIFICATE_EXPIRED, "fullchain.pem"),
    ("another name", lambda ca: ca.issue(dns_name="other.example.com"), PkiCode.CERTIFICATE_NAME, "other.example.com"),
    ("no intermediate", lambda ca: ca.issue(chain=False), PkiCode.CERTIFICATE_CHAIN, "issuer certificate"),
    ("another root", lambda ca: ca.write("root.pem", text(Signer.make("other").certificate())),
     PkiCode.CERTIFICATE_CHAIN, "fullchain"),
    ("for clients", for_clients, PkiCode.CERTIFICATE_NAME, "serverAuth"),
    ("from an authority for clients", from_an_authority_for_clients, PkiCode.CERTIFICATE_CHAIN, "serverAuth"),
    ("a key for all", lambda ca: (ca.folder / "privkey.pem").chmod(0o644), PrivateFileExposedError, "chmod 600"),
    ("no key", lambda ca: (ca.folder / "privkey.pem").unlink(), PrivateFileUnreadableError, "privkey.pem"),
    ("no chain", lambda ca: (ca.folder / "fullchain.pem").unlink(), InputFileMissingError, "fullchain.pem"),
    ("an encrypted key", encrypted, PkiCode.CERTIFICATE_KEY_UNREADABLE, "BEGIN PRIVATE KEY"),
    ("an empty chain", lambda ca: ca.write("fullchain.pem", b"\n"), PkiCode.CERTIFICATE_UNREADABLE, "fullchain.pem"),
    ("the key as chain", lambda ca: ca.write("fullchain.pem", key_text(ca.key)), PkiCode.CERTIFICATE_UNREADABLE, "PEM"),
    ("an empty root", lambda ca: ca.write("root.pem", b"\n"), PkiCode.CERTIFICATE_UNREADABLE, "tls_root_file"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "match"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_files_are_refused_before_a_release_is_built(
    site: Site, ca: PublicCa, change: Callable[[PublicCa], None], code: Expected, match: str
) -> None:
    change(ca)
    with raises(code, match=match) as refused:
        seal(site)
    shown = f"{refused.value.message} {refused.value.hint}"
    assert key_text(ca.key).decode().splitlines()[1] not in shown


@pytest.mark.parametrize(
    ("pattern", "accepted"),
    [
        ("*.tf-serving.service.com", True),
        ("GRPC.TF-SERVING.SERVICE.COM", True),
        ("*.service.com", False),
        ("*.com", False),
        ("*", False),
        ("g*.tf-serving.service.com", False),
    ],
)
def test_wildcards_cover_one_label(site: Site, ca: PublicCa, *, pattern: str, accepted: bool) -> None:
    ca.issue(dns_name=pattern)
    if accepted:
        seal(site)
    else:
        with raises(PkiCode.CERTIFICATE_NAME):
            seal(site)


@pytest.mark.parametrize("missing", sorted(FILES))
def test_the_three_files_belong_together(tmp_path: Path, missing: str) -> None:
    files = {name: tmp_path / file for name, file in FILES.items() if name != missing}
    with raises(DeploymentCode.INVALID_VALUE, match=rf"{missing} is missing"):
        make_site(tmp_path, server=OWNER_KEY, service=files)


def test_an_attested_service_has_no_certificate_of_another_ca(tmp_path: Path) -> None:
    files = {name: tmp_path / file for name, file in FILES.items()}
    with raises(DeploymentCode.INVALID_VALUE, match="dangerous_owner_tls_key = true"):
        make_site(tmp_path, service=files)
