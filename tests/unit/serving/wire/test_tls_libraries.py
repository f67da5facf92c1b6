"""Settings that pass sealserve's own checks, but that one of the TLS libraries rejects."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from tests.harness.certificates import Signer, key_text, make_key, text
from tests.harness.errors import raises

from sealserve.pki.codes import PkiCode
from sealserve.pki.ssl_config import SslConfig
from sealserve.secret import SecretBytes
from sealserve.serving.codes import ServingCode
from sealserve.serving.wire import peers, tls_libraries
from sealserve.serving.wire.peers import fault_of, fault_of_connection, fault_of_properties
from sealserve.serving.wire.tls_libraries import check_both, openssl_context

ROOT, KEY = Signer.make("root"), make_key("P-256")


def settings(custom_ca: bytes | None = None) -> SslConfig:
    return SslConfig(server_key=SecretBytes(key_text(KEY)), server_cert=text(ROOT.leaf(KEY)), custom_ca=custom_ca)


def listening() -> set[str]:
    """Return the TCP sockets of this process that listen."""
    tables = [Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6")]
    inodes = {fields[9] for table in tables for fields in map(str.split, table.splitlines()[1:]) if fields[3] == "0A"}
    return {link for link in links() if link.removeprefix("socket:[").removesuffix("]") in inodes}


def links() -> Iterator[str]:
    for path in Path("/proc/self/fd").iterdir():
        try:
            yield str(path.readlink())
        except FileNotFoundError:  # the folder's own descriptor
            continue


def test_a_check_leaves_no_port_and_no_file() -> None:
    check_both(settings(), source="x")  # gRPC creates its own descriptors once
    before = listening()
    for _ in range(5):
        check_both(settings(text(ROOT.certificate())), source="x")
    assert listening() <= before
    assert not [link for link in links() if "memfd:tls" in link]


def test_a_key_that_only_boringssl_rejects_is_rejected_by_name() -> None:
    numbers = make_key("RSA-2048").private_numbers()  # type: ignore[union-attr]
    assert isinstance(numbers, rsa.RSAPrivateNumbers)
    exponent = 2**40 + 15  # BoringSSL accepts public exponents of up to 33 bits
    private = pow(exponent, -1, (numbers.p - 1) * (numbers.q - 1))
    key = rsa.RSAPrivateNumbers(
        numbers.p,
        numbers.q,
        private,
        rsa.rsa_crt_dmp1(private, numbers.p),
        rsa.rsa_crt_dmq1(private, numbers.q),
        numbers.iqmp,
        rsa.RSAPublicNumbers(exponent, numbers.public_numbers.n),
    ).private_key()
    odd = SslConfig(server_key=SecretBytes(key_text(key)), server_cert=text(ROOT.leaf(key)))
    openssl_context(odd)
    with raises(PkiCode.CERTIFICATE_KEY_UNREADABLE, match=r"chain of x cannot be used for TLS: rejected by BoringSSL"):
        check_both(odd, source="x")


def test_a_custom_ca_that_boringssl_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_libraries, "_can_serve", lambda _settings, custom_ca: custom_ca is None)
    with raises(
        ServingCode.SERVER_CLIENT_AUTHORITY, match="custom_ca of x cannot be used for TLS: rejected by Boring"
    ) as caught:
        check_both(settings(text(ROOT.certificate())), source="x")
    assert (caught.value.code, caught.value.exit_status) == ("server.client-authority", 2)


def test_a_machine_without_a_loopback_interface_is_not_the_keys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(tls_libraries, "_PROBE", f"127.0.0.1:{taken.getsockname()[1]}")
        check_both(settings(), source="x")


@pytest.mark.parametrize("form", ["DER", "PEM"])
def test_a_client_cannot_fill_the_memory_with_its_certificates(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_verdicts", {})
    monkeypatch.setattr("cryptography.x509.name._NAMEOID_LENGTH_LIMIT", {})
    leaf = ROOT.leaf(KEY)

    def judge(*others: x509.Certificate) -> str | None:
        if form == "PEM":
            return fault_of(text(leaf), text(*others))
        return fault_of(leaf.public_bytes(Encoding.DER), tuple(other.public_bytes(Encoding.DER) for other in others))

    assert judge(*(ROOT.certificate() for _ in range(15))) is None
    assert judge(*(ROOT.certificate() for _ in range(16))) == "The client sent more than 16 certificates."
    # Names of any length: in a certificate that is ignored, and in a certificate whose key the fault quotes.
    long = Signer("x" * 50_000, make_key("secp256k1"))
    assert judge(Signer.make("junk").certificate(long)) is None
    fault = judge(Signer("root", make_key("P-256")).certificate(long), long.certificate())
    assert fault is not None
    assert len(fault) <= 300
    kept = [item for verdict in peers._verdicts.values() for item in (verdict.fault or "", *verdict.identities)]
    assert max(map(len, kept)) <= 300
    assert all(len(item) == 32 for item in kept if isinstance(item, bytes))


def test_a_connection_without_certificates_is_not_accepted() -> None:
    class Resumed:
        def get_unverified_chain(self) -> None:
            return None

    assert fault_of_connection(Resumed()) == "The client did not present a certificate."


def test_a_peer_is_judged_by_what_grpc_or_openssl_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = ROOT.leaf(KEY)
    assert fault_of_properties({}) is None
    assert fault_of_properties({b"x509_pem_cert": [text(leaf)]}) is None
    assert fault_of_properties({b"x509_pem_cert": [b"nonsense"]}) == "The client certificate cannot be read."
    short = ROOT.leaf(make_key("RSA-1024"))
    properties = {b"x509_pem_cert": [text(short)], b"x509_pem_cert_chain": [text(ROOT.certificate())]}
    fault = fault_of_properties(properties)
    assert fault is not None
    assert "RSA-1024" in fault
    monkeypatch.setattr(peers, "_REMEMBERED", 2)
    for number in range(5):
        fault_of(b"%d" % number)
        assert len(peers._verdicts) <= 2
    assert fault_of(b"nonsense", (b"",)) == "The client certificate cannot be read."
