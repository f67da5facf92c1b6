"""The TCB levels in TCB info and QE identity: which level applies to a platform, and which level superseded it.

dcap-qvl decides the TCB status of a quote. This module answers two other questions: since when a newer level exists,
and which status a platform would have with other documents. A trial has only the recorded security versions.

Source: Intel PCS API version 4, "Get TCB Info" (how to find the level that applies) and "Get Quoting Enclave Identity";
Intel SGX DCAP quote verification, ``convergeTcbStatusWithQeTcbStatus`` (how the two statuses are combined).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.tcb_policy import OUT_OF_DATE
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral_documents import load_object, parse_qe_identity, parse_tcb_info
from sealserve.sgx.pck import COMPONENTS

_M = TypeVar("_M", bound=BaseModel)
_Svn = Annotated[int, Field(strict=True, ge=0, le=0xFFFF)]


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="ignore")


class _Component(_Part):
    svn: Annotated[int, Field(strict=True, ge=0, le=0xFF)]


class _Level(_Part):
    tcb_date: AwareDatetime
    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...] = Field(default=(), alias="advisoryIDs")


class _PlatformTcb(_Part):
    sgxtcbcomponents: Annotated[tuple[_Component, ...], Field(min_length=COMPONENTS, max_length=COMPONENTS)]
    pcesvn: _Svn


class _QeTcb(_Part):
    isvsvn: _Svn


class _PlatformLevel(_Level):
    tcb: _PlatformTcb


class _QeLevel(_Level):
    tcb: _QeTcb


class _TcbInfoLevels(_Part):
    tcb_levels: Annotated[tuple[_PlatformLevel, ...], Field(min_length=1)]


class _QeIdentityLevels(_Part):
    tcb_levels: Annotated[tuple[_QeLevel, ...], Field(min_length=1)]


_L = TypeVar("_L", bound=_Level)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbRating:
    """The vendor's rating of a platform by one pair of documents.

    Args:
        status: The combined status of the platform and its quoting enclave.
        advisory_ids: The advisories of both, sorted.
        dated: The date of the platform's TCB level.
        superseded: The date of the first level that is newer than an out-of-date level. `None` if neither level is out
            of date, or if no newer level exists.
        evaluation_number: The lower TCB evaluation data number of the two documents.
    """

    status: TcbStatus
    advisory_ids: tuple[str, ...]
    dated: datetime
    superseded: datetime | None
    evaluation_number: int


def rate(tcb_info: str, qe_identity: str, *, cpu_svn: bytes, pce_svn: int, qe_svn: int) -> TcbRating:
    """Return the rating of a platform. The signatures of the documents are not verified here.

    Args:
        tcb_info: TCB info for the platform's FMSPC, JSON.
        qe_identity: The identity of the quoting enclave, JSON.
        cpu_svn: The security versions in the platform's PCK certificate, 16 bytes.
        pce_svn: The security version of the PCE in the PCK certificate.
        qe_svn: The security version (ISVSVN) of the quoting enclave.

    Raises:
        VerificationError: `collateral.malformed` if a document or a level violates the specification.
        VerificationError: `tcb.no-level` if no level applies to the platform or to its quoting enclave.
    """
    platform_levels = _parsed(_TcbInfoLevels, tcb_info, of="TCB info").tcb_levels
    qe_levels = _parsed(_QeIdentityLevels, qe_identity, of="QE identity").tcb_levels
    # The first level whose components are all at most the platform's components applies.
    platform = _first(
        level
        for level in platform_levels
        if pce_svn >= level.tcb.pcesvn
        and all(own >= least.svn for own, least in zip(cpu_svn, level.tcb.sgxtcbcomponents, strict=True))
    )
    qe = _first(level for level in qe_levels if qe_svn >= level.tcb.isvsvn)
    newer = [
        date
        for level, levels in ((platform, platform_levels), (qe, qe_levels))
        if level.tcb_status in OUT_OF_DATE and (date := _next(level, levels)) is not None
    ]
    numbers = (
        parse_tcb_info(tcb_info).tcb_evaluation_data_number,
        parse_qe_identity(qe_identity).tcb_evaluation_data_number,
    )
    return TcbRating(
        status=_combined(platform.tcb_status, qe.tcb_status),
        advisory_ids=tuple(sorted({*platform.advisory_ids, *qe.advisory_ids})),
        dated=platform.tcb_date,
        superseded=min(newer, default=None),
        evaluation_number=min(numbers),
    )


def _first(levels: Iterator[_L]) -> _L:
    if (found := next(levels, None)) is None:
        raise SgxCode.TCB_NO_LEVEL.error(
            "The security versions of the platform or its quoting enclave are below every level that the vendor lists."
        )
    return found


def _next(level: _Level, levels: Sequence[_Level]) -> datetime | None:
    """Return the date of the first TCB recovery after a level. Several levels can have the same date."""
    return min((other.tcb_date for other in levels if other.tcb_date > level.tcb_date), default=None)


def _combined(platform: TcbStatus, qe: TcbStatus) -> TcbStatus:
    if TcbStatus.REVOKED in (platform, qe):
        return TcbStatus.REVOKED
    if qe is TcbStatus.UP_TO_DATE:
        return platform
    # An out-of-date quoting enclave makes the platform out of date, and keeps the need for configuration.
    match platform:
        case TcbStatus.UP_TO_DATE | TcbStatus.SW_HARDENING_NEEDED:
            return qe if qe in OUT_OF_DATE or platform is TcbStatus.UP_TO_DATE else platform
        case TcbStatus.CONFIGURATION_NEEDED | TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED:
            return TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED if qe in OUT_OF_DATE else platform
    return platform


def _parsed(model: type[_M], text: str, *, of: str) -> _M:
    try:
        return model.model_validate(load_object(text, of=of))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SgxCode.COLLATERAL_MALFORMED.error(f"The {of} is malformed: {where}: {first['msg']}.") from error
