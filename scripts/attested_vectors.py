"""Write the test vectors of the attestation protocol, or check that they are up to date.

The vectors are in ``tests/conformance/attested``. The README in this folder describes them.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from scripts.attested_case import Case
from scripts.attested_cases import Cases
from scripts.attested_example import FIRST_TIME, KEY, NOW, REQUEST, RESPONSE, Example
from scripts.generated_files import write_or_check

from sealserve.attestation.attest_conversation import BrokerSession, EnclaveSession, certificate_request, refusal
from sealserve.attestation.framing import LENGTH_SIZE
from sealserve.attestation.session_binding import service_report_data, signed_nonce
from sealserve.attested.evidence_conversation import EvidenceRequest
from sealserve.attested.receipt import sign_receipt
from sealserve.attested.release_statement import DOMAIN
from sealserve.secret import SecretBytes

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "attested"


def session_vectors(example: Example) -> dict[str, Any]:
    """Return the conversation of ``sealserve-attest/1``."""
    broker = BrokerSession(nonce=example.session_nonce, exporter=example.exporter)
    challenge = broker.challenge()
    enclave = EnclaveSession(
        keyset=example.keyset, purpose="start", certificate_request=certificate_request(example.tls_key)
    )
    presenting = enclave.receive(challenge[LENGTH_SIZE:]).bind(example.exporter)
    evidence, _ = presenting.present(example.session_quote)
    bound = broker.receive(evidence[LENGTH_SIZE:]).bind(
        report_data=presenting.report_data, release_id=example.release_id
    )
    grant = bound.grant(
        attestation_result=example.token,
        certificate_chain=example.certificate.public_bytes(Encoding.PEM).decode(),
        collateral=example.collateral_members,
        statement=example.signed_statement,
        key=SecretBytes(KEY),
    )
    return {
        "nonce": example.session_nonce.hex(),
        "exporter": example.exporter.hex(),
        "keyset": example.keyset.to_bytes().decode(),
        "keyset_sha256": example.keyset.digest.hex(),
        "session_report_data": presenting.report_data.hex(),
        "service_report_data": service_report_data(example.keyset.digest).hex(),
        "challenge": challenge.hex(),
        "evidence": evidence.hex(),
        "grant_and_key": grant.reveal().hex(),
        "refusal": refusal(final=True, reference="17").hex(),
    }


def service_vectors(example: Example) -> dict[str, Any]:
    """Return the values of the user's conversation that the bundle does not show."""
    return {
        "nonce": example.nonce.hex(),
        "query": EvidenceRequest(nonce=example.nonce).query,
        "signed_nonce": signed_nonce(nonce=example.nonce, tls_key_digest=example.keyset.tls_key_digest).hex(),
        "statement": example.signed_statement.content.decode(),
        "statement_domain": DOMAIN.decode(),
        "statement_signature": example.signed_statement.signature.hex(),
        "time": int(NOW.timestamp()) + FIRST_TIME,
    }


def receipt_vectors(example: Example) -> dict[str, Any]:
    """Return a receipt with its request and response."""
    return {
        "request": REQUEST.decode(),
        "response": RESPONSE.decode(),
        "receipt": sign_receipt(example.receipt_claims(), example.identity),
    }


def private_keys(example: Example) -> dict[str, Any]:
    """Return the private keys: numbers of P-256 keys, and seeds of Ed25519 keys, in hexadecimal."""
    return {
        "owner": example.owner.private_bytes_raw().hex(),
        "identity": example.identity.private_bytes_raw().hex(),
        "tls": f"{example.tls_key.private_numbers().private_value:064x}",
        "token": f"{example.token_key.private_numbers().private_value:064x}",
    }


def case_vectors(cases: Cases) -> Iterator[dict[str, Any]]:
    """Yield each case as the members in which it differs from ``bundle.json`` and ``policy.toml``."""
    for case in cases.all():
        yield {
            "name": case.name,
            "step": case.step,
            "code": case.code,
            "time": int(NOW.timestamp()) + case.seconds,
            **_difference(case, cases),
        }


def _difference(case: Case, cases: Cases) -> dict[str, Any]:
    bundle, base = json.loads(case.bundle), cases.base
    changes: dict[str, Any] = {}
    if case.policy != cases.example.policy_file:
        changes["policy"] = case.policy
    if evidence := _changed(bundle.pop("evidence"), base["evidence"]):
        changes["evidence"] = evidence
    if outer := _changed(bundle, base):
        changes["bundle"] = outer
    return changes


def _changed(found: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value != base[name]}


def _lines(documents: Iterator[dict[str, Any]]) -> bytes:
    """Return a JSON array with one line for each document, so that a difference shows the case."""
    return ("[\n" + ",\n".join(json.dumps(document) for document in documents) + "\n]\n").encode()


def files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file."""
    with tempfile.TemporaryDirectory() as folder:
        example = Example(Path(folder) / "vendor")
        yield "bundle.json", example.bundle().to_bytes()
        yield "policy.toml", example.policy_file.encode()
        documents_by_name: Mapping[str, dict[str, Any]] = {
            "private-keys.json": private_keys(example),
            "session.json": session_vectors(example),
            "service.json": service_vectors(example),
            "receipt.json": receipt_vectors(example),
        }
        yield "cases.json", _lines(case_vectors(Cases(Path(folder), example)))
        for name, document in documents_by_name.items():
            yield name, json.dumps(document, indent=2).encode() + b"\n"


def main() -> None:
    """Write the files, or compare them with ``--check``."""
    contents = {FOLDER / name: content.decode() for name, content in files()}
    write_or_check(
        {path: partial(str, content) for path, content in contents.items()}, description=__doc__, target="vectors"
    )


if __name__ == "__main__":
    main()
