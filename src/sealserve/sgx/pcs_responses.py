"""Parsing of PCS and PCCS replies without changing any signed byte. Pure code without network access.

Source: Intel PCS API version 4: "Get TCB Info", "Get Quoting Enclave Identity", "Get Revocation List"; for the PCCS,
"Design Guide for Intel SGX Provisioning Certificate Caching Service" (revocation lists in hexadecimal).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import unquote

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral_documents import (
    QeIdentity,
    TcbInfo,
    load_object,
    next_update_of,
    parse_crl,
    parse_qe_identity,
    parse_tcb_info,
)

_DER_SEQUENCE: Final = 0x30
_TCB_INFO_CHAIN: Final = ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")  # versions 4 and 3
_QE_IDENTITY_CHAIN: Final = ("SGX-Enclave-Identity-Issuer-Chain",)
_PCK_CRL_CHAIN: Final = ("SGX-PCK-CRL-Issuer-Chain",)
ISSUER_CHAINS: Final = (*_TCB_INFO_CHAIN, *_QE_IDENTITY_CHAIN, *_PCK_CRL_CHAIN)
"""The headers that carry the issuer chains. All other headers are ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signed document: exact text, raw signature, signer's certificate chain (PEM), dates, evaluation number."""

    text: str
    signature: bytes
    chain: str
    issued: datetime
    next_update: datetime
    evaluation_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A revocation list (DER), its issuer's chain (PEM, empty if the reply has none) and its dates."""

    crl: bytes
    chain: str
    issued: datetime
    next_update: datetime


def read_tcb_info(body: bytes, headers: Mapping[str, str]) -> Signed:
    """Parse the reply to ``/tcb``.

    Raises:
        VerificationError: `collateral.malformed` if it is not TCB info.
        VerificationError: `collateral.duplicate-key` if a key occurs twice.
    """
    text, signature = _signed_member(body, "tcbInfo")
    chain = _chain(headers, _TCB_INFO_CHAIN, of="TCB info")
    return _signed(text, signature, chain, parse_tcb_info(text))


def read_qe_identity(body: bytes, headers: Mapping[str, str]) -> Signed:
    """Parse the reply to ``/qe/identity``.

    Raises:
        VerificationError: `collateral.malformed` if it is not a QE identity.
        VerificationError: `collateral.duplicate-key` if a key occurs twice.
    """
    text, signature = _signed_member(body, "enclaveIdentity")
    chain = _chain(headers, _QE_IDENTITY_CHAIN, of="QE identity")
    return _signed(text, signature, chain, parse_qe_identity(text))


def read_pck_crl(body: bytes, headers: Mapping[str, str]) -> Listed:
    """Parse the reply to ``/pckcrl``.

    Raises:
        VerificationError: `collateral.malformed` if it is not a revocation list with its issuer's chain.
    """
    chain = _chain(headers, _PCK_CRL_CHAIN, of="PCK CRL")
    return _listed(body, chain, of="PCK CRL")


def read_root_crl(body: bytes, _headers: Mapping[str, str]) -> Listed:
    """Parse the reply to ``/rootcacrl``, or the file that Intel serves.

    Raises:
        VerificationError: `collateral.malformed` if it is not a revocation list.
    """
    return _listed(body, "", of="Root CRL")


def _listed(body: bytes, chain: str, *, of: str) -> Listed:
    if body[:1] != bytes([_DER_SEQUENCE]):  # some replies of a PCCS are hexadecimal
        try:
            body = bytes.fromhex(body.decode("ascii"))
        except ValueError as error:
            raise SgxCode.COLLATERAL_MALFORMED.error(
                f"The {of} is malformed: it is neither DER nor hexadecimal."
            ) from error
    crl = parse_crl(body, of=of)
    return Listed(crl=body, chain=chain, issued=crl.last_update_utc, next_update=next_update_of(crl, of=of))


def _signed(text: str, signature: bytes, chain: str, found: TcbInfo | QeIdentity) -> Signed:
    return Signed(
        text=text,
        signature=signature,
        chain=chain,
        issued=found.issue_date,
        next_update=found.next_update,
        evaluation_number=found.tcb_evaluation_data_number,
    )


def _chain(headers: Mapping[str, str], names: tuple[str, ...], *, of: str) -> str:
    for name in names:
        if name in headers:
            try:
                return unquote(headers[name], errors="strict")
            except UnicodeDecodeError as error:
                raise SgxCode.COLLATERAL_MALFORMED.error(
                    f"The {of} is malformed: the header {name} is not percent-encoded text."
                ) from error
    raise SgxCode.COLLATERAL_MALFORMED.error(f"The {of} is incomplete: the reply lacks the header {names[0]}.")


def _signed_member(body: bytes, name: str) -> tuple[str, bytes]:
    """Return the exact text of one member of a JSON object, and the signature beside it.

    The vendor signs the exact bytes of the member. Parsing and serializing the JSON again could change these bytes.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SgxCode.COLLATERAL_MALFORMED.error(f"The reply with {name} is malformed: it is not UTF-8.") from error
    found = load_object(text, of=name)
    if not isinstance(found.get(name), dict):
        raise SgxCode.COLLATERAL_MALFORMED.error(f"The reply is incomplete: it lacks the object {name}.")
    try:
        signature = bytes.fromhex(found["signature"])
    except (KeyError, TypeError, ValueError) as error:
        raise SgxCode.COLLATERAL_MALFORMED.error(
            f"The reply with {name} is incomplete: it lacks a hexadecimal signature."
        ) from error
    return _member_text(text, name), signature


def _member_text(text: str, name: str) -> str:
    """Return the text of a member of a JSON object. The object must be well-formed and contain the member."""
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        key, at = decoder.raw_decode(text, _skip(text, at, ","))
        start = _skip(text, at, ":")
        _, at = decoder.raw_decode(text, start)
        if key == name:
            return text[start:at]


def _skip(text: str, at: int, separator: str) -> int:
    while text[at] in f" \t\r\n{separator}":
        at += 1
    return at
