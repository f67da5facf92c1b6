"""The order of the start: keys, broker, device, quote for users, renewal."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from scripts.attested_example import KEY, Example
from tests.harness.attest_broker import AttestBroker, grant, refuse
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.keyset import spki_digest
from sealserve.attestation.session_binding import service_report_data
from sealserve.attested.evidence import ServiceEvidence
from sealserve.attested.service_identity import ServiceIdentity
from sealserve.attester.codes import AttesterCode
from sealserve.attester.enclave_keys import EnclaveKeys
from sealserve.attester.measured import measured_settings
from sealserve.attester.program import Enclave, attested_identity, renewal
from sealserve.attester.turns import Backoff
from sealserve.cluster.local.processes import wait_until
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated.attestation_device import SimulatedDevice
from sealserve.secret import SecretBytes
from sealserve.serving.spans import Stages
from sealserve.tracing.span import Span, SpanName


class Inside:
    """The measured environment of an enclave on this machine, and its device."""

    def __init__(self, folder: Path, example: Example, broker: AttestBroker) -> None:
        self.folder = folder
        self.opened: list[bytes] = []
        (folder / "broker-ca.pem").write_bytes(broker.ca)
        host, port = broker.place
        self.environment: Mapping[str, str] = {
            "SEALSERVE_ATTESTATION_DEVICE": str(folder / "attestation"),
            "SEALSERVE_RELEASE_ID": example.release_id,
            "SECRET_PROVISION_CA_CHAIN_PATH": str(folder / "broker-ca.pem"),
            "SECRET_PROVISION_SERVERS": f"{host}:{port}",
            "SECRET_PROVISION_SET_KEY": "release",
        }
        self.device = SimulatedDevice(
            folder / "attestation",
            key_name="release",
            quote_for=example.quote,
            open_mounts=lambda key: self.opened.append(key.reveal()),
        )


@pytest.fixture
def broker(example: Example) -> Iterator[AttestBroker]:
    with AttestBroker(example) as started:
        yield started


@pytest.fixture
def inside(tmp_path: Path, example: Example, broker: AttestBroker) -> Iterator[Inside]:
    made = Inside(tmp_path, example, broker)
    with made.device:
        made.device.start()
        yield made


def test_the_identity_has_certificate_and_evidence_for_the_enclaves_keys(inside: Inside, example: Example) -> None:
    identity = attested_identity(inside.environment)

    assert inside.opened == [KEY]
    leaf = x509.load_pem_x509_certificates(identity.certificate_chain)[0]
    evidence = ServiceEvidence.parse(identity.evidence(bytes(32)))
    keyset = hashlib.sha256(evidence.keyset).digest()
    assert evidence.quote[48 + 320 : 48 + 384] == service_report_data(keyset)
    assert spki_digest(leaf.public_key()).hex() in evidence.keyset.decode()
    assert identity.release_id == example.release_id
    assert evidence.statement == example.signed_statement
    assert b"PRIVATE KEY" in identity.private_key_pem().reveal()
    assert "PRIVATE" not in repr(identity)


def test_each_start_has_new_keys(example: Example) -> None:
    first, second = EnclaveKeys.create(example.release_id), EnclaveKeys.create(example.release_id)

    assert first.keyset.tls_key_sha256 != second.keyset.tls_key_sha256
    assert first.keyset.identity_key != second.keyset.identity_key


def test_a_temporary_refusal_is_repeated(inside: Inside, broker: AttestBroker, example: Example) -> None:
    broker.behaviours = [refuse(final=False), grant]
    settings = measured_settings(inside.environment)
    enclave = Enclave(settings, EnclaveKeys.create(example.release_id), backoff=Backoff(first=0.0, longest=0.0))

    assert enclave.attest("start").key == SecretBytes(KEY)


def test_a_final_refusal_opens_nothing(inside: Inside, broker: AttestBroker) -> None:
    broker.behaviours = [refuse(final=True)]

    with raises(AttestationCode.ATTEST_REFUSED, match="row-17"):
        attested_identity(inside.environment)

    assert inside.opened == []


@dataclass
class Sink:
    spans: list[Span] = field(default_factory=list)

    def add(self, spans: Sequence[Span]) -> None:
        self.spans += spans


def test_the_stages_of_a_start_are_spans_with_nothing_of_the_key(inside: Inside) -> None:
    sink = Sink()
    attested_identity(inside.environment, Stages(sink))

    key, attest, unseal = sink.spans
    assert (key.name, attest.name, unseal.name) == (SpanName.KEY, SpanName.ATTEST, SpanName.UNSEAL)
    assert key.parent_id == attest.span_id
    assert attest.parent_id == unseal.parent_id
    assert attest.started <= key.started <= key.ended <= attest.ended <= unseal.started
    assert not any(span.attributes or span.failed for span in sink.spans)


def test_each_attempt_to_attest_is_a_span(inside: Inside, broker: AttestBroker, example: Example) -> None:
    broker.behaviours = [refuse(final=False), grant]
    sink, settings = Sink(), measured_settings(inside.environment)
    keys, backoff = EnclaveKeys.create(example.release_id), Backoff(first=0.0, longest=0.0)
    Enclave(settings, keys, backoff=backoff, stages=Stages(sink)).attest("start")

    assert [(span.name, span.failed) for span in sink.spans] == [
        (SpanName.ATTEST, True), (SpanName.KEY, False), (SpanName.ATTEST, False),
    ]  # fmt: skip


def test_a_renewal_without_a_statement_keeps_the_former_one(inside: Inside, example: Example) -> None:
    enclave = Enclave(measured_settings(inside.environment), EnclaveKeys.create(example.release_id))
    grant = enclave.attest("renewal", limit=0).grant
    assert enclave.evidence(grant).statement == example.signed_statement

    later = enclave.evidence(grant.model_copy(update={"statement": None}))

    assert later.statement == example.signed_statement


def test_a_renewal_keeps_the_keys(inside: Inside, example: Example) -> None:
    keys = EnclaveKeys.create(example.release_id)
    enclave = Enclave(measured_settings(inside.environment), keys)

    renewed = enclave.attest("renewal", limit=0)

    assert renewed.key is None
    assert enclave.evidence(renewed.grant).keyset == keys.keyset
    with pytest.raises(ValueError, match="no key"):
        enclave.open_mounts(renewed)


def test_the_certificate_is_renewed_while_the_server_runs(
    inside: Inside, broker: AttestBroker, example: Example
) -> None:
    broker.hours = 3 / 3600
    enclave = Enclave(measured_settings(inside.environment), EnclaveKeys.create(example.release_id))
    granted = enclave.attest("start")
    chain = granted.grant.certificate_chain.encode()
    service = enclave.evidence(granted.grant)
    identity = ServiceIdentity(tls_key=enclave.keys.tls, certificate_chain=chain, service=service)
    key, renewing = identity.private_key_pem(), renewal(enclave, identity, granted)

    renewing.start()
    assert wait_until(lambda: identity.renewals > 0, seconds=60)
    broker.hours = 24
    renewing.stop()

    assert identity.certificate_chain != chain
    assert identity.private_key_pem() == key
    assert identity.failed_renewals == 0


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("SEALSERVE_ATTESTATION_DEVICE", None, "is missing"),
        ("SEALSERVE_ATTESTATION_DEVICE", "dev", "is invalid: got 'dev'"),
        ("SEALSERVE_RELEASE_ID", "A" * 64, "is invalid"),
        ("SECRET_PROVISION_CA_CHAIN_PATH", "/does/not/exist", "cannot be read"),
        ("SECRET_PROVISION_SET_KEY", "../quote", "is invalid"),
    ],
)
def test_a_wrong_variable_is_named(inside: Inside, name: str, value: str | None, problem: str) -> None:
    changed = {key: text for key, text in inside.environment.items() if key != name}
    with raises(AttesterCode.ENVIRONMENT, match=problem):
        measured_settings(changed if value is None else changed | {name: value})


@pytest.mark.parametrize(
    ("platform", "relay", "problem"),
    [
        ("sgx", f"4000/{'ab' * 32}", "only for simulated enclaves: .* got 'sgx'"),
        (None, f"4000/{'ab' * 32}", "only for simulated enclaves"),
        ("simulated", f"127.0.0.1:4000/{'ab' * 32}", "expected PORT/TOKEN"),
    ],
)
def test_a_quote_relay_is_only_for_simulated_enclaves(
    inside: Inside, platform: str | None, relay: str, problem: str
) -> None:
    changed = {"SEALSERVE_QUOTE_RELAY": relay} | ({} if platform is None else {"SEALSERVE_PLATFORM": platform})
    with raises(AttesterCode.ENVIRONMENT, match=problem) as caught:
        measured_settings({**inside.environment, **changed})

    assert "abab" not in f"{caught.value} {caught.value.hint}"


def test_a_list_without_brokers_is_refused(inside: Inside) -> None:
    with raises(EnclaveCode.PROVISIONING_SERVERS):
        measured_settings({**inside.environment, "SECRET_PROVISION_SERVERS": ""})


AUDITED = """
import sys
touched = []
def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("{mount}"):
        touched.append(arguments[0])
sys.addaudithook(note)
from sealserve.attester.program import attested_identity, main
from sealserve.attester import program
def stop(environment, stages):
    print("touched", touched)
    sys.exit(0)
program.attested_identity = stop
sys.exit(main(["--model_config_file={mount}/config/models.cfg", "--file_list={mount}/files.json",
               "--ssl_config_file={mount}/tls/clients.cfg", "--port=8500"]))
"""


def test_nothing_touches_the_encrypted_mount_before_the_key_is_there(tmp_path: Path) -> None:
    # Gramine remembers a failed look-up for good.
    code = AUDITED.replace("{mount}", str(tmp_path))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert found.stdout == "touched []\n"


@pytest.mark.tensorflow
def test_tensorflows_library_signs_the_receipts_of_an_enclave(inside: Inside) -> None:
    identity = attested_identity(inside.environment)
    receipts = identity._receipts
    assert receipts._sign != receipts._identity.sign
    assert receipts._sign(b"receipt") == receipts._identity.sign(b"receipt")
