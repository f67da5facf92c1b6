"""A vendor's signed JSON documents (TCB info and QE identity) and revocation lists: parsing of the required parts.

Source: Intel PCS API version 4, "Get TCB Info" (TCB info version 3) and "Get Quoting Enclave Identity" (version 2).
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from cryptography import x509
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from sealserve.sgx.codes import SgxCode
from sealserve.x509_errors import X509_ERRORS

MAX_DOCUMENT_SIZE: Final = 1 << 20


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # year 1 or 9999
        raise ValueError("the time cannot be represented in UTC") from error


_Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]


class _Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, strict=False, extra="ignore")

    issue_date: _Moment
    next_update: _Moment
    tcb_evaluation_data_number: Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]


_D = TypeVar("_D", bound=_Document)


class TcbInfo(_Document):
    """The checked part of TCB info. dcap-qvl evaluates the TCB levels."""

    id: Literal["SGX"]
    version: Literal[3]
    tcb_type: Literal[0]
    fmspc: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{12}$")]
    pce_id: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{4}$")]


class QeIdentity(_Document):
    """The checked part of the quoting enclave's identity."""

    id: Literal["QE"]
    version: Literal[2]


def load_object(text: str, *, of: str) -> dict[str, Any]:
    """Parse a JSON object without duplicate keys at any level.

    Raises:
        VerificationError: `collateral.malformed` if the text is not a JSON object, or exceeds the size limit.
        VerificationError: `collateral.duplicate-key` if a key occurs twice.
    """
    if len(text) > MAX_DOCUMENT_SIZE:
        raise SgxCode.COLLATERAL_MALFORMED.error(
            f"The {of} is too large: expected at most {MAX_DOCUMENT_SIZE} characters, got {len(text)}."
        )
    try:
        found = json.JSONDecoder(object_pairs_hook=_unique).decode(text)
    except (ValueError, RecursionError) as error:
        raise SgxCode.COLLATERAL_MALFORMED.error(f"The {of} is malformed: it is not JSON.") from error
    if not isinstance(found, dict):
        raise SgxCode.COLLATERAL_MALFORMED.error(
            f"The {of} is malformed: expected a JSON object, got {type(found).__name__}."
        )
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise SgxCode.COLLATERAL_DUPLICATE_KEY.error(
                f"The collateral is ambiguous: the key {key!r} occurs twice in one JSON object."
            )
        found[key] = value
    return found


def parse_tcb_info(text: str) -> TcbInfo:
    """Parse TCB info.

    Raises:
        VerificationError: `collateral.malformed` if the text is not TCB info of version 3 for SGX.
        VerificationError: `collateral.duplicate-key` if a key occurs twice.
    """
    return _validated(TcbInfo, text, of="TCB info")


def parse_qe_identity(text: str) -> QeIdentity:
    """Parse the identity of a quoting enclave.

    Raises:
        VerificationError: `collateral.malformed` if the text is not a QE identity of version 2.
        VerificationError: `collateral.duplicate-key` if a key occurs twice.
    """
    return _validated(QeIdentity, text, of="QE identity")


def _validated(model: type[_D], text: str, *, of: str) -> _D:
    try:
        return model.model_validate(load_object(text, of=of))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SgxCode.COLLATERAL_MALFORMED.error(f"The {of} is malformed: {where}: {first['msg']}.") from error


def parse_crl(raw: bytes, *, of: str) -> x509.CertificateRevocationList:
    """Parse a revocation list in DER.

    Raises:
        VerificationError: `collateral.malformed` if it is not a revocation list.
    """
    try:
        return x509.load_der_x509_crl(raw)
    except X509_ERRORS as error:
        raise SgxCode.COLLATERAL_MALFORMED.error(
            f"The {of} is malformed: it is not a certificate revocation list in DER."
        ) from error


def is_revoked(crl: x509.CertificateRevocationList, serial: int, *, of: str) -> bool:
    """Return whether a revocation list contains a serial number.

    Raises:
        VerificationError: `collateral.malformed` if an entry of the list cannot be parsed.
    """
    try:
        return crl.get_revoked_certificate_by_serial_number(serial) is not None
    except X509_ERRORS as error:
        raise SgxCode.COLLATERAL_MALFORMED.error(f"The {of} is malformed: an entry cannot be parsed.") from error


def next_update_of(crl: x509.CertificateRevocationList, *, of: str) -> datetime:
    """Return the time of the next update of a revocation list.

    Raises:
        VerificationError: `collateral.malformed` if the list lacks a next-update time.
    """
    if crl.next_update_utc is None:
        raise SgxCode.COLLATERAL_MALFORMED.error(f"The {of} is malformed: it lacks a next-update time.")
    return crl.next_update_utc
