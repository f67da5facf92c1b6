"""The six steps with which a user verifies a service. Everything is pure: bytes and a time in, a value or an error out.

A failure names the step and what it means for the user. `docs/reference/attestation-protocol.md` is the specification.
"""

import hmac
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.keyset import Keyset, spki_digest
from sealserve.attestation.result import USER_AUDIENCE, AttestationResult, Freshness
from sealserve.attestation.result_token import verify_result
from sealserve.attestation.session_binding import service_report_data, signed_nonce
from sealserve.attested.codes import AttestedCode
from sealserve.attested.evidence import ServiceEvidence
from sealserve.attested.release_statement import ReleaseStatement, verify_statement
from sealserve.attested.user_policy import UserPolicy
from sealserve.canonical_document import canonical_json
from sealserve.errors import SealserveError, VerificationError
from sealserve.sgx.appraisal import ExaminedQuote, VerifiedQuote
from sealserve.sgx.certificate_chain import common_name
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.known_chains import KNOWN_CHAINS
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.trust_anchor import INTEL, SIMULATED, TrustAnchor
from sealserve.x509_errors import X509_ERRORS

AUDIENCE: Final = USER_AUDIENCE
"""The audience of attestation results for users."""


class Step(Enum):
    """A step of the verification: its number, its title, and the meaning of its failure."""

    GENUINE = 1, "genuine quote", "No trusted processor vendor confirms that an enclave answered."
    PLATFORM = 2, "platform", "The enclave's memory may be readable to the host, or its processor has known faults."
    CODE = 3, "code", "The enclave may run other code than the owner states, or the owner revoked its release."
    KEYSET = 4, "keyset", "The keys do not belong to the enclave. Another machine may hold them."
    FRESHNESS = 5, "freshness", "The evidence may be a copy from an earlier time, and the enclave may not run now."
    CONNECTION = 6, "connection", "The connection does not end in the enclave. Another machine can read it."

    def __init__(self, number: int, title: str, meaning: str) -> None:
        self.number = number
        self.title = title
        self.meaning = meaning


class StepFailedError(VerificationError):
    """A step of the verification of a service failed. An instance has the code of the step's cause.

    Args:
        step: The step.
        cause: The error of the check.
    """

    code = "evidence.step"

    def __init__(self, step: Step, cause: SealserveError) -> None:
        super().__init__(
            f"Step {step.number} of {len(Step)} ({step.title}) failed: {cause.message} {step.meaning}",
            hint=_hint(cause),
            code=cause.code,
        )
        self.step = step
        self.cause = cause
        self.details = {"step": step.number, "step_title": step.title, "meaning": step.meaning}

    def __reduce__(self) -> tuple[type["StepFailedError"], tuple[Step, SealserveError]]:
        return type(self), (self.step, self.cause)


_CLOCK: Final = "Check the clock of this machine."
_HINTS: Final[Mapping[str, str]] = {
    SgxCode.COLLATERAL_EXPIRED: f"{_CLOCK} If it is right, ask the owner of the service for current collateral, or "
    "fetch it yourself: `sealserve verify --collateral-from URL`.",
    SgxCode.COLLATERAL_NOT_YET_VALID: _CLOCK,
    SgxCode.CERTIFICATE_CHAIN_VALIDITY: _CLOCK,
    SgxCode.COLLATERAL_ROLLED_BACK: "Ask the owner of the service for newer collateral, or fetch it yourself: "
    "`sealserve verify --collateral-from URL`.",
    AttestationCode.POLICY_TCB_STATUS: "Use a service with updated machines, or accept this status in your policy.",
    AttestationCode.POLICY_ADVISORY: "Read the advisories. Then use another service, or accept them in your policy.",
}


def _hint(cause: SealserveError) -> str:
    """Return the next step for a user. The other hints about quotes are for the owner and the host of the service."""
    hint = None if cause.code in set(SgxCode) else cause.hint
    return _HINTS.get(cause.code) or hint or "Do not send an input to this service."


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step found, for people."""

    step: Step
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedService:
    """A service that passed all six steps. Only `verify_service` creates it.

    Args:
        keyset: The keys of the enclave.
        quote: The verified quote: enclave and platform.
        statement: The owner's statement, or `None` if the policy pins no owner key.
        result: The broker's attestation result, or `None` if the policy pins no owner key. Without it, a revocation of
            the release is not noticed.
        policy: The policy that it satisfies.
    """

    keyset: Keyset
    quote: VerifiedQuote
    statement: ReleaseStatement | None
    result: AttestationResult | None
    policy: UserPolicy = field(repr=False)

    @property
    def simulated(self) -> bool:
        """Whether the platform is simulated. A simulated platform protects nothing."""
        return self.quote.simulated

    @property
    def reports(self) -> tuple[StepReport, ...]:
        """What each step found, in order."""
        quote, keyset, anchor = self.quote, self.keyset, self.policy.anchor
        root = f"Intel's root {anchor.fingerprint}"
        if self.simulated:
            root = f"the SIMULATED root {anchor.fingerprint}, which protects nothing"
        if self.statement is not None and self.result is not None:
            source = f"stated by the owner, and not revoked according to {self.result.issuer}"
        else:
            source = "pinned by the policy; a revocation is not noticed"
        texts = {
            Step.GENUINE: f"a processor of kind {quote.fmspc} signed it, up to {root}",
            Step.PLATFORM: f"TCB status {quote.tcb_status} satisfies {self.policy.tcb.name}; not a debug enclave",
            Step.CODE: f"MRENCLAVE {quote.measurement.hex()} of release {keyset.release_id}, {source}",
            Step.KEYSET: f"the report data covers keyset {keyset.digest.hex()}",
            Step.FRESHNESS: f"the identity key {keyset.identity_key.hex()} signed the nonce",
            Step.CONNECTION: f"the connection ends at TLS key {keyset.tls_key_sha256}",
        }
        return tuple(StepReport(step=step, text=text) for step, text in texts.items())

    def check_connection(self, certificate: bytes, *, now: datetime) -> None:
        """Perform step 6 for another connection to the same replica, whose keyset is already verified.

        After the attestation result has expired, the release may be revoked. Request new evidence then.

        Args:
            certificate: The certificate of the connection, DER.
            now: The user's time, with a time zone.

        Raises:
            StepFailedError: `token.expired` in step 3, `evidence.certificate` or `evidence.tls-key` in step 6.
        """
        with _step(Step.CODE):
            if self.result is not None and now >= self.result.expires:
                raise AttestationCode.TOKEN_EXPIRED.error(
                    f"The attestation result expired at {self.result.expires:%Y-%m-%d %H:%M:%S} UTC.",
                    hint="Request new evidence from the service.",
                )
        with _step(Step.CONNECTION):
            _check_tls_key(certificate, self.keyset)


def verify_service(
    evidence: ServiceEvidence, *, nonce: bytes, certificate: bytes, policy: UserPolicy, now: datetime
) -> VerifiedService:
    """Verify a service before anything is sent to it.

    1. *Genuine quote.* The quote verifies, with the bundled collateral, against the root of the policy at the user's
       own clock. The root is Intel's, or a named simulated root. So a genuine processor signed the report, and the
       vendor's documents about it are current.
    2. *Platform.* The enclave is not in debug mode, and the user's policy accepts the TCB status. So the host cannot
       read the enclave's memory, as far as the vendor and the user judge.
    3. *Code.* The pinned owner key signed the release statement. It lists MRENCLAVE, MRSIGNER, product id, security
       version and attributes of the enclave. A broker in the statement issued the attestation result for exactly this
       keyset, and it has not expired. So the enclave runs the code of a release that is not revoked. The statement
       allows neither shared batches nor operations, unless the policy accepts them. If the policy pins enclaves or
       releases, the enclave or release is one of them.
    4. *Keyset.* The quote's report data covers the keyset. So the enclave created the keys, and only it has them.
    5. *Freshness.* The identity key signed the user's fresh nonce. So the enclave runs now.
    6. *Connection.* The certificate of this connection has the keyset's TLS key. TLS proved that the peer has the
       private key. So the connection ends in the enclave.

    Certificate names, dates and issuers prove nothing here: the owner or the host can create such certificates.

    Args:
        evidence: The evidence, as received.
        nonce: The nonce of the request.
        certificate: The certificate of the connection, DER.
        policy: The user's policy.
        now: The user's time, with a time zone.

    Raises:
        StepFailedError: A step fails. The error has the code of the cause, and names the step.
        ValueError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("the time of verification needs a time zone")
    anchor = policy.anchor
    with _step(Step.GENUINE):  # 1
        quote = _verify_quote(evidence, anchor, policy, now)
    with _step(Step.PLATFORM):  # 2. `ExaminedQuote` has already rejected debug mode.
        policy.tcb.check(quote)
    with _step(Step.KEYSET):  # a malformed keyset must not reach the other checks
        keyset = Keyset.parse(evidence.keyset)
    with _step(Step.CODE):  # 3
        statement, result = _check_code(evidence, quote, keyset, policy, now)
    with _step(Step.KEYSET):  # 4
        expected = service_report_data(keyset.digest)
        if not hmac.compare_digest(expected, quote.report.report_data):
            raise AttestedCode.EVIDENCE_KEYSET_BINDING.error(
                f"The quote does not cover the keyset: expected report data {expected.hex()}, got "
                f"{quote.report.report_data.hex()}."
            )
    with _step(Step.FRESHNESS):  # 5
        _check_nonce(evidence, nonce, keyset)
    with _step(Step.CONNECTION):  # 6
        _check_tls_key(certificate, keyset)
    return VerifiedService(
        keyset=keyset,
        quote=quote,
        statement=statement,
        result=result,
        policy=policy,
    )


_OF_THE_PLATFORM: Final = frozenset({SgxCode.QUOTE_DEBUG, SgxCode.TCB_REVOKED, SgxCode.TCB_NO_LEVEL})
"""The causes that the verification of a quote reports, and that belong to step 2."""


@contextmanager
def _step(step: Step) -> Iterator[None]:
    try:
        yield
    except SealserveError as error:
        raise StepFailedError(Step.PLATFORM if error.code in _OF_THE_PLATFORM else step, error) from error


def _verify_quote(evidence: ServiceEvidence, anchor: TrustAnchor, policy: UserPolicy, now: datetime) -> VerifiedQuote:
    parsed = Quote.parse(evidence.quote)
    pck = KNOWN_CHAINS.parse(parsed.pck_chain_pem)
    _check_kind(pck, anchor)
    examined = ExaminedQuote(raw=evidence.quote, quote=parsed, pck=pck, anchor=anchor)
    collateral = Collateral.from_json(canonical_json(evidence.collateral).decode())
    return examined.verify(collateral, now=now, minimum_evaluation_number=policy.least_evaluation_number)


def _check_kind(pck: PckChain, anchor: TrustAnchor) -> None:
    """Give a quote of the other kind a separate error, because its usual cause is a mistake, not an attack."""
    root = common_name(pck.root)
    if root == SIMULATED.root and not anchor.simulated:
        raise AttestedCode.EVIDENCE_SIMULATED.error(
            "The quote is from a simulated platform, which protects nothing.",
            hint="Use a service on SGX machines. In a test, name the simulated root with dangerous_simulated_root.",
        )
    if root == INTEL.root and anchor.simulated:
        raise AttestedCode.EVIDENCE_PLATFORM_KIND.error(
            "The quote is from an SGX processor, but the policy names a simulated root.",
            hint="Remove dangerous_simulated_root from the policy.",
        )


def _check_code(
    evidence: ServiceEvidence, quote: VerifiedQuote, keyset: Keyset, policy: UserPolicy, now: datetime
) -> tuple[ReleaseStatement | None, AttestationResult | None]:
    statement = result = None
    if policy.owner_keys:
        # The owner's statement lists the enclave.
        statement = _verify_statement(evidence, keyset, policy)
        stated = statement.enclave(quote.measurement)
        if stated is None:
            raise AttestedCode.EVIDENCE_ENCLAVE_UNKNOWN.error(
                f"The release statement does not list this enclave: expected "
                f"{', '.join(enclave.mr_enclave for enclave in statement.enclaves)}, got {quote.measurement.hex()}."
            )
        stated.values.check(quote.report)
        # The owner's broker accepts it now. A revoked release gets no new result.
        result = _verify_result(evidence, statement, quote, keyset, now)
        # The exceptions to the rules for models, which the owner states, are exceptions that the user accepts.
        _check_exceptions(statement, policy)
    if policy.enclaves:
        pinned = [values for values in policy.enclaves if values.mr_enclave == quote.measurement]
        if not pinned:
            raise AttestedCode.EVIDENCE_NOT_PINNED.error(
                f"The policy does not list this enclave: got MRENCLAVE {quote.measurement.hex()}."
            )
        pinned[0].check(quote.report)
    if policy.releases and keyset.release_id not in policy.releases:
        raise AttestedCode.EVIDENCE_RELEASE_NOT_PINNED.error(
            f"The policy does not list this release: got {keyset.release_id}."
        )
    return statement, result


def _verify_statement(evidence: ServiceEvidence, keyset: Keyset, policy: UserPolicy) -> ReleaseStatement:
    if evidence.statement is None:
        raise AttestedCode.EVIDENCE_NO_STATEMENT.error(
            "The evidence contains no release statement.", hint="Ask the owner to publish a statement for the release."
        )
    statement = verify_statement(evidence.statement, policy.owner_keys)
    if statement.release_id != keyset.release_id:
        raise AttestedCode.EVIDENCE_RELEASE.error(
            f"The release statement is for another release: expected {keyset.release_id}, got {statement.release_id}."
        )
    return statement


def _check_exceptions(statement: ReleaseStatement, policy: UserPolicy) -> None:
    if statement.shared_batches and not policy.dangerous_shared_batches:
        raise AttestedCode.EVIDENCE_SHARED_BATCHES.error(
            "The release computes requests of several users in one batch, so a model can answer one user with the "
            "input of another user. The policy does not accept this.",
            hint="Ask the owner for a release without batches. If you trust the model and all of its users, "
            "run `sealserve user trust` with --dangerous-shared-batches.",
        )
    if refused := sorted(statement.allowed_operations - policy.dangerous_operations):
        shown = ", ".join(refused)[:1000].encode("unicode_escape").decode()
        raise AttestedCode.EVIDENCE_ALLOWED_OPERATIONS.error(
            f"The owner allowed operations that the model lint rejects, and the policy does not accept them: {shown}.",
            hint="Read the reference of the model lint, which states what such operations can do with an input. If you "
            "trust the models, run `sealserve user trust` with --dangerous-operation for each name.",
        )


def _verify_result(
    evidence: ServiceEvidence, statement: ReleaseStatement, quote: VerifiedQuote, keyset: Keyset, now: datetime
) -> AttestationResult:
    if evidence.attestation_result is None:
        raise AttestedCode.EVIDENCE_NO_RESULT.error(
            "The evidence contains no attestation result, so the release may be revoked."
        )
    result = _of_a_stated_broker(evidence.attestation_result, statement, quote, now)
    if result.release_id != keyset.release_id:
        raise AttestedCode.EVIDENCE_RELEASE.error(
            f"The attestation result is for another release: expected {keyset.release_id}, got {result.release_id}."
        )
    differing = [
        name
        for name, equal in (
            ("keyset", result.keyset_digest == keyset.digest),
            ("TLS key", result.public_key_digest == keyset.tls_key_digest),
            ("enclave", result.enclave == quote.identity),
            ("kind of platform", result.simulated == quote.simulated),
            ("freshness", result.freshness is Freshness.SESSION),
        )
        if not equal
    ]
    if differing:
        raise AttestedCode.EVIDENCE_RESULT_BINDING.error(
            f"The attestation result is for another enclave: it differs in {', '.join(differing)}."
        )
    return result


def _of_a_stated_broker(
    token: str, statement: ReleaseStatement, quote: VerifiedQuote, now: datetime
) -> AttestationResult:
    """Verify the token as the result of one of the brokers. Each broker has different keys."""
    failures = []
    for broker in statement.brokers:
        try:
            return verify_result(
                token,
                broker.key_set,
                now=now,
                issuer=broker.name,
                audience=AUDIENCE,
                dangerous_simulated=quote.simulated,  # the policy named this simulated root
            )
        except SealserveError as error:
            failures.append(error)
    another = {"token.key-unknown", "token.issuer"}
    if told := [error for error in failures if error.code not in another]:
        raise told[0]
    raise AttestedCode.EVIDENCE_BROKER_UNKNOWN.error(
        "The release statement does not name the broker that issued the attestation result."
    )


def _check_nonce(evidence: ServiceEvidence, nonce: bytes, keyset: Keyset) -> None:
    try:
        keyset.identity.verify(
            evidence.nonce_signature, signed_nonce(nonce=nonce, tls_key_digest=keyset.tls_key_digest)
        )
    except InvalidSignature as error:
        raise AttestedCode.EVIDENCE_NONCE_SIGNATURE.error(
            "The identity key of the keyset did not sign the nonce of this request."
        ) from error


def _check_tls_key(certificate: bytes, keyset: Keyset) -> None:
    try:
        found = spki_digest(x509.load_der_x509_certificate(certificate).public_key())
    except X509_ERRORS as error:
        raise AttestedCode.EVIDENCE_CERTIFICATE.error("The certificate of the connection is malformed.") from error
    if not hmac.compare_digest(found, keyset.tls_key_digest):
        raise AttestedCode.EVIDENCE_TLS_KEY.error(
            f"The connection ends at another TLS key: expected SHA-256 {keyset.tls_key_sha256}, got {found.hex()}."
        )
