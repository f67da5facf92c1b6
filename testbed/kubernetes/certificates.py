"""The cluster's certificates and kubeconfig files, created for each cluster.

Source: https://kubernetes.io/docs/setup/best-practices/certificates/ (names, groups and uses of each certificate).
"""

import datetime as dt
import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from testbed.kubernetes.layout import API_PORT, API_SERVICE, CERTIFICATES, CONTROL_PLANE, DOMAIN, KUBECONFIG, Node

from sealserve.atomic_file import PRIVATE, write_file

_LIFE: Final = dt.timedelta(days=30)
_PEM: Final = serialization.Encoding.PEM


class Authority:
    """A certificate authority whose files are in `CERTIFICATES`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"sealserve testbed {name}", None)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = _builder(subject, subject, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        self.certificate = builder.sign(self._key, hashes.SHA256())
        self._write(name, self._key, self.certificate)

    def issue(self, file: str, name: str, group: str | None = None, *, hosts: Iterable[str] = ()) -> None:
        """Write ``file.crt`` and ``file.key`` for a client. If ``hosts`` is not empty, they are also for a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject(name, group), self.certificate.subject, key.public_key())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if alternatives := [_general_name(host) for host in hosts]:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        self._write(file, key, builder.sign(self._key, hashes.SHA256()))

    @staticmethod
    def _write(file: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        write_file(CERTIFICATES / f"{file}.crt", certificate.public_bytes(_PEM))
        write_file(CERTIFICATES / f"{file}.key", _private(key), mode=PRIVATE)


def create(nodes: Iterable[Node]) -> None:
    """Create every certificate and kubeconfig file of a new cluster."""
    CERTIFICATES.mkdir(mode=0o700, parents=True, exist_ok=True)
    cluster = Authority("cluster-ca")
    names = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{DOMAIN}",
        "localhost",
    )
    cluster.issue("apiserver", "kube-apiserver", hosts=(*names, API_SERVICE, CONTROL_PLANE))
    cluster.issue("apiserver-kubelet", "kube-apiserver", "system:masters")
    etcd = Authority("etcd-ca")
    etcd.issue("etcd", "etcd", hosts=(CONTROL_PLANE, "localhost"))
    Authority("front-proxy-ca").issue("front-proxy", "front-proxy-client")
    service_accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_file(CERTIFICATES / "service-accounts.key", _private(service_accounts), mode=PRIVATE)
    public = service_accounts.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_file(CERTIFICATES / "service-accounts.pub", public)
    clients: dict[str, tuple[str, str | None]] = {"admin": ("kubernetes-admin", "system:masters")}
    clients |= {name: (f"system:{name}", None) for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy")}
    for file, (name, group) in clients.items():
        cluster.issue(file, name, group)
    for node in nodes:
        cluster.issue(node.name, f"system:node:{node.name}", "system:nodes", hosts=(node.name, node.address))
    for file in (*clients, *(node.name for node in nodes)):
        write_kubeconfig(kubeconfig(file), file)
    write_kubeconfig(KUBECONFIG, "admin")


def kubeconfig(file: str) -> Path:
    """Return the path of a client's kubeconfig file."""
    return CERTIFICATES / f"{file}.kubeconfig"


def write_kubeconfig(path: Path, file: str) -> None:
    """Write the kubeconfig file of a client with the certificate ``file.crt``. It refers to files, and holds no key."""
    text = json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {
            "server": f"https://{CONTROL_PLANE}:{API_PORT}",
            "certificate-authority": str(CERTIFICATES / "cluster-ca.crt"),
        }}],
        "users": [{"name": file, "user": {
            "client-certificate": str(CERTIFICATES / f"{file}.crt"), "client-key": str(CERTIFICATES / f"{file}.key"),
        }}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": file}}],
        "current-context": "testbed",
    }, indent=1)  # fmt: skip
    write_file(path, text.encode(), mode=PRIVATE)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _LIFE)
    )


def _subject(name: str, group: str | None) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
