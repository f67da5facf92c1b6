import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.broker import admin
from sealserve.broker.codes import BrokerCode
from sealserve.broker.head_file import read_head
from sealserve.broker.releases import ReleaseUnknownError
from sealserve.cli.broker_json import encode
from sealserve.sgx.report import MrEnclave
from sealserve.terms import PlatformKind


def test_what_the_owner_sees_is_ready_for_json(stage: Any) -> None:
    (release,) = admin.every_release(stage.database)
    shown = json.loads(json.dumps(encode(release)))
    assert shown == {
        "release_id": "a" * 64,
        "name": "resnet50",
        "platform": "simulated",
        "state": "active",
        "deadline": None,
        "tcb_policy": "strict",
        "enrolled_platforms_only": False,
        "manual_approval": False,
        "key_id": stage.made.key_id,
        "secret_form": "raw",
        "created": "2026-11-23T12:00:00+00:00",
        "enclaves": [
            {
                "label": "replica-0",
                "mr_enclave": "01" * 32,
                "mr_signer": "02" * 32,
                "isv_prod_id": 1,
                "isv_svn": 2,
            }
        ],
    }


def test_each_change_of_the_owner_is_in_the_log(stage: Any) -> None:
    deadline = stage.now + timedelta(hours=1)
    assert admin.drain(stage.database, "resnet50", deadline=deadline, now=stage.now).release.state == "draining"
    stage.allow(stage.release, reactivate=True)
    assert admin.revoke(stage.database, "a" * 8, now=stage.now).release.state == "revoked"
    admin.enrol_platform(stage.database, PlatformKind.SIMULATED, "ab" * 16, label="rack 1", now=stage.now)
    lines = admin.log(stage.database)
    assert [(line.seq, line.entry.peer, line.entry.decision, line.entry.code, line.entry.detail) for line in lines] == [
        (1, "owner", "allowed", "ok", "replica-0"),
        (2, "owner", "draining", "ok", "until 2026-11-23T13:00:00+00:00"),
        (3, "owner", "reactivated", "ok", "with the TCB policy strict"),
        (4, "owner", "revoked", "ok", ""),
        (5, "owner", "enrolled", "ok", "rack 1"),
    ]
    assert [line.seq for line in admin.log(stage.database, last=1)] == [5]
    json.dumps([encode(line) for line in lines])


def test_a_change_that_is_refused_leaves_no_row(stage: Any) -> None:
    with pytest.raises(ReleaseUnknownError, match="The release 'other' is not registered with the broker"):
        admin.revoke(stage.database, "other", now=stage.now)
    assert len(admin.log(stage.database)) == 1


def test_status_counts(stage: Any) -> None:
    broker = stage.broker()
    broker.release_key(stage.ratls().certificate, peer="p")
    for _ in range(2):
        with raises(AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN):
            broker.release_key(stage.ratls(mr_enclave=MrEnclave(b"\x09" * 32)).certificate, peer="p")
    status = admin.status(stage.database)
    assert status.keys == 1
    assert status.releases == {"active": 1}
    assert status.decisions == {"allowed": 1, "floor-raised": 1, "refused": 2, "released": 1}
    assert status.refusals == {"policy.mr-enclave-unknown": 2}
    assert status.evaluation_floor == {"simulated": 17}
    assert status.audit_rows == 5
    json.dumps(encode(status))


def test_the_log_is_verified_with_heads_kept_elsewhere(stage: Any) -> None:
    signer = Ed25519PrivateKey.generate()
    head = admin.sign_log(stage.database, signer, now=stage.now)
    kept = read_head(json.dumps(encode(head)).encode(), name="head.json")
    assert kept == head
    summary = admin.verify_log(stage.database, signer.public_key(), kept=(kept,))
    assert (summary.rows, summary.head, summary.signatures) == (1, head.hash, True)
    assert not admin.verify_log(stage.database).signatures
    with raises(BrokerCode.AUDIT_HEAD_SIGNATURE):
        admin.verify_log(stage.database, signer.public_key(), kept=(replace(kept, seq=2),))
    with stage.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit")
    with raises(
        BrokerCode.AUDIT_TRUNCATED, match="The audit log is truncated: it ends at row 0, but a head was signed at row 1"
    ):
        admin.verify_log(stage.database, signer.public_key())
