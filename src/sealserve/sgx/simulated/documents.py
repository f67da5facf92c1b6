"""The documents that the simulated vendor publishes: TCB info and the identity of its quoting enclave.

Source: Intel PCS API version 4, "Get TCB Info" (TCB info version 3) and "Get Quoting Enclave Identity" (version 2).
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from sealserve.attestation.claims import TcbStatus
from sealserve.sgx.pck import Fmspc
from sealserve.sgx.report import AttributeFlags, Attributes, EnclaveReport, MrEnclave, MrSigner

FMSPC: Final = Fmspc("5EA15E000000")
PCE_ID: Final = bytes(2)
EVALUATION_NUMBER: Final = 17
VALIDITY: Final = timedelta(days=30)

# The security versions of a new simulated platform, and of a platform that missed the last TCB recovery.
CPU_SVN: Final = bytes([9, 9, 3, 3, 255, 255, 1]) + bytes(9)
PCE_SVN: Final = 15
OLD_CPU_SVN: Final = bytes([7, 7, 3, 3, 255, 255, 1]) + bytes(9)
OLD_PCE_SVN: Final = 13

_QE_ISV_SVN: Final = 8
_QE_ATTRIBUTES: Final = Attributes(
    flags=AttributeFlags.INIT | AttributeFlags.MODE64BIT | AttributeFlags.PROVISION_KEY, xfrm=0xE7
)
_QE_ATTRIBUTES_MASK: Final = "FBFFFFFFFFFFFFFF0000000000000000"
_QE_TCB_DATE: Final = "2024-03-13T00:00:00Z"


class TcbLevel(BaseModel):
    """The vendor's rating of platforms that have at least these security versions.

    Args:
        cpu_svn: CPUSVN, 16 bytes in hexadecimal.
        pce_svn: Security version of the PCE, 16 bits.
        tcb_date: The date of the level.
        status: The rating.
        advisory_ids: The advisories that affect these platforms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_svn: str
    pce_svn: int
    tcb_date: str
    status: TcbStatus
    advisory_ids: tuple[str, ...] = ()


DEFAULT_LEVELS: Final = (
    TcbLevel(cpu_svn=CPU_SVN.hex(), pce_svn=PCE_SVN, tcb_date="2025-05-14T00:00:00Z", status=TcbStatus.UP_TO_DATE),
    TcbLevel(
        cpu_svn=OLD_CPU_SVN.hex(),
        pce_svn=OLD_PCE_SVN,
        tcb_date="2023-02-15T00:00:00Z",
        status=TcbStatus.OUT_OF_DATE,
        advisory_ids=("SIMULATED-SA-00001",),
    ),
)


def tcb_info(*, fmspc: Fmspc, evaluation_number: int, levels: Sequence[TcbLevel], now: datetime) -> dict[str, Any]:
    """Return TCB info, issued at ``now`` and valid for 30 days."""
    return {
        "id": "SGX",
        "version": 3,
        **_dates(now),
        "fmspc": fmspc,
        "pceId": PCE_ID.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": evaluation_number,
        "tcbLevels": [_level(level) for level in levels],
    }


def qe_identity(*, evaluation_number: int, now: datetime) -> dict[str, Any]:
    """Return the identity of the simulated quoting enclave, issued at ``now`` and valid for 30 days."""
    expected = qe_report(bytes(64), cpu_svn=CPU_SVN)
    mask = bytes.fromhex(_QE_ATTRIBUTES_MASK)
    attributes = bytes(a & m for a, m in zip(expected.attributes.to_bytes(), mask, strict=True))
    return {
        "id": "QE",
        "version": 2,
        **_dates(now),
        "tcbEvaluationDataNumber": evaluation_number,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": attributes.hex().upper(),
        "attributesMask": _QE_ATTRIBUTES_MASK,
        "mrsigner": expected.mr_signer.hex().upper(),
        "isvprodid": expected.isv_prod_id,
        "tcbLevels": [{"tcb": {"isvsvn": _QE_ISV_SVN}, "tcbDate": _QE_TCB_DATE, "tcbStatus": "UpToDate"}],
    }


def qe_report(report_data: bytes, *, cpu_svn: bytes) -> EnclaveReport:
    """Return the report of the simulated quoting enclave itself."""
    return EnclaveReport(
        attributes=_QE_ATTRIBUTES,
        mr_enclave=MrEnclave(hashlib.sha256(b"sealserve simulated quoting enclave").digest()),
        mr_signer=MrSigner(hashlib.sha256(b"sealserve simulated quoting enclave signer").digest()),
        isv_prod_id=1,
        isv_svn=_QE_ISV_SVN,
        report_data=report_data,
        cpu_svn=cpu_svn,
    )


def encode(document: dict[str, Any]) -> str:
    """Return the JSON text that is signed and served."""
    return json.dumps(document, separators=(",", ":"))


def timestamp(moment: datetime) -> str:
    """Return a time in the format of these documents, such as ``2026-01-15T12:00:00Z``."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _dates(now: datetime) -> dict[str, str]:
    return {"issueDate": timestamp(now), "nextUpdate": timestamp(now + VALIDITY)}


def _level(level: TcbLevel) -> dict[str, Any]:
    components = [{"svn": svn} for svn in bytes.fromhex(level.cpu_svn)]
    document: dict[str, Any] = {
        "tcb": {"sgxtcbcomponents": components, "pcesvn": level.pce_svn},
        "tcbDate": level.tcb_date,
        "tcbStatus": level.status.value,
    }
    if level.advisory_ids:
        document["advisoryIDs"] = list(level.advisory_ids)
    return document
