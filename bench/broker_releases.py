"""Many releases in the database of a broker, for the measurement of its latency.

The releases are written in one transaction, because one transaction for each would take an hour. Their audit rows and
tags are the rows and tags of `sealserve broker allow`, so that the broker authenticates them as usual.
"""

from datetime import UTC, datetime
from typing import Any

from broker_clients import REPORT
from sqlalchemy import insert

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.presets import STRICT
from sealserve.broker import admin, audit, row_authentication
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.keystore import KeyId
from sealserve.broker.releases import Release, ReleaseId
from sealserve.broker.stored_time import to_text
from sealserve.broker.tables import REFERENCE_VALUES, RELEASES
from sealserve.owner.owner import Owner
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace

_SHARED = 1000  # releases with the same key


def register(workspace: Workspace, *, count: int) -> None:
    """Register the release of the clients' enclave, and further releases up to ``count``."""
    now = datetime.now(UTC)
    policy = AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False)
    with Owner.open(workspace).vault(create=True) as vault:
        key_ids = [vault.keystore.create(vault.database, now=now).key_id for _ in range(2 + count // _SHARED)]
        release = Release(
            release_id=ReleaseId(f"{1:064x}"),
            name="release-0",
            platform=PlatformKind.SIMULATED,
            key_id=key_ids[0],
            policy=policy,
            created=now,
        )
        admin.allow(vault.database, release, {"replica-0": _values(REPORT.mr_enclave)}, now=now)
        with vault.database.write() as connection:
            session = row_authentication.of(connection)
            if session is None:
                raise SystemExit("bench: the database has no key that authenticates its rows")
            releases, references = [], []
            for number in range(1, count):
                row, reference = _rows(number, key_ids[1 + number // _SHARED], policy, now)
                entry = Entry(
                    time=now,
                    peer="owner",
                    decision=Decision.ALLOWED,
                    code="ok",
                    detail="replica-0",
                    release_id=str(row["release_id"]),
                    platform=PlatformKind.SIMULATED,
                    mr_enclave=str(reference["measurement"]),
                )
                audit.append(connection, entry)
                releases.append(session.sealed(RELEASES, row))
                references.append(session.sealed(REFERENCE_VALUES, reference))
            if releases:
                connection.execute(insert(RELEASES), releases)
                connection.execute(insert(REFERENCE_VALUES), references)


def _rows(number: int, key_id: KeyId, policy: AppraisalPolicy, now: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    release_id, measurement = f"{number + 1:064x}", MrEnclave(number.to_bytes(32))
    release: dict[str, Any] = {
        "release_id": release_id,
        "name": f"release-{number}",
        "platform": PlatformKind.SIMULATED.value,
        "key_id": key_id,
        "state": "active",
        "deadline": None,
        "policy": policy.to_json(),
        "created": to_text(now),
        "secret_form": None,
    }
    reference = {
        "measurement": measurement.hex(),
        "release_id": release_id,
        "label": "replica-0",
        "reference": _values(measurement).to_json(),
    }
    return release, reference


def _values(measurement: MrEnclave) -> ReferenceValues:
    return ReferenceValues(mr_enclave=measurement, mr_signer=REPORT.mr_signer, isv_prod_id=1, isv_svn=2)
