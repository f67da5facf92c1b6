"""Documents of the attestation protocol, receipts and policies: accepted, or rejected with one printable error.

A statement and a receipt are also signed with the genuine key, so that the fuzzer reaches the checks behind it.
"""

import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from scripts.attested_example import FIRST_TIME, NOW, REQUEST, RESPONSE, Example

from sealserve.attestation.attest_messages import Challenge, EvidenceMessage, Grant, Refusal, incoming_answer
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.strict_document import SignedContent, StrictDocument, parse_either
from sealserve.attested.evidence import EvidenceBundle, ServiceEvidence
from sealserve.attested.evidence_conversation import PresentedService, parse_nonce
from sealserve.attested.receipt import sign_receipt, verify_receipt
from sealserve.attested.release_statement import DOMAIN, ReleaseStatement, verify_statement
from sealserve.attested.user_policy import parse_user_policy
from sealserve.errors import SealserveError

_FOLDER = tempfile.TemporaryDirectory()
_EXAMPLE = Example(Path(_FOLDER.name) / "vendor")
_OWNER = (_EXAMPLE.owner.public_key().public_bytes_raw(),)
_POLICY = _EXAMPLE.policy
_BUNDLE = _EXAMPLE.bundle().to_bytes()
_RECEIPT = sign_receipt(_EXAMPLE.receipt_claims(), _EXAMPLE.identity)
_KINDS: tuple[type[StrictDocument], ...] = (Keyset, ServiceEvidence, ReleaseStatement, Challenge, EvidenceMessage)


def seeds() -> Iterator[bytes]:
    """Yield one document of each kind, a receipt, and a policy."""
    yield _BUNDLE
    yield _EXAMPLE.keyset.to_bytes()
    yield _EXAMPLE.evidence().to_bytes()
    yield _EXAMPLE.statement().to_bytes()
    yield _RECEIPT.encode()
    yield Challenge(nonce=bytes(32)).to_bytes()
    yield Refusal(final=True, reference="17").to_bytes()
    yield _EXAMPLE.policy_file.encode()


def fuzz(data: bytes) -> None:
    """Use ``data`` as each kind of document, as a signed statement, as a receipt, as a policy, and as a nonce."""
    if _printable(lambda: _verify_bundle(data)):
        assert data == _BUNDLE or EvidenceBundle.parse(data).nonce == _EXAMPLE.nonce, "other evidence verifies"
    for kind in _KINDS:
        _printable(lambda kind=kind: kind.parse(data))  # type: ignore[misc]  # its type is the default's
    _printable(lambda: parse_either(data, Grant, Refusal))
    _printable(lambda: incoming_answer().receive(data))
    signed = SignedContent(content=data, signature=_EXAMPLE.owner.sign(DOMAIN + data))
    _printable(lambda: verify_statement(signed, _OWNER))
    text = data.decode("latin-1")
    assert not _printable(lambda: _verify_receipt(text)) or text == _RECEIPT, "a changed receipt verifies"
    _printable(lambda: parse_user_policy(data))
    _printable(lambda: parse_nonce(text))


def _verify_bundle(data: bytes) -> None:
    presented = PresentedService.of_bundle(EvidenceBundle.parse(data))
    presented.verify(_POLICY, now=NOW + timedelta(seconds=FIRST_TIME))


def _verify_receipt(text: str) -> None:
    verify_receipt(text, request=REQUEST, response=RESPONSE, keyset=_EXAMPLE.keyset, statement=_EXAMPLE.statement())


def _printable(step: Callable[[], object]) -> bool:
    try:
        step()
    except SealserveError as error:
        message = error.message
    else:
        return True
    assert message.isprintable()
    return False
