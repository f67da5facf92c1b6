"""The identity of a running enclave: receipts with consecutive numbers, renewals, and no key in any representation."""

import threading
from hashlib import sha256
from typing import Any

import pytest
from scripts.attested_example import REQUEST, RESPONSE, Example

from sealserve.attested.receipt import verify_receipt
from sealserve.attested.service_identity import ServiceIdentity

NONCE = bytes(32)


def make(example: Example) -> ServiceIdentity:
    return ServiceIdentity(tls_key=example.tls_key, certificate_chain=b"chain 1", service=example.service())


def version(example: Example, **changes: str) -> dict[str, str]:
    return {
        "model": example.model.name,
        "model_version": example.model.version,
        "model_sha256": example.model.sha256,
    } | changes


def test_receipts_verify_and_never_repeat_a_number(example: Example) -> None:
    identity = make(example)
    found: list[int] = []

    def work() -> None:
        sign = identity.receipt_signer(**version(example))
        for _ in range(25):
            claims = verify_receipt(
                sign(sha256(REQUEST).digest(), sha256(RESPONSE).digest()),
                request=REQUEST,
                response=RESPONSE,
                keyset=example.keyset,
                statement=example.statement(),
            )
            found.append(claims.sequence)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(100))


def test_a_renewal_replaces_certificate_and_evidence_and_keeps_the_keys(example: Example) -> None:
    identity = make(example)
    key, before = identity.private_key_pem().reveal(), identity.evidence(NONCE)
    identity.renew(certificate_chain=b"chain 2", service=example.service(attestation_result=None))
    assert (identity.renewals, identity.certificate_chain) == (1, b"chain 2")
    assert identity.private_key_pem().reveal() == key
    assert identity.evidence(NONCE) != before
    assert identity.release_id == example.release_id


def test_a_renewal_for_other_keys_is_a_fault_of_the_program(example: Example) -> None:
    identity = make(example)
    other = Example(example.folder, name="other", shared=example)
    with pytest.raises(ValueError, match="another keyset"):
        identity.renew(certificate_chain=b"", service=other.service(quote=b"q", attestation_result=None))
    assert identity.renewals == 0


def test_no_key_is_in_a_representation(example: Example) -> None:
    identity: Any = make(example)
    secrets = (example.identity.private_bytes_raw(), identity.private_key_pem().reveal())
    shown = repr(identity) + repr(identity.private_key_pem()) + repr(identity._granted)
    assert all(secret.hex() not in shown and repr(secret)[2:-1] not in shown for secret in secrets)
