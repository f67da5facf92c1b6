"""The conversation of ``sealserve-attest/1``: both sides as values without sockets, clocks or keys.

The protocol runs inside a TLS 1.3 session on the broker's port, and ALPN selects it. The broker has a certificate that
the enclave checks against its measured CA and name. The enclave has no certificate. Sessions are not resumed, and early
data is not used, because both would weaken the exporter. Each message has a length, see
`sealserve.attestation.framing`:

1. Broker to enclave: a `Challenge` with a nonce.
2. Enclave to broker: an `EvidenceMessage` message.
3. Broker to enclave: a `Grant`, or a `Refusal` as the last message.
4. Broker to enclave, only with the purpose ``start``: the 16 bytes of the release's key, as a separate message, so
   that the key never becomes text, which nothing wipes.

Each step returns a value whose only methods are the next steps, so that no step can be omitted:

    BrokerSession.receive() -> PresentedEvidence.bind() -> BoundEvidence.grant()
    EnclaveSession.receive() -> Challenged.bind() -> Presenting.present() -> AwaitingGrant.receive() -> Granted.key()
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.attestation.attest_messages import Challenge, EvidenceMessage, Grant, Purpose, Refusal
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.framing import framed
from sealserve.attestation.keyset import Keyset, spki_digest
from sealserve.attestation.secret_provisioning import KEY_SIZE
from sealserve.attestation.session_binding import session_report_data
from sealserve.attestation.strict_document import SignedContent, parse_either
from sealserve.secret import SecretBytes
from sealserve.x509_errors import X509_ERRORS


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSession:
    """The broker's side of one TLS session. Use it once.

    Args:
        nonce: 32 random bytes, from `sealserve.attestation.session_binding.new_nonce`.
        exporter: The exporter of this session, with the nonce as its context.
    """

    nonce: bytes
    exporter: bytes = field(repr=False)

    def challenge(self) -> bytes:
        """Return the first message. It proves nothing: the enclave trusts TLS for the identity of the broker."""
        return framed(Challenge(nonce=self.nonce).to_bytes())

    def receive(self, content: bytes) -> "PresentedEvidence":
        """Process the content of the enclave's message.

        It proves that the sender holds the private key of the TLS key that it requests a certificate for. It does not
        prove that the sender is an enclave: appraise the quote, and then call `PresentedEvidence.bind`.

        Raises:
            VerificationError: `document.*` if the message or the keyset is malformed.
            VerificationError: `attest.certificate-request` if the request is malformed, is not for a P-256 key, or its
                signature is invalid.
            VerificationError: `attest.tls-key` if the request is for another key than the keyset's TLS key.
        """
        message = EvidenceMessage.parse(content)
        keyset = Keyset.parse(message.keyset)
        requested = _requested_key(message.certificate_request)
        if not hmac.compare_digest(hashlib.sha256(requested).digest(), keyset.tls_key_digest):
            raise AttestationCode.ATTEST_TLS_KEY.error(
                f"The certificate request is for another key than the keyset: expected SHA-256 "
                f"{keyset.tls_key_sha256}, got {hashlib.sha256(requested).hexdigest()}."
            )
        return PresentedEvidence(
            session=self, purpose=message.purpose, quote=message.quote, keyset=keyset, public_key_info=requested
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedEvidence:
    """Evidence whose quote is not appraised yet.

    Args:
        session: The session in which it arrived.
        purpose: The enclave's purpose.
        quote: The quote. Appraise it before `bind`.
        keyset: The claimed keyset.
        public_key_info: The TLS key as a SubjectPublicKeyInfo, DER.
    """

    session: BrokerSession
    purpose: Purpose
    quote: bytes = field(repr=False)
    keyset: Keyset
    public_key_info: bytes = field(repr=False)

    def bind(self, *, report_data: bytes, release_id: str) -> "BoundEvidence":
        """Check that the appraised quote covers this session and this keyset.

        The report data is computed from the broker's own nonce and exporter. It proves that the quote was created
        after the nonce was sent, and by the enclave at the other end of this TLS session. Therefore everything in the
        session comes from this enclave, the keyset belongs to it, and only it receives the answer.

        Args:
            report_data: The report data of the quote, which verified.
            release_id: The release that the broker found by the measurement of the quote.

        Raises:
            VerificationError: `attest.binding` if the report data covers another nonce, session or keyset.
            VerificationError: `attest.release` if the keyset names another release.
        """
        expected = session_report_data(
            nonce=self.session.nonce, exporter=self.session.exporter, keyset_digest=self.keyset.digest
        )
        if not hmac.compare_digest(expected, report_data):
            raise AttestationCode.ATTEST_BINDING.error(
                f"The quote is not bound to this TLS session and keyset: expected report data {expected.hex()}, got "
                f"{report_data.hex()}.",
                hint="Treat the quote as replayed, or relayed from another session.",
            )
        if self.keyset.release_id != release_id:
            raise AttestationCode.ATTEST_RELEASE.error(
                f"The keyset is for another release than the enclave: expected {release_id}, got "
                f"{self.keyset.release_id}."
            )
        return BoundEvidence(purpose=self.purpose, keyset=self.keyset, public_key_info=self.public_key_info)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundEvidence:
    """Evidence of the enclave at the other end of this TLS session.

    Args:
        purpose: The enclave's purpose.
        keyset: The enclave's keyset.
        public_key_info: The TLS key as a SubjectPublicKeyInfo, DER. Issue the certificate for it.
    """

    purpose: Purpose
    keyset: Keyset
    public_key_info: bytes = field(repr=False)

    def grant(
        self,
        *,
        attestation_result: str,
        certificate_chain: str,
        collateral: Mapping[str, str],
        statement: SignedContent | None,
        key: SecretBytes | None,
    ) -> SecretBytes:
        """Return the messages of the grant. Write the audit row before, send the bytes, and then wipe them.

        Args:
            attestation_result: The token. Its ``keyset_sha256`` is the keyset's digest, its ``public_key_sha256`` is
                the digest of the TLS key, and its ``freshness`` is ``session``.
            certificate_chain: The certificate for the TLS key and its issuers, PEM, leaf first.
            collateral: The collateral that the appraisal used.
            statement: The newest release statement, or `None`.
            key: The release's key, 16 bytes, with the purpose ``start``. Otherwise `None`.

        Raises:
            ValueError: The key does not fit the purpose, or has another length.
        """
        if (key is None) != (self.purpose == "renewal") or (key is not None and len(key) != KEY_SIZE):
            raise ValueError(f"the purpose {self.purpose} requires {'no key' if key else 'a key of 16 bytes'}")
        message = framed(
            Grant(
                attestation_result=attestation_result,
                certificate_chain=certificate_chain,
                collateral=dict(collateral),
                statement=statement,
            ).to_bytes()
        )
        return SecretBytes(message if key is None else message + framed(key.reveal()))


def refusal(*, final: bool, reference: str | None) -> bytes:
    """Return a refusal, the last message of the broker.

    Args:
        final: Whether a repetition cannot succeed: the broker decided about the evidence. `False` means that the broker
            was not able to decide, for example because it is overloaded.
        reference: The place of the decision in the audit log, 1 to 64 printable ASCII characters, or `None`.
    """
    return framed(Refusal(final=final, reference=reference).to_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSession:
    """The enclave's side of one TLS session. Use it once.

    TLS proves that the peer is the broker: its certificate ends at the measured CA and has the measured name.

    Args:
        keyset: The enclave's keyset.
        purpose: ``start``, or ``renewal`` for a new certificate.
        certificate_request: A certificate request for the TLS key, from `certificate_request`.
    """

    keyset: Keyset
    purpose: Purpose
    certificate_request: bytes = field(repr=False)

    def receive(self, content: bytes) -> "Challenged":
        """Process the content of the challenge.

        Raises:
            VerificationError: `document.*` if the message is malformed.
        """
        return Challenged(session=self, nonce=Challenge.parse(content).nonce)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenged:
    """A session in which the broker sent its nonce.

    Args:
        session: The session.
        nonce: The nonce. Compute the exporter of the TLS session with it as the context.
    """

    session: EnclaveSession
    nonce: bytes

    def bind(self, exporter: bytes) -> "Presenting":
        """Return the next step, with the report data for the quote.

        The exporter must come from the TLS session in which the nonce arrived. A quote for this report data is useless
        in every other session. So the enclave cannot be used to answer the challenge of another session.
        """
        report_data = session_report_data(nonce=self.nonce, exporter=exporter, keyset_digest=self.session.keyset.digest)
        return Presenting(session=self.session, report_data=report_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presenting:
    """A session that waits for a quote.

    Args:
        session: The session.
        report_data: The 64 bytes of report data for the quote.
    """

    session: EnclaveSession
    report_data: bytes

    def present(self, quote: bytes) -> tuple[bytes, "AwaitingGrant"]:
        """Return the message with the evidence, and the next step."""
        message = EvidenceMessage(
            purpose=self.session.purpose,
            quote=quote,
            keyset=self.session.keyset.to_bytes(),
            certificate_request=self.session.certificate_request,
        )
        return framed(message.to_bytes()), AwaitingGrant(session=self.session)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingGrant:
    """A session that waits for the broker's answer."""

    session: EnclaveSession

    def receive(self, content: bytes) -> "Granted":
        """Process the content of the answer.

        It proves that the broker accepts this enclave, because TLS authenticates the broker. The certificate must be
        for this enclave's TLS key. A certificate for another key would be useless, and a sign of a mixed-up session.

        Raises:
            VerificationError: `attest.refused` if the broker's refusal is final.
            UnavailableError: `attest.unavailable` if the broker was not able to decide.
            VerificationError: `document.*` if the message is malformed.
            VerificationError: `attest.certificate` if the certificate is malformed or for another key.
        """
        if isinstance(grant := parse_either(content, Grant, Refusal), Refusal):
            raise _refused(grant)
        try:
            leaf = x509.load_pem_x509_certificates(grant.certificate_chain.encode())[0]
            found = spki_digest(leaf.public_key())
        except X509_ERRORS as error:
            raise AttestationCode.ATTEST_CERTIFICATE.error(
                "The grant is invalid: its certificate chain is not a chain of PEM certificates."
            ) from error
        if not hmac.compare_digest(found, self.session.keyset.tls_key_digest):
            raise AttestationCode.ATTEST_CERTIFICATE.error(
                "The grant is invalid: its certificate is for another key than this enclave's TLS key."
            )
        return Granted(grant=grant, purpose=self.session.purpose)


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The broker's grant.

    Args:
        grant: Certificate, attestation result, collateral and statement.
        purpose: The enclave's purpose. With ``start``, the key follows as the next message.
    """

    grant: Grant
    purpose: Purpose

    @property
    def key_follows(self) -> bool:
        """Whether the key is the next message."""
        return self.purpose == "start"

    def key(self, content: bytes) -> SecretBytes:
        """Return the release's key from the content of the next message. Wipe the message afterwards.

        Raises:
            VerificationError: `attest.key` if the message does not have the length of a key, or none is expected.
        """
        if not self.key_follows or len(content) != KEY_SIZE:
            raise AttestationCode.ATTEST_KEY.error(
                f"The key message is invalid: expected {KEY_SIZE if self.key_follows else 0} bytes, got {len(content)}."
            )
        return SecretBytes(content)


def certificate_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a certificate request (PKCS #10, DER) for the TLS key, without names. The broker chooses the names."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(serialization.Encoding.DER)


def _requested_key(der: bytes) -> bytes:
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        valid = request.is_signature_valid
    except X509_ERRORS as error:
        raise AttestationCode.ATTEST_CERTIFICATE_REQUEST.error(
            "The certificate request is malformed: expected PKCS #10 in DER."
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AttestationCode.ATTEST_CERTIFICATE_REQUEST.error("The certificate request is not for a P-256 key.")
    if not valid:
        raise AttestationCode.ATTEST_CERTIFICATE_REQUEST.error(
            "The signature of the certificate request is invalid: its sender may not hold the private key."
        )
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _refused(message: Refusal) -> Exception:
    where = "" if message.reference is None else f" The broker's reference is {message.reference}."
    if message.final:
        return AttestationCode.ATTEST_REFUSED.error(
            f"The broker rejects this enclave.{where}",
            hint="Read the reason in the broker's audit log: `sealserve broker log`.",
        )
    return AttestationCode.ATTEST_UNAVAILABLE.error(
        f"The broker was not able to decide about this enclave.{where}",
        hint="Try again later, or use another broker. The owner reads the reason with `sealserve broker log`.",
    )
