"""Signers of models: keys and certificates, and signatures of OpenSSF Model Signing, also hostile ones."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

Change = Callable[[dict[str, Any]], None]
PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySigner:
    """A signer with a key.

    Args:
        key: The private key.
        private: Its file.
        public: The file of the public key.
    """

    key: ec.EllipticCurvePrivateKey
    private: Path
    public: Path

    @classmethod
    def create(cls, folder: Path, name: str = "signer", curve: ec.EllipticCurve | None = None) -> "KeySigner":
        """Create a key and its files."""
        key = ec.generate_private_key(curve or ec.SECP256R1())
        private, public = folder / f"{name}.key", folder / f"{name}.pub"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return cls(key=key, private=private, public=public)

    def sign(self, model: Path, signature: Path) -> Path:
        """Sign a model with the public tool's library, as its signer would."""
        from model_signing import signing  # noqa: PLC0415  # an extra

        signing.Config().use_elliptic_key_signer(private_key=self.private).sign(model, signature)
        return signature

    def sign_changed(self, signature: Path, change: Change, *, envelope: Change = lambda _: None) -> Path:
        """Change the statement in a signature, and sign it again: a hostile signer.

        Args:
            signature: The file of a signature. It is replaced.
            change: Changes the statement.
            envelope: Changes the DSSE envelope, after it was signed.
        """
        bundle = json.loads(signature.read_text())
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        change(statement)
        bundle["dsseEnvelope"] |= self.envelope(json.dumps(statement).encode())
        envelope(bundle["dsseEnvelope"])
        signature.write_text(json.dumps(bundle))
        return signature

    def envelope(self, payload: bytes) -> dict[str, Any]:
        """Return a payload and its signature, as members of a DSSE envelope."""
        signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
        value = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return {
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"sig": base64.b64encode(value).decode()}],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority of signers.

    Args:
        key: Its key.
        certificate: Its certificate.
        file: The certificate's file.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path

    @classmethod
    def create(cls, folder: Path, name: str = "Model Signers", *, units: int = 0) -> "Authority":
        """Create an authority. Each unit makes its name longer."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        longer = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"{unit:060}") for unit in range(units)]
        subject = x509.Name([*longer, x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1000))
            .not_valid_after(now + timedelta(days=1000))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        file = folder / f"{name[:64].lower().replace(' ', '-')}.pem"
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return cls(key=key, certificate=certificate, file=file)

    def sign(
        self, model: Path, signature: Path, *, subject: str = "alice", begin: timedelta = timedelta(days=-1),
        end: timedelta = timedelta(days=1),
    ) -> Path:  # fmt: skip
        """Issue a certificate, and sign a model with it.

        Args:
            model: The model.
            signature: The file of the signature.
            subject: The common name of the subject.
            begin: Start of the validity, from now.
            end: End of the validity, from now.
        """
        from model_signing import signing  # noqa: PLC0415  # an extra

        signer, now = KeySigner.create(signature.parent, "leaf"), datetime.now(UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(self.certificate.subject)
            .public_key(signer.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                    key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip
        certificate = signature.with_name("leaf.pem")
        certificate.write_bytes(leaf.public_bytes(Encoding.PEM))
        signing.Config().use_certificate_signer(
            private_key=signer.private, signing_certificate=certificate, certificate_chain=[self.file]
        ).sign(model, signature)
        return signature
