"""The vectors of the attestation protocol: two implementations agree, and this version still writes the same bytes."""

import base64
import copy
import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from scripts.attested_example import Example
from scripts.attested_vectors import files
from scripts.node_packages import MODULES, VERIFY_QUOTE, installed
from tests.harness.missing import missing
from tests.harness.second_verifier import Refused, verify_bundle

from sealserve.attestation.attest_conversation import BrokerSession
from sealserve.attestation.attest_messages import Challenge, EvidenceMessage, Grant, Refusal
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.session_binding import (
    EXPORTER_LABEL,
    NONCE_LABEL,
    PROTOCOL,
    SERVICE_LABEL,
    SESSION_LABEL,
    session_report_data,
)
from sealserve.attested.codes import AttestedCode
from sealserve.attested.evidence import MAXIMUM_BUNDLE, EvidenceBundle, ServiceEvidence
from sealserve.attested.evidence_conversation import PresentedService
from sealserve.attested.receipt import ReceiptClaims, verify_receipt
from sealserve.attested.release_statement import DOMAIN, ReleaseStatement, sign_statement
from sealserve.attested.user_policy import parse_user_policy
from sealserve.attested.verification import StepFailedError, VerifiedService
from sealserve.canonical_document import canonical_json
from sealserve.sgx.trust_anchor import TrustAnchor

VECTORS: Final = Path(__file__).parent / "attested"
BUNDLE: Final = (VECTORS / "bundle.json").read_bytes()
POLICY: Final = (VECTORS / "policy.toml").read_text()
SERVICE: Final = json.loads((VECTORS / "service.json").read_text())
SERVICE_REPORT_DATA: Final = json.loads((VECTORS / "session.json").read_text())["service_report_data"]
CASES: Final[list[dict[str, Any]]] = json.loads((VECTORS / "cases.json").read_text())
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "attestation-protocol.md"
GENUINE: Final = Path(__file__).parent / "quotes"
GENUINE_TIME: Final = datetime(2025, 6, 20, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def verify(bundle: bytes, policy: str, seconds: int) -> VerifiedService:
    presented = PresentedService.of_bundle(EvidenceBundle.parse(bundle))
    return presented.verify(parse_user_policy(policy.encode()), now=at(seconds))


def bundle_of(case: dict[str, Any]) -> bytes:
    document = copy.deepcopy(json.loads(BUNDLE)) | case.get("bundle", {})
    document["evidence"] |= case.get("evidence", {})
    return canonical_json(document)


def test_this_version_writes_the_vectors() -> None:
    for name, content in files():
        assert (VECTORS / name).read_bytes() == content, f"{name}: run `make vectors`"


def test_both_implementations_accept_the_bundle() -> None:
    found = verify(BUNDLE, POLICY, SERVICE["time"])
    assert found.simulated
    assert len(found.reports) == 6
    assert verify_bundle(BUNDLE, POLICY, at(SERVICE["time"])) == json.loads(found.keyset.to_bytes())
    assert len(BUNDLE) <= MAXIMUM_BUNDLE


def test_both_implementations_accept_the_exceptions_that_the_policy_names(tmp_path: Path) -> None:
    example = Example(tmp_path / "vendor")
    model = example.model.model_copy(update={"allowed_operations": ("PrintV2", "WriteFile")})
    statement = sign_statement(example.statement(models=(model,), shared_batches=True), example.owner)
    bundle = example.bundle(example.evidence(statement=statement)).to_bytes()
    accepted = 'dangerous_operations = ["WriteFile", "PrintV2", "ReadFile"]\ndangerous_shared_batches = true\n'
    policy = example.policy_file.replace("version = 1\n", f"version = 1\n{accepted}")
    found = verify(bundle, policy, SERVICE["time"])
    assert found.statement is not None
    assert (found.statement.shared_batches, found.statement.allowed_operations) == (
        True,
        frozenset({"PrintV2", "WriteFile"}),
    )
    assert verify_bundle(bundle, policy, at(SERVICE["time"])) == json.loads(found.keyset.to_bytes())


def test_there_are_many_cases_and_each_step_has_some() -> None:
    assert len(CASES) >= 160
    assert {case["step"] for case in CASES} == {1, 2, 3, 4, 5, 6}
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert len({case["code"] for case in CASES}) >= 65


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_both_implementations_refuse_a_case_in_the_same_step(case: dict[str, Any]) -> None:
    bundle, policy = bundle_of(case), case.get("policy", POLICY)
    with pytest.raises(StepFailedError) as caught:
        verify(bundle, policy, case["time"])
    assert (caught.value.step.number, caught.value.code) == (case["step"], case["code"])
    assert caught.value.message.startswith(f"Step {case['step']} of 6 ")
    with pytest.raises(Refused) as refused:
        verify_bundle(bundle, policy, at(case["time"]))
    assert refused.value.step == case["step"]
    assert refused.value.code in {"", case["code"]}


def test_the_session_is_bound() -> None:
    session = json.loads((VECTORS / "session.json").read_text())
    keyset = Keyset.parse(session["keyset"].encode())
    nonce, exporter = (bytes.fromhex(session[name]) for name in ("nonce", "exporter"))
    report_data = session_report_data(nonce=nonce, exporter=exporter, keyset_digest=keyset.digest)
    assert report_data.hex() == session["session_report_data"]
    broker = BrokerSession(nonce=nonce, exporter=exporter)
    assert broker.challenge().hex() == session["challenge"]
    presented = broker.receive(bytes.fromhex(session["evidence"])[4:])
    assert presented.quote[48 + 320 : 48 + 384] == report_data
    bound = presented.bind(report_data=report_data, release_id=keyset.release_id)
    assert bound.keyset == keyset


def test_the_receipt_verifies() -> None:
    found = verify(BUNDLE, POLICY, SERVICE["time"])
    vector = json.loads((VECTORS / "receipt.json").read_text())
    claims = verify_receipt(
        vector["receipt"],
        request=vector["request"].encode(),
        response=vector["response"].encode(),
        keyset=found.keyset,
        statement=found.statement,
    )
    assert (claims.model, claims.model_version, claims.sequence) == ("half_plus_two", "1", 0)


def javascript(bundle: Path, root: bytes, seconds: int) -> dict[str, Any]:
    if not installed():
        missing("@phala/dcap-qvl is missing: `make node-packages` installs it (requires Node.js)")
    ran = subprocess.run(
        ["node", str(VERIFY_QUOTE), str(bundle), base64.b64encode(root).decode(), str(seconds)],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def simulated_root() -> bytes:
    pem = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END", POLICY, re.DOTALL)
    assert pem is not None
    return base64.b64decode(pem[1])


def test_the_quote_of_the_bundle_verifies_in_javascript() -> None:
    quote = verify(BUNDLE, POLICY, SERVICE["time"]).quote
    assert javascript(VECTORS / "bundle.json", simulated_root(), SERVICE["time"]) == {
        "status": quote.tcb_status.value,
        "advisories": list(quote.advisory_ids),
        "mrEnclave": quote.measurement.hex(),
        "mrSigner": quote.report.mr_signer.hex(),
        "reportData": SERVICE_REPORT_DATA,
    }


@pytest.mark.parametrize("name", ["another MRENCLAVE", "another QE report", "a revoked platform"])
def test_a_forged_quote_does_not_verify_in_javascript(name: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case["name"] == name)
    (tmp_path / "bundle.json").write_bytes(bundle_of(case))
    assert "error" in javascript(tmp_path / "bundle.json", simulated_root(), case["time"])


def test_a_genuine_quote_in_a_bundle_verifies_with_each_implementation(tmp_path: Path) -> None:
    document = json.loads(BUNDLE)
    quote = (GENUINE / "sgx_quote").read_bytes()
    document["evidence"]["quote"] = base64.urlsafe_b64encode(quote).rstrip(b"=").decode()
    document["evidence"]["collateral"] = json.loads((GENUINE / "sgx_quote_collateral.json").read_text())
    content = canonical_json(document)
    assert len(content) <= MAXIMUM_BUNDLE
    (tmp_path / "bundle.json").write_bytes(content)
    seconds = int(GENUINE_TIME.timestamp())
    found = javascript(tmp_path / "bundle.json", TrustAnchor.intel().root_der, seconds)
    assert found["mrEnclave"] == quote[48 + 64 : 48 + 96].hex()
    policy = f'version = 1\nowner_keys = ["{"ab" * 32}"]\n'
    with pytest.raises(StepFailedError) as caught:  # steps 1 and 2 succeed up to Intel's root
        verify(content, policy, seconds)
    assert (caught.value.step.number, caught.value.code) == (3, "statement.signature")
    with pytest.raises(Refused) as refused:
        verify_bundle(content, policy, GENUINE_TIME)
    assert (refused.value.step, refused.value.code) == (3, "statement.signature")


def test_the_page_states_every_constant_and_code() -> None:
    page = PAGE.read_text()
    labels = (SESSION_LABEL, SERVICE_LABEL, NONCE_LABEL, DOMAIN)
    for text in (
        *(label.decode().replace("\n", "\\n") for label in labels),
        PROTOCOL.decode(),
        EXPORTER_LABEL.decode(),
    ):
        assert f"`{text}`" in page
    kinds = (Keyset, ServiceEvidence, EvidenceBundle, ReleaseStatement, ReceiptClaims)
    for kind in (*kinds, Challenge, EvidenceMessage, Grant, Refusal):
        assert f"`{kind.model_fields['type'].default}`" in page
        for name in kind.model_fields:
            assert f"`{name}`" in page, f"{kind.__name__}.{name}"
        assert f"{kind.limit:,}" in page or f"{kind.limit}" in page, f"{kind.__name__}: {kind.limit}"
    ours = [code for code in AttestationCode if code.startswith(("attest.", "document."))]
    for code in (*ours, *AttestedCode):
        assert f"`{code}`" in page or (code.startswith("document.") and "`document.*`" in page), code
