import base64
import hashlib
import logging
import sqlite3
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, delete, insert, select, text
from tests.harness.broker_databases import ONLY_POSTGRESQL, ONLY_SQLITE
from tests.harness.errors import raises
from tests.harness.postgresql import Server

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.presets import CLOUD_SMT, STRICT
from sealserve.attestation.ra_tls import RaTlsKeyPair, parse_certificate
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.attestation.tcb_policy import GracePeriod, TcbPolicy
from sealserve.broker import admin, audit, decision_records, refusal_lines
from sealserve.broker.appraised import BrokerInternalError
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.keystore import Keystore
from sealserve.broker.limiter import Rate
from sealserve.broker.releases import PRODUCT_LABEL, Release, ReleaseId
from sealserve.broker.stored_key import StoredKey
from sealserve.broker.tables import AUDIT, REFERENCE_VALUES
from sealserve.broker.tls import HandshakeError, PeerGoneError, PeerTimeoutError
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import PckCa, PckChain, PckExtension
from sealserve.sgx.quote import Quote
from sealserve.sgx.reference_values import ProductReferenceValues, ReferenceValues
from sealserve.sgx.report import Attributes, MrEnclave, MrSigner
from sealserve.sgx.simulated.attacks import forged_collateral
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.sgx.verifier import SgxVerifier, TrustedVendor
from sealserve.terms import CollateralUpdate, PlatformKind


class Stage(Protocol):
    """The attributes of `conftest.Stage` that these tests use."""

    database: Database
    keystore: Keystore
    vendor: Vendor
    platform: SimulatedPlatform
    source: Any
    made: Any
    release: Release
    now: datetime
    folder: Any

    def trusted(self) -> TrustedVendor: ...
    def broker(self, **changes: Any) -> Broker: ...
    def ratls(self, platform: SimulatedPlatform | None = None, **changes: Any) -> RaTlsKeyPair: ...
    def allow(self, release: Release, *references: ReferenceValues, reactivate: bool = False) -> None: ...
    def rows(self) -> list[audit.AuditRow]: ...


def _with(release: Release, **rules: Any) -> Release:
    return replace(release, policy=replace(release.policy, **rules))


PEER = "192.0.2.1:40000"
REFERENCE = ReferenceValues(
    mr_enclave=MrEnclave(b"\x01" * 32), mr_signer=MrSigner(b"\x02" * 32), isv_prod_id=1, isv_svn=2
)


def _refused(stage: Stage, certificate: bytes, code: str, message: str, broker: Broker | None = None) -> Entry:
    with pytest.raises(SealserveError, match=message) as caught:
        (broker or stage.broker()).release_key(certificate, peer=PEER)
    assert caught.value.code == code
    entry = stage.rows()[-1].entry
    assert (entry.decision, entry.code, entry.peer) == ("refused", code, PEER)
    assert entry.detail == caught.value.message
    return entry


def test_an_expected_enclave_gets_the_key_and_one_row(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    certificate = stage.ratls().certificate
    key = stage.broker().release_key(certificate, peer=PEER)
    assert key == stage.made.key
    allowed, released = stage.rows()
    assert allowed.entry.decision == "allowed"
    assert released.entry == Entry(
        time=stage.now,
        peer=PEER,
        decision=Decision.RELEASED,
        code="ok",
        release_id="a" * 64,
        platform="simulated",
        mr_enclave="01" * 32,
        mr_signer="02" * 32,
        platform_id=stage.platform.platform_id,
        tcb_status="UpToDate",
        advisories="",
        quote_digest=hashlib.sha256(parse_certificate(certificate).quote).hexdigest(),
        claims=released.entry.claims,  # see test_a_row_records_the_facts_that_a_policy_checks
    )
    assert f"released the key of resnet50 (aaaaaaaaaaaa, simulated) to {PEER}" in caplog.text


def test_the_key_is_nowhere_but_in_the_answer(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = stage.broker().release_key(stage.ratls().certificate, peer=PEER).reveal()
    _refused(stage, stage.ratls(isv_svn=1).certificate, "policy.isv-svn", "at least 2, got 1")
    everything = caplog.text.encode() + repr(stage.rows()).encode()
    everything += b"".join(path.read_bytes() for path in stage.folder.glob("broker.sqlite*"))
    for form in (key, key.hex().encode(), base64.b64encode(key).rstrip(b"="), base64.urlsafe_b64encode(key)):
        assert form not in everything


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"mr_enclave": MrEnclave(b"\x09" * 32)}, "policy.mr-enclave-unknown", "No registered release has an enclave"),
        ({"mr_signer": MrSigner(b"\x09" * 32)}, "policy.mr-signer", "expected MRSIGNER"),
        ({"isv_prod_id": 9}, "policy.isv-prod-id", "expected ISVPRODID 1, got 9"),
        ({"isv_svn": 1}, "policy.isv-svn", "expected ISVSVN at least 2, got 1"),
        ({"attributes": Attributes(flags=0x15, xfrm=0xE7)}, "policy.attributes", "flags 0x5"),
        ({"attributes": Attributes(flags=0x7, xfrm=0xE7)}, "quote.debug", "debug"),
    ],
)
def test_another_enclave_gets_nothing(stage: Stage, changes: dict[str, Any], code: str, message: str) -> None:
    entry = _refused(stage, stage.ratls(**changes).certificate, code, message)
    assert entry.mr_enclave == changes.get("mr_enclave", b"\x01" * 32).hex()


def test_what_strangers_say_makes_the_broker_fetch_nothing(stage: Stage) -> None:
    unknown = stage.ratls(mr_enclave=MrEnclave(b"\x09" * 32)).certificate
    other = Vendor.create(stage.folder / "other-vendor", now=stage.now)
    foreign = stage.ratls(SimulatedPlatform.create(other, stage.folder / "other", now=stage.now)).certificate
    _refused(stage, unknown, "policy.mr-enclave-unknown", "No registered release")
    _refused(stage, foreign, "pck.root-not-trusted", "does not end at the trusted root: expected")
    assert stage.source.asked == 0


def test_what_anybody_can_send_has_few_lines_and_few_rows_and_the_rest_is_counted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refusal_lines, "LINES_OF_EACH", Rate(burst=3, seconds=60))
    monkeypatch.setattr(decision_records, "EARLY_ROWS_OF_EACH", Rate(burst=2, seconds=60))
    broker, pair = stage.broker(), stage.ratls()
    found = parse_certificate(pair.certificate).quote
    no_quote = pair.certificate.replace(found, bytes(len(found)))
    for _ in range(200):
        with pytest.raises(
            SealserveError,
            match=r"The RA-TLS certificate cannot be parsed: error parsing asn1 value: ParseError \{ kind: "
            r"ShortData \{ needed: 92 \} \}",
        ):
            broker.release_key(b"garbage", peer=PEER)
        with pytest.raises(SealserveError, match="version"):
            broker.release_key(no_quote, peer=PEER)
        broker.turn_away(HandshakeError("a test"), peer=PEER)
    rows = [row.entry for row in stage.rows()[1:]]
    assert [(row.decision, row.code, row.peer) for row in rows] == [
        ("refused", "ra-tls.certificate", PEER),
        ("refused", "quote.version", PEER),
    ]
    assert "cannot be parsed" in rows[0].detail
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert f"refused {PEER}: [ra-tls.certificate] " in lines[0]
    broker.settle()
    assert "597 further refusals of 192.0.2.1 since" in caplog.text
    assert "199 ra-tls.certificate, 199 quote.version, 199 broker.handshake" in caplog.text
    (several,) = (row.entry for row in stage.rows()[3:])
    assert several.code == decision_records.SEVERAL
    assert several.detail.endswith("200 broker.handshake, 199 ra-tls.certificate, 199 quote.version")


@pytest.mark.parametrize(
    "error", [PeerGoneError("gone"), PeerTimeoutError("slow"), AttestationCode.BROKER_NO_TRUST_ANCHOR.error("a test")]
)
def test_a_peer_that_shows_nothing_is_logged_and_no_row(
    stage: Stage, error: SealserveError, caplog: pytest.LogCaptureFixture
) -> None:
    stage.broker().turn_away(error, peer=PEER)
    assert len(stage.rows()) == 1
    assert f"[{error.code}]" in caplog.text


def test_strangers_without_a_quote_do_not_take_the_rows_of_enclaves(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_records, "EARLY_ROWS_OF_EACH", Rate(burst=2, seconds=60))
    monkeypatch.setattr(decision_records, "EARLY_ROWS_OF_ALL", Rate(burst=5, seconds=60))
    broker = stage.broker()
    for number in range(1000):
        broker.turn_away(HandshakeError("a test"), peer=f"198.51.{number // 250}.{number % 250}:1")
    assert len(stage.rows()) == 1 + 5
    with pytest.raises(SealserveError, match=r"No registered release has an enclave with MRENCLAVE [0-9a-f]{64}"):
        broker.release_key(stage.ratls(mr_enclave=MrEnclave(b"\x09" * 32)).certificate, peer="198.51.0.0:1")
    assert stage.rows()[-1].entry.code == "policy.mr-enclave-unknown"
    assert broker.release_key(stage.ratls().certificate, peer="198.51.0.0:1") == stage.made.key
    assert len(stage.rows()) == 1 + 5 + 2


def test_one_address_has_so_many_rows_and_the_others_are_counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_records, "ROWS_OF_EACH", Rate(burst=3, seconds=60))
    now = [stage.now]
    broker = stage.broker(clock=lambda: now[0])
    unknown = stage.ratls(mr_enclave=MrEnclave(b"\x09" * 32)).certificate

    def refuse(times: int, peer: str) -> None:
        for _ in range(times):
            with pytest.raises(
                SealserveError, match=r"No registered release has an enclave with MRENCLAVE [0-9a-f]{64}"
            ):
                broker.release_key(unknown, peer=peer)

    refuse(10, PEER)
    assert len(stage.rows()) == 1 + 3
    now[0] += timedelta(seconds=61)
    refuse(1, PEER)  # has its own row again, after a row for the counted refusals
    several, written = (row.entry for row in stage.rows()[-2:])
    assert (several.decision, several.code, several.peer) == ("refused", decision_records.SEVERAL, "192.0.2.1")
    assert several.detail == (
        "7 further refusals of 192.0.2.1 since 2026-11-23T12:00:00+00:00 were not recorded separately:"
        " 7 policy.mr-enclave-unknown"
    )
    assert (written.code, written.peer) == ("policy.mr-enclave-unknown", PEER)
    refuse(2, PEER)
    refuse(5, "[2001:db8::1]:7")
    for _ in range(20):  # each released key has its own row
        assert broker.release_key(stage.ratls().certificate, peer=PEER) == stage.made.key
    codes = [row.entry.code for row in stage.rows()[6:]]
    single = ["policy.mr-enclave-unknown"] * 3
    assert codes == [decision_records.SEVERAL, *single, decision_records.SEVERAL] + ["ok"] * 20
    refuse(4, "[2001:db8::2]:7")  # the same /64
    broker.settle()
    assert stage.rows()[-1].entry.peer == "2001:db8::/64"
    assert stage.rows()[-1].entry.detail.startswith("4 further refusals of 2001:db8::/64 since")


def test_a_count_that_could_not_be_written_is_written_later(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_records, "ROWS_OF_EACH", Rate(burst=0, seconds=60))
    broker = stage.broker()
    with pytest.raises(SealserveError, match="ISVSVN"):
        broker.release_key(stage.ratls(isv_svn=1).certificate, peer=PEER)
    append, calls = audit.append, [0]

    def fail_once(connection: Connection, entry: Entry) -> audit.AuditRow:
        calls[0] += 1
        if calls[0] == 1:
            raise BrokerCode.DATABASE.error("disk full")
        return append(connection, entry)

    monkeypatch.setattr(audit, "append", fail_once)
    with raises(BrokerCode.DATABASE, match="disk full"):
        broker.settle()
    broker.settle()
    assert stage.rows()[-1].entry.detail.endswith(": 1 policy.isv-svn")


def test_a_quote_of_another_certificate_is_refused(stage: Stage) -> None:
    stolen = parse_certificate(stage.ratls().certificate).quote
    pair = stage.ratls()
    swapped = pair.certificate.replace(parse_certificate(pair.certificate).quote, stolen)
    _refused(stage, swapped, "ra-tls.binding", "not bound to the RA-TLS certificate: expected report data")


def test_a_bit_of_the_quote_flipped_is_refused(stage: Stage) -> None:
    pair = stage.ratls()
    found = parse_certificate(pair.certificate).quote
    flipped = bytearray(found)
    flipped[440] ^= 1  # a byte of the signature
    _refused(
        stage, pair.certificate.replace(found, bytes(flipped)), "quote.signature", "attestation key did not sign it"
    )


def test_an_out_of_date_platform_is_refused_with_its_status(stage: Stage) -> None:
    old = SimulatedPlatform.create(stage.vendor, stage.folder / "old", now=stage.now, out_of_date=True)
    entry = _refused(stage, stage.ratls(old).certificate, "policy.tcb-status", "TCB status is OutOfDate \\(SIMULATED")
    assert (entry.tcb_status, entry.platform_id) == ("OutOfDate", old.platform_id)
    assert entry.advisories


def test_an_advisory_decides_by_the_releases_own_policy(stage: Stage) -> None:
    level = stage.vendor._read().levels
    ((kind, levels),) = level.items()
    hardening = levels[0].model_copy(
        update={"status": TcbStatus.SW_HARDENING_NEEDED, "advisory_ids": ("INTEL-SA-00615", "INTEL-SA-00334")}
    )
    stage.vendor.publish_levels([hardening], fmspc=kind)
    certificate = stage.ratls().certificate
    _refused(stage, certificate, "policy.tcb-status", "SWHardeningNeeded \\(INTEL-SA-00334, INTEL-SA-00615\\)")
    stage.allow(_with(stage.release, tcb=CLOUD_SMT), reactivate=True)
    _refused(stage, certificate, "policy.advisory", "because of INTEL-SA-00334, but the policy 'cloud-smt'")
    own = TcbPolicy(
        name="mine",
        accept={status: found | {"INTEL-SA-00334"} for status, found in CLOUD_SMT.accept.items()},
    )
    stage.allow(_with(stage.release, tcb=own), reactivate=True)
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key


def test_forged_tcb_info_is_refused_and_forgotten(stage: Stage) -> None:
    old = SimulatedPlatform.create(stage.vendor, stage.folder / "old", now=stage.now, out_of_date=True)

    def forge() -> Collateral:
        return forged_collateral(stage.vendor.collateral(now=stage.now), old)

    stage.source.answer = forge
    _refused(
        stage, stage.ratls(old).certificate, "collateral.signer-not-tcb-signing", "expected the signer .SGX TCB Signing"
    )
    assert stage.source.forgotten == 1


def test_older_collateral_than_seen_before_is_refused(stage: Stage) -> None:
    old = stage.vendor.collateral(now=stage.now)
    ((kind, levels),) = stage.vendor._read().levels.items()
    stage.vendor.publish_levels(levels, fmspc=kind)
    broker, certificate = stage.broker(), stage.ratls().certificate
    assert broker.release_key(certificate, peer=PEER) == stage.made.key
    assert admin.status(stage.database).evaluation_floor == {"simulated": 18}
    stage.source.answer = lambda: old
    _refused(
        stage,
        certificate,
        "collateral.rolled-back",
        "TCB info for FMSPC 5EA15E000000.*at least 18, got 17.*QE identity has number 17",
        broker,
    )


def test_the_update_channels_have_floors_of_their_own(stage: Stage) -> None:
    """After a TCB recovery, the early channel is ahead. Its number must not refuse the standard documents."""
    certificate, standard = stage.ratls().certificate, stage.vendor.collateral(now=stage.now)
    ((kind, levels),) = stage.vendor._read().levels.items()
    stage.vendor.publish_levels(levels, fmspc=kind)
    vendor = replace(stage.trusted(), update=CollateralUpdate.EARLY)
    early = stage.broker(verifier=SgxVerifier({PlatformKind.SIMULATED: vendor}))
    assert early.release_key(certificate, peer=PEER) == stage.made.key
    assert admin.status(stage.database).evaluation_floor == {"simulated-early": 18}
    stage.source.answer = lambda: standard
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key
    assert admin.status(stage.database).evaluation_floor == {"simulated": 17, "simulated-early": 18}
    _refused(stage, certificate, "collateral.rolled-back", "at least 18, got 17", early)


def test_a_row_records_the_facts_that_a_policy_checks(stage: Stage) -> None:
    stage.broker().release_key(stage.ratls().certificate, peer=PEER)
    claims = stage.rows()[-1].entry.claims
    assert claims == {
        "fmspc": "5EA15E000000",
        "cpu_svn": "09090303ffff01000000000000000000",
        "pce_svn": 15,
        "qe_svn": 8,
        "tcb_date": "2025-05-14T00:00:00Z",
        "tcb_evaluation_number": 17,
        "collateral_issued": "2026-11-23T12:00:00Z",
        "isv_prod_id": 1,
        "isv_svn": 2,
        "misc_select": 0,
        "kss": 0,
    }
    _refused(stage, stage.ratls(isv_svn=1).certificate, "policy.isv-svn", "ISVSVN")
    assert stage.rows()[-1].entry.claims["isv_svn"] == 1


def test_a_grace_period_after_a_tcb_recovery(stage: Stage) -> None:
    certificate = stage.ratls().certificate
    grace = GracePeriod(days=30, accept={TcbStatus.OUT_OF_DATE: "any"})
    stage.allow(_with(stage.release, tcb=replace(STRICT, name="mine", grace=grace)), reactivate=True)
    dated = stage.now - timedelta(days=30)
    stage.vendor.recover_tcb(tcb_date=f"{dated + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}")
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key
    row = stage.rows()[-1].entry
    assert (row.tcb_status, row.claims["tcb_superseded"]) == ("OutOfDate", "2026-10-24T12:00:01Z")
    later = stage.now + timedelta(seconds=1)
    _refused(stage, certificate, "policy.tcb-grace", "grace period of 30 days ended", stage.broker(clock=lambda: later))


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"least_evaluation_number": 18}, "policy.evaluation-number"),
        ({"least_tcb_date": date(2025, 5, 15)}, "policy.tcb-date"),
        ({"allowed_platforms": frozenset({"ab" * 16})}, "policy.platform-not-allowed"),
        ({"evidence_rules": '{"sgx":{"fmspc_deny":["5EA15E000000"]}}'}, "policy.fmspc"),
        ({"evidence_rules": '{"sgx":{"kss":true}}'}, "policy.kss"),
        ({"evidence_rules": '{"sgx":{"misc_select":1}}'}, "policy.misc-select"),
        ({"evidence_rules": '{"tdx":{}}'}, "policy.evidence-rules"),
    ],
)
def test_each_rule_of_a_policy_refuses(stage: Stage, rules: dict[str, Any], code: str) -> None:
    stage.allow(_with(stage.release, **rules), reactivate=True)
    _refused(stage, stage.ratls().certificate, code, ".")


def _allow_product(stage: Stage, release: Release, **changes: Any) -> None:
    product = ProductReferenceValues(mr_signer=MrSigner(b"\x02" * 32), isv_prod_id=1, isv_svn=2)
    references = {"replica-0": changes.pop("reference", REFERENCE), PRODUCT_LABEL: replace(product, **changes)}
    admin.allow(stage.database, release, references, now=stage.now, reactivate=True)


OTHER = MrEnclave(b"\x09" * 32)


def test_a_dangerous_signer_accepts_enclaves_that_are_not_registered(stage: Stage) -> None:
    certificate = stage.ratls(mr_enclave=OTHER).certificate
    _refused(stage, certificate, "policy.mr-enclave-unknown", f"MRENCLAVE {OTHER.hex()}")
    _allow_product(stage, stage.release)
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key
    assert stage.rows()[-1].entry.mr_enclave == OTHER.hex()
    # The registered enclave still has its exact reference values.
    assert stage.broker().release_key(stage.ratls().certificate, peer=PEER) == stage.made.key
    for changes, code in (
        ({"isv_svn": 1}, "policy.isv-svn"),
        ({"isv_prod_id": 2}, "policy.mr-enclave-unknown"),
        ({"mr_signer": MrSigner(b"\x03" * 32)}, "policy.mr-enclave-unknown"),
        ({"attributes": Attributes(flags=0x7, xfrm=0xE7)}, "quote.debug"),
        ({"attributes": Attributes(flags=0x15, xfrm=0xE7)}, "policy.attributes"),
    ):
        _refused(stage, stage.ratls(mr_enclave=OTHER, **changes).certificate, code, ".")
    # The other rules of the policy apply, too, and a revoked release stays revoked.
    stage.allow(_with(stage.release, denied_platforms=frozenset({stage.platform.platform_id})), reactivate=True)
    _allow_product(stage, _with(stage.release, denied_platforms=frozenset({stage.platform.platform_id})))
    _refused(stage, certificate, "policy.platform-denied", stage.platform.platform_id)
    admin.revoke(stage.database, "resnet50", now=stage.now)
    _refused(stage, certificate, "policy.release-revoked", "revoked")


def test_a_policy_without_a_dangerous_signer_ends_the_acceptance(stage: Stage) -> None:
    certificate = stage.ratls(mr_enclave=OTHER).certificate
    _allow_product(stage, stage.release)
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key
    stage.allow(stage.release, reactivate=True)
    _refused(stage, certificate, "policy.mr-enclave-unknown", f"MRENCLAVE {OTHER.hex()}")
    assert [item.label for item in admin.find_release(stage.database, "resnet50").enclaves] == ["replica-0"]


def test_an_ended_acceptance_of_a_signer_cannot_be_put_back(stage: Stage) -> None:
    certificate = stage.ratls(mr_enclave=OTHER).certificate
    _allow_product(stage, stage.release)
    query = select(REFERENCE_VALUES).where(REFERENCE_VALUES.c.label == PRODUCT_LABEL)
    with stage.database.read() as connection:
        row = connection.execute(query).one()._asdict()
    stage.allow(stage.release, reactivate=True)
    assert admin.verify_log(stage.database).not_compared == ()
    with stage.database.write() as connection:
        connection.execute(insert(REFERENCE_VALUES).values(row))
    _refused(stage, certificate, "broker.database-authentication", "because audit row 5 records a later change")
    with raises(BrokerCode.AUDIT_STATE, match="reference_values .*: the log does not record this row"):
        admin.verify_log(stage.database)


def test_the_release_that_was_registered_last_has_the_signer(stage: Stage) -> None:
    _allow_product(stage, stage.release)
    made = stage.keystore.create(stage.database, now=stage.now)
    second = replace(stage.release, release_id=ReleaseId("b" * 64), name="second", key_id=made.key_id)
    _allow_product(stage, second, reference=replace(REFERENCE, mr_enclave=MrEnclave(b"\x05" * 32)))
    certificate = stage.ratls(mr_enclave=OTHER).certificate
    assert stage.broker().release_key(certificate, peer=PEER) == made.key
    assert stage.broker().release_key(stage.ratls().certificate, peer=PEER) == stage.made.key
    # A measurement is still registered for one release only.
    with raises(BrokerCode.RELEASE_CONFLICT):
        _allow_product(stage, replace(second, release_id=ReleaseId("c" * 64), name="third"))


def test_the_evaluation_floor_rises_even_when_the_policy_refuses(stage: Stage) -> None:
    _refused(stage, stage.ratls(isv_svn=1).certificate, "policy.isv-svn", "ISVSVN")
    assert admin.status(stage.database).evaluation_floor == {"simulated": 17}


def test_collateral_that_cannot_be_had_is_a_refusal(stage: Stage) -> None:
    def unreachable() -> Collateral:
        raise SgxCode.PCS_UNREACHABLE.error("http://127.0.0.1:1: no answer.")

    stage.source.answer = unreachable
    entry = _refused(stage, stage.ratls().certificate, "pcs.unreachable", "no answer")
    assert entry.release_id == "a" * 64


def test_a_revoked_platform_is_refused(stage: Stage) -> None:
    stage.vendor.revoke(stage.platform.chain.leaf.serial_number)
    _refused(stage, stage.ratls().certificate, "pck.revoked", "is revoked")


def test_a_revoked_release_gives_no_key(stage: Stage) -> None:
    admin.revoke(stage.database, "resnet50", now=stage.now)
    _refused(stage, stage.ratls().certificate, "policy.release-revoked", "The release of this enclave is revoked")
    assert stage.source.asked == 0


def test_a_draining_release_gives_its_key_until_the_deadline(stage: Stage) -> None:
    admin.drain(stage.database, "resnet50", deadline=stage.now + timedelta(hours=1), now=stage.now)
    certificate = stage.ratls().certificate
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key
    late = stage.broker(clock=lambda: stage.now + timedelta(hours=1))
    _refused(stage, certificate, "policy.release-draining-ended", "draining until 2026-11-23T13:00:00", late)


def test_a_release_revoked_during_the_appraisal_gives_no_key(stage: Stage) -> None:
    def revoke_meanwhile() -> Collateral:
        admin.revoke(stage.database, "resnet50", now=stage.now)
        return stage.vendor.collateral(now=stage.now)

    stage.source.answer = revoke_meanwhile
    _refused(stage, stage.ratls().certificate, "policy.release-revoked", "The release of this enclave is revoked")
    assert [row.entry.decision for row in stage.rows()] == ["allowed", "revoked", "refused"]


def test_a_key_that_is_not_granted_is_wiped(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[SecretBytes] = []
    decrypt = Keystore.decrypt

    def keep(keystore: Keystore, stored: StoredKey) -> SecretBytes:
        loaded.append(decrypt(keystore, stored))
        admin.revoke(stage.database, "resnet50", now=stage.now)
        return loaded[-1]

    monkeypatch.setattr(Keystore, "decrypt", keep)
    _refused(stage, stage.ratls().certificate, "policy.release-revoked", "The release of this enclave is revoked")
    assert [len(key) for key in loaded] == [0]


def test_a_release_for_enrolled_platforms(stage: Stage) -> None:
    stage.allow(_with(stage.release, enrolled_platforms_only=True), reactivate=True)
    certificate = stage.ratls().certificate
    _refused(stage, certificate, "policy.platform-unknown", f"platform {stage.platform.platform_id} is not enrolled")
    admin.enrol_platform(
        stage.database, PlatformKind.SIMULATED, stage.platform.platform_id, label="the laptop", now=stage.now
    )
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key


def test_a_platform_that_is_withdrawn_meanwhile_gets_no_key(stage: Stage) -> None:
    stage.allow(_with(stage.release, enrolled_platforms_only=True), reactivate=True)
    platform_id = stage.platform.platform_id
    admin.enrol_platform(stage.database, PlatformKind.SIMULATED, platform_id, label="the laptop", now=stage.now)

    def withdrawn_while_fetching() -> Collateral:
        admin.withdraw_platform(stage.database, PlatformKind.SIMULATED, platform_id, now=stage.now)
        return stage.vendor.collateral(now=stage.now)

    stage.source.answer = withdrawn_while_fetching
    _refused(stage, stage.ratls().certificate, "policy.platform-unknown", f"platform {platform_id} is not enrolled")


def test_a_policy_that_is_stricter_meanwhile_counts(stage: Stage) -> None:
    def enrolled_only_while_fetching() -> Collateral:
        stage.allow(_with(stage.release, enrolled_platforms_only=True), reactivate=True)
        return stage.vendor.collateral(now=stage.now)

    stage.source.answer = enrolled_only_while_fetching
    _refused(stage, stage.ratls().certificate, "policy.platform-unknown", "is not enrolled")


def test_a_platform_of_the_processor_ca_has_an_identity_too(stage: Stage) -> None:
    single = SimulatedPlatform.create(stage.vendor, stage.folder / "single", now=stage.now, ca=PckCa.PROCESSOR)
    stage.source.answer = lambda: stage.vendor.collateral(ca=PckCa.PROCESSOR, now=stage.now)
    assert stage.broker().release_key(stage.ratls(single).certificate, peer=PEER) == stage.made.key
    assert stage.rows()[-1].entry.platform_id == single.chain.extension.ppid.hex()


def test_a_release_for_sgx_refuses_a_simulated_quote(stage: Stage) -> None:
    values = ReferenceValues(
        mr_enclave=MrEnclave(b"\x05" * 32), mr_signer=MrSigner(b"\x02" * 32), isv_prod_id=1, isv_svn=2
    )
    stage.allow(replace(stage.release, release_id=ReleaseId("b" * 64), name="real", platform=PlatformKind.SGX), values)
    certificate = stage.ratls(mr_enclave=values.mr_enclave).certificate
    _refused(stage, certificate, "broker.no-trust-anchor", "lacks a trust anchor for sgx releases")
    vendors = {
        PlatformKind.SIMULATED: stage.trusted(),
        PlatformKind.SGX: TrustedVendor(anchor=TrustAnchor.intel(), collateral=stage.source),
    }
    entry = _refused(
        stage,
        certificate,
        "policy.simulated-quote",
        "from a simulated platform",
        stage.broker(verifier=SgxVerifier(vendors)),
    )
    assert entry.platform == "sgx"
    assert stage.source.asked == 0


def test_an_anchor_of_the_wrong_kind_is_none(stage: Stage) -> None:
    vendors = {PlatformKind.SIMULATED: TrustedVendor(anchor=TrustAnchor.intel(), collateral=stage.source)}
    certificate = stage.ratls().certificate
    with raises(AttestationCode.BROKER_NO_TRUST_ANCHOR, match="The broker lacks a trust anchor for simulated releases"):
        stage.broker(verifier=SgxVerifier(vendors)).release_key(certificate, peer=PEER)


def test_what_nobody_foresaw_is_internal_and_gives_no_key(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Collateral:
        raise ZeroDivisionError("a detail")

    stage.source.answer = fail
    entry = _refused(stage, stage.ratls().certificate, "internal", r"internal error \(ZeroDivisionError\)")
    assert "a detail" not in entry.detail
    assert "ZeroDivisionError: a detail" in caplog.text
    assert BrokerInternalError.exit_status == 1


@ONLY_SQLITE
def test_a_key_that_is_gone_is_a_refusal(stage: Stage) -> None:
    with stage.database.write() as connection:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.execute(text("UPDATE keys SET wrapped = x'00'"))
    _refused(stage, stage.ratls().certificate, "keystore.unwrap", "cannot be decrypted")


@ONLY_SQLITE
def test_without_an_audit_row_no_key_leaves(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    other = sqlite3.connect(stage.folder / "broker.sqlite")
    try:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        other.commit()
    finally:
        other.close()
    with raises(BrokerCode.DATABASE, match="disk full") as caught:
        stage.broker().release_key(stage.ratls().certificate, peer=PEER)
    assert caught.value.code == "broker.database"
    assert "could not be written to the audit log" in caplog.text
    assert [row.entry.decision for row in stage.rows()] == ["allowed"]


@ONLY_SQLITE
def test_the_row_is_committed_before_the_key_is_returned(stage: Stage) -> None:
    key: SecretBytes = stage.broker().release_key(stage.ratls().certificate, peer=PEER)
    other = sqlite3.connect(stage.folder / "broker.sqlite")
    try:
        assert other.execute("SELECT count(*) FROM audit WHERE decision = 'released'").fetchone() == (1,)
    finally:
        other.close()
    assert len(key) == 16


@ONLY_POSTGRESQL
def test_without_an_audit_row_on_the_server_no_key_leaves(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with stage.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE audit ADD CONSTRAINT no_key CHECK (decision != 'released')")
    try:
        with raises(BrokerCode.DATABASE, match="no_key"):
            stage.broker().release_key(stage.ratls().certificate, peer=PEER)
    finally:
        with stage.database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE audit DROP CONSTRAINT no_key")
    assert "could not be written" not in caplog.text
    assert [row.entry.code for row in stage.rows()] == ["ok", "broker.database"]


@ONLY_POSTGRESQL
def test_the_row_is_on_the_server_before_the_key_is_returned(stage: Stage, postgresql: Server) -> None:
    with stage.broker().release_key(stage.ratls().certificate, peer=PEER) as key:
        assert postgresql.shared is not None
        with postgresql.administer(postgresql.shared) as other:
            query = "SELECT count(*) FROM audit WHERE decision = 'released'"
            assert other.execute(query).fetchone() == (1,)
        assert len(key) == 16


def test_a_row_names_the_broker_that_decided(stage: Stage) -> None:
    stage.broker(name="broker-2").release_key(stage.ratls().certificate, peer=PEER).wipe()
    stage.broker(name="broker-3").turn_away(BrokerCode.CANNOT_LISTEN.error("x"), peer=PEER)
    assert [row.entry.broker for row in stage.rows()] == [None, "broker-2", "broker-3"]


def test_a_clock_that_jumps_breaks_neither_the_log_nor_a_deadline(stage: Stage) -> None:
    """The order of the log is the order of its rows. A deadline is compared with the broker's own clock."""
    admin.drain(stage.database, stage.release.name, deadline=stage.now + timedelta(hours=1), now=stage.now)
    expected: dict[timedelta, Any] = {
        timedelta(minutes=30): None,
        timedelta(hours=2): BrokerCode.POLICY_RELEASE_DRAINING_ENDED,
        timedelta(minutes=10): None,
        timedelta(minutes=-30): SgxCode.COLLATERAL_NOT_YET_VALID,
        timedelta(minutes=20): None,
    }
    for jump, refusal in expected.items():
        broker = stage.broker(clock=lambda jump=jump: stage.now + jump)
        if refusal is None:
            broker.release_key(stage.ratls().certificate, peer=PEER).wipe()
        else:
            with raises(refusal):
                broker.release_key(stage.ratls().certificate, peer=PEER)
    times = [row.entry.time for row in stage.rows()]  # the chain verifies
    assert times != sorted(times)


def test_the_heads_are_signed_now_and_then_and_on_request(stage: Stage) -> None:
    signer = Ed25519PrivateKey.generate()
    broker = stage.broker(signer=signer)
    certificate = stage.ratls(mr_enclave=MrEnclave(b"\x09" * 32)).certificate
    for host in range(64):
        with pytest.raises(SealserveError, match=r"No registered release has an enclave with MRENCLAVE [0-9a-f]{64}"):
            broker.release_key(certificate, peer=f"192.0.2.{host}:1")
    with stage.database.read() as connection:
        assert [head.seq for head in audit.heads(connection)] == [64]
        assert audit.verify_chain(connection, signer.public_key())[0] == 65
    broker.sign_head()
    stage.broker().sign_head()  # has no effect without a signer
    with stage.database.write() as connection:
        assert [head.seq for head in audit.heads(connection)] == [64, 65]
        connection.execute(delete(AUDIT).where(AUDIT.c.seq == 65))
    with raises(BrokerCode.AUDIT_TRUNCATED):
        admin.verify_log(stage.database, signer.public_key())


def test_each_signed_head_is_kept_once_it_is_committed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[audit.Head] = []
    monkeypatch.setattr(decision_records, "_ROWS_PER_HEAD", 2)

    def keep(head: audit.Head) -> None:
        with stage.database.read() as connection:  # another transaction sees the row
            audit.check_holds(connection, head)
        kept.append(head)

    broker = stage.broker(signer=Ed25519PrivateKey.generate(), keep=keep)
    broker.release_key(stage.ratls().certificate, peer="p")  # rows 2 (the evaluation floor) and 3
    assert kept == []
    broker.release_key(stage.ratls().certificate, peer="p")
    assert [head.seq for head in kept] == [4]
    broker.release_key(stage.ratls().certificate, peer="p")
    broker.settle()
    assert [head.seq for head in kept] == [4, 5]


@pytest.mark.parametrize(
    "failure", [OSError("read-only"), BrokerCode.AUDIT_TRUNCATED.error("Row 2 is missing.")], ids=type
)
def test_a_head_that_cannot_be_kept_is_logged_and_keys_go_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    def keep(_head: audit.Head) -> None:
        raise failure

    monkeypatch.setattr(decision_records, "_ROWS_PER_HEAD", 1)
    broker = stage.broker(signer=Ed25519PrivateKey.generate(), keep=keep)
    assert broker.release_key(stage.ratls().certificate, peer="p")
    assert "at row 3 could not be stored outside the database" in caplog.text


def test_a_request_parses_its_quote_and_its_pck_chain_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[str] = Counter()

    def count(kind: type[Any]) -> None:
        parse = kind.parse

        def counting(raw: bytes) -> Any:
            counted[kind.__name__] += 1
            return parse(raw)

        monkeypatch.setattr(kind, "parse", counting)

    certificate = stage.ratls().certificate
    for kind in (Quote, PckChain, PckExtension):
        count(kind)
    assert stage.broker().release_key(certificate, peer=PEER) == stage.made.key
    assert counted == {"Quote": 1, "PckChain": 1, "PckExtension": 1}


@ONLY_SQLITE
@pytest.mark.parametrize(
    "change",
    ["'{}'", "json_set(reference, '$.mr_signer', 'no hex')", "json_set(reference, '$.xfrm', 3)",
     "json_remove(reference, '$.isv_svn')", "json_set(reference, '$.isv_svn', 'many')"],
)  # fmt: skip
def test_reference_values_that_somebody_changed_give_no_key(stage: Stage, change: str) -> None:
    stage.database.history = None  # otherwise the tag of the row is wrong
    with stage.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE reference_values SET reference = {change}")  # noqa: S608  # of this test
    _refused(
        stage, stage.ratls().certificate, "broker.database-content", "table reference_values .* has invalid content"
    )


@ONLY_SQLITE
def test_reference_values_under_another_measurement_give_no_key(stage: Stage) -> None:
    stage.database.history = None  # otherwise the tag of the row is wrong
    with stage.database.write() as connection:
        connection.exec_driver_sql("UPDATE reference_values SET measurement = ?", ("09" * 32,))
    other = stage.ratls(mr_enclave=MrEnclave(b"\x09" * 32)).certificate
    _refused(stage, other, "policy.mr-enclave-unknown", f"expected MRENCLAVE {'01' * 32}, got {'09' * 32}")


def test_the_release_decides_the_form_of_the_key(stage: Stage) -> None:
    stage.allow(replace(stage.release, secret_form=SecretForm.STRING), reactivate=True)
    secret = stage.broker().release_key(stage.ratls().certificate, peer="p")
    assert secret.reveal() == stage.made.key.reveal().hex().encode() + b"\0"
    stage.allow(stage.release, reactivate=True)
    assert stage.broker().release_key(stage.ratls().certificate, peer="p") == stage.made.key


def test_the_form_of_the_key_changes_only_on_request(stage: Stage) -> None:
    with raises(BrokerCode.RELEASE_CONFLICT, match="with the secret form raw, but now has string"):
        stage.allow(replace(stage.release, secret_form=SecretForm.STRING))


def test_a_changed_form_of_the_key_is_found(stage: Stage) -> None:
    with stage.database.write() as connection:
        connection.exec_driver_sql("UPDATE releases SET secret_form = 'string'")
    with raises(BrokerCode.DATABASE_AUTHENTICATION):
        stage.broker().release_key(stage.ratls().certificate, peer="p")
    with raises(BrokerCode.AUDIT_STATE, match="secret_form is string, but audit row 1 records raw"):
        admin.verify_log(stage.database)
