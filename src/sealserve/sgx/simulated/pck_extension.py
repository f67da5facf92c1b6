"""The encoder for the SGX extension of simulated PCK certificates. `sealserve.sgx.pck` is the decoder."""

from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1

from sealserve.sgx.pck import COMPONENTS, SGX_EXTENSION, PckExtension

_STANDARD: Final = b"\x0a\x01\x00"  # the SGX type is an ENUMERATED, which the encoder does not support
_FALSE: Final = asn1.encode_der(False)


@asn1.sequence
class _Item:
    identifier: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _Items:
    items: list[_Item]


def encode(extension: PckExtension) -> x509.UnrecognizedExtension:
    """Encode the data as a certificate extension, with the parts in Intel's order."""
    tcb = {number: asn1.encode_der(extension.cpu_svn[number - 1]) for number in range(1, COMPONENTS + 1)}
    tcb |= {17: asn1.encode_der(extension.pce_svn), 18: asn1.encode_der(extension.cpu_svn)}
    parts = {
        1: asn1.encode_der(extension.ppid),
        2: _sequence(tcb, "2"),
        3: asn1.encode_der(extension.pce_id),
        4: asn1.encode_der(bytes.fromhex(extension.fmspc)),
        5: _STANDARD,
    }
    if extension.platform_instance_id is not None:
        parts[6] = asn1.encode_der(extension.platform_instance_id)
        parts[7] = _sequence(dict.fromkeys((1, 2, 3), _FALSE), "7")  # dynamic platform, cached keys, SMT enabled
    return x509.UnrecognizedExtension(SGX_EXTENSION, _sequence(parts))


def _sequence(parts: dict[int, bytes], below: str = "") -> bytes:
    prefix = f"{SGX_EXTENSION.dotted_string}.{below}".removesuffix(".")
    items = [
        _Item(identifier=x509.ObjectIdentifier(f"{prefix}.{number}"), value=asn1.decode_der(asn1.TLV, value))
        for number, value in parts.items()
    ]
    boxed = asn1.encode_der(_Items(items=items))  # the library encodes lists only as fields, so remove the wrapper
    return _content(boxed)


def _content(der: bytes) -> bytes:
    return bytes(asn1.decode_der(asn1.TLV, der).data)
