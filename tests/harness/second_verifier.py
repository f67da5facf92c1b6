"""A second implementation of the six steps, from docs/reference/attestation-protocol.md and Intel's formats alone.

It imports nothing from sealserve, dcap-qvl or pydantic, so that it shares no parser with the first implementation. It
reports the number of the failed step, and the code if the page names exactly one.

Sources beside the page: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4 (quote version 3); Intel SGX PCK
Certificate Profile, section 1.3.5 (SGX extension); Intel PCS API version 4 (TCB info version 3, QE identity version 2).
"""

import base64
import hashlib
import json
import re
import struct
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

NONE: Final = 0
"""The number of the step for faults of the documents themselves."""
HEX_32: Final = re.compile(r"[0-9a-f]{64}")
HEX_8: Final = re.compile(r"[0-9a-f]{16}")
TEXT: Final = str
PRESETS: Final = {
    "strict": {"UpToDate": []},
    "cloud-smt": {
        "UpToDate": ["INTEL-SA-00289", "INTEL-SA-00615"],
        "SWHardeningNeeded": ["INTEL-SA-00289", "INTEL-SA-00615"],
        "ConfigurationAndSWHardeningNeeded": ["INTEL-SA-00289", "INTEL-SA-00615"],
    },
}
INTEL_ROOT_SHA256: Final = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
PEM_BLOCK: Final = (
    rb"-----BEGIN CERTIFICATE-----\r?\n(?:[A-Za-z0-9+/]{1,76}={0,2}\r?\n)+-----END CERTIFICATE-----\r?\n*"
)
BAD_X509: Final = (
    *(LookupError, ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion),
    UserWarning,  # for unusual certificates; the tests raise it as an error
)


class Refused(Exception):  # noqa: N818  # it is a result, not an error of this program
    """The verification failed.

    Args:
        step: The number of the step, or `NONE` for the document.
        code: The code on the page, or an empty text if the page names several.
    """

    def __init__(self, step: int, code: str = "") -> None:
        super().__init__(f"step {step}: {code or 'one of several codes'}")
        self.step = step
        self.code = code


# The documents


def b64(text: Any, sizes: range) -> bytes:
    """Decode canonical base64url."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError
    found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != text or len(found) not in sizes:
        raise ValueError
    return found


def canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise KeyError
    return dict(pairs)


def refuse_constant(_: str) -> NoReturn:
    raise ValueError


def document(
    raw: bytes, *, kind: str, limit: int, form: Mapping[str, Any], step: int, version: int = 1
) -> dict[str, Any]:
    """Decode a document with the eleven checks of the page."""
    if len(raw) > limit:
        raise Refused(step, "document.size")
    try:
        text = raw.decode()
        value, end = json.JSONDecoder(object_pairs_hook=unique, parse_constant=refuse_constant).raw_decode(text)
    except KeyError:
        raise Refused(step, "document.duplicate-name") from None
    except (ValueError, RecursionError):
        raise Refused(step, "document.json") from None
    if end != len(text):
        raise Refused(step, "document.trailing-bytes")
    if not isinstance(value, dict):
        raise Refused(step, "document.json")
    if value.get("type") != kind:
        raise Refused(step, "document.type")
    if type(value.get("version")) is not int or value["version"] != version:
        raise Refused(step, "document.version")
    faults = list(member_faults(value, {"type": str, "version": int, **form}))
    for code in ("document.unknown-member", "document.missing-member", "document.member"):
        if code in faults:
            raise Refused(step, code)
    if canonical(value) != raw:
        raise Refused(step, "document.canonical")
    return value


def member_faults(value: Any, form: Any) -> Iterator[str]:  # one case for each kind of form
    """Compare a value with a form: an object, ``[form, most]``, a type, a pattern, a range, or a function."""
    match form:
        case dict():
            if not isinstance(value, dict):
                yield "document.member"
                return
            yield from ("document.unknown-member" for _ in value.keys() - form.keys())
            yield from ("document.missing-member" for _ in form.keys() - value.keys())
            for name in value.keys() & form.keys():
                yield from member_faults(value[name], form[name])
        case (inner, least, most):
            if not isinstance(value, list) or not least <= len(value) <= most:
                yield "document.member"
                return
            for entry in value:
                yield from member_faults(entry, inner)
        case ("or null", inner):
            if value is not None:
                yield from member_faults(value, inner)
        case re.Pattern():
            if not isinstance(value, str) or not form.fullmatch(value):
                yield "document.member"
        case range():
            if type(value) is not int or value not in form:
                yield "document.member"
        case type():
            if type(value) is not form:
                yield "document.member"
        case _:
            try:
                form(value)
            except (ValueError, TypeError, AttributeError):
                yield "document.member"


def collateral_form(value: Any) -> None:
    if not isinstance(value, dict) or not 1 <= len(value) <= 16:
        raise ValueError
    if not all(re.fullmatch(r"[a-z_]{1,40}", name) and isinstance(text, str) for name, text in value.items()):
        raise ValueError
    if sum(len(name) + len(text.encode()) for name, text in value.items()) > 32768:
        raise ValueError


def bytes_of(least: int, most: int) -> Any:
    return lambda text: b64(text, range(least, most + 1))


SIGNED: Final = {"content": bytes_of(0, 1 << 20), "signature": bytes_of(0, 1 << 20)}
EVIDENCE: Final = {
    "keyset": bytes_of(1, 1024),
    "quote": bytes_of(1, 8192),
    "collateral": collateral_form,
    "attestation_result": ("or null", re.compile(r"[A-Za-z0-9_.-]{1,16384}")),
    "statement": ("or null", SIGNED),
    "nonce_signature": bytes_of(64, 64),
}
BUNDLE: Final = {
    "evidence": {"type": re.compile(r"sealserve\.evidence"), "version": range(1, 2), **EVIDENCE},
    "nonce": bytes_of(32, 32),
    "certificate": bytes_of(1, 3072),
    "address": re.compile(r"[!-~]{1,300}"),
    "saved": range(253402300800),
}
KEYSET: Final = {"identity_key": bytes_of(32, 32), "release_id": HEX_32, "tls_key_sha256": HEX_32}
NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
SHORT_TEXT: Final = re.compile(r".{1,255}", re.DOTALL)
MODEL: Final = {
    "name": NAME,
    "version": re.compile(r"0|[1-9][0-9]{0,18}"),
    "sha256": HEX_32,
    "allowed_operations": (SHORT_TEXT, 0, 32),
    "signer": (
        "or null",
        {
            "method": re.compile(r"sigstore|certificate|key"),
            "identity": SHORT_TEXT,
            "issuer": ("or null", SHORT_TEXT),
        },
    ),
}
ENCLAVE: Final = {
    "mr_enclave": HEX_32,
    "mr_signer": HEX_32,
    "isv_prod_id": range(65536),
    "isv_svn": range(65536),
    "attribute_flags": HEX_8,
    "attribute_flags_mask": HEX_8,
    "xfrm": HEX_8,
    "xfrm_mask": HEX_8,
}


def web_key_form(value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError


STATEMENT: Final = {
    "release_id": HEX_32,
    "shared_batches": bool,
    "issued": range(1 << 53),
    "models": (MODEL, 1, 64),
    "enclaves": (ENCLAVE, 1, 16),
    "policy": {"name": SHORT_TEXT, "sha256": HEX_32},
    "brokers": ({"name": re.compile(r"[!-~]{1,255}"), "keys": (web_key_form, 1, 8)}, 0, 8),
}


# Step 1: the quote


def report_fields(raw: bytes) -> dict[str, Any]:
    """Return the fields of a report body of 384 bytes."""
    for start, end in ((20, 32), (96, 128), (160, 192), (262, 304)):
        if any(raw[start:end]):
            raise Refused(1)
    flags, xfrm = struct.unpack_from("<QQ", raw, 48)
    product, svn = struct.unpack_from("<HH", raw, 256)
    return {
        "misc_select": raw[16:20],
        "attributes": raw[48:64],
        "flags": flags,
        "xfrm": xfrm,
        "mr_enclave": raw[64:96],
        "mr_signer": raw[128:160],
        "isv_prod_id": product,
        "isv_svn": svn,
        "report_data": raw[320:384],
    }


def der_items(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each DER value in ``raw``."""
    position = 0
    while position < len(raw):
        tag, length = raw[position], raw[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(raw[position : position + size])
            position += size
        yield tag, raw[position : position + length]
        position += length


def sgx_items(raw: bytes) -> dict[int, tuple[int, bytes]]:
    """Return the values of SEQUENCE OF SEQUENCE {identifier, value}, by the last number of the identifier."""
    found = {}
    for _, item in der_items(raw):
        (_, identifier), value = list(der_items(item))[:2]
        found[identifier[-1]] = value
    return found


def p256_verify(key: Any, signature: bytes, message: bytes) -> None:
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a chain, which contains nothing else."""
    if not re.fullmatch(rb"(?:%s){1,5}" % PEM_BLOCK, pem):
        raise Refused(1)
    return x509.load_pem_x509_certificates(pem)


def check_chain(chain: list[x509.Certificate], root: bytes, crls: list[Any], now: datetime) -> None:
    """Check signatures, dates and revocation of a chain that ends at the root."""
    if chain[-1].public_bytes(Encoding.DER) != root:
        raise Refused(1)
    for issued, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        issued.verify_directly_issued_by(issuer)
        start, end = issued.not_valid_before_utc, issued.not_valid_after_utc
        if not start - timedelta(minutes=5) <= now <= end:
            raise Refused(1)
        if issued is issuer:
            continue
        lists = [crl for crl in crls if crl.issuer == issuer.subject]
        if not lists:
            raise Refused(1)
        for crl in lists:
            if not crl.is_signature_valid(issuer.public_key()):
                raise Refused(1)
            if crl.get_revoked_certificate_by_serial_number(issued.serial_number) is not None:
                raise Refused(1)


def check_window(issued: datetime, update: datetime | None, now: datetime) -> None:
    if update is None or not issued - timedelta(minutes=5) <= now <= update:
        raise Refused(1)


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


@dataclass(frozen=True)
class Platform:
    """What step 1 found: the report, the rating of the platform, and whether it is simulated."""

    report: dict[str, Any]
    status: str
    advisories: frozenset[str]
    simulated: bool


def verify_quote(quote: bytes, collateral: Mapping[str, str], root: bytes, least: int, now: datetime) -> Platform:
    """Perform step 1, and the checks of step 2 that depend on the vendor's documents."""
    # The format of the quote.
    if len(quote) < 436 or quote[:2] != b"\3\0" or quote[2:4] != b"\2\0" or any(quote[4:8]):
        raise Refused(1)
    if quote[12:28].hex() != "939a7233f79c4ca9940a0db3957f0607":
        raise Refused(1)
    (size,) = struct.unpack_from("<I", quote, 432)
    data = quote[436:]
    if len(data) != size or size < 582:
        raise Refused(1)
    signature, attestation_key, qe_raw, qe_signature = data[:64], data[64:128], data[128:512], data[512:576]
    (authentication_size,) = struct.unpack_from("<H", data, 576)
    authentication = data[578 : 578 + authentication_size]
    certification = data[578 + authentication_size :]
    if authentication_size != 32 or len(certification) < 6:
        raise Refused(1)
    kind, length = struct.unpack_from("<HI", certification)
    if kind != 5 or len(certification) != 6 + length:
        raise Refused(1)
    report, qe = report_fields(quote[48:432]), report_fields(qe_raw)
    # The chain of the PCK certificate.
    pem = certification[6:].removesuffix(b"\0")
    pck, authority, found_root = certificates(pem)
    simulated = "(simulated)" in common_name(x509.load_der_x509_certificate(root))
    if common_name(found_root) == "SGX Root CA (simulated)" and not simulated:
        raise Refused(1, "evidence.simulated")
    if common_name(found_root) == "Intel SGX Root CA" and simulated:
        raise Refused(1, "evidence.platform-kind")
    if report["flags"] & 2:
        raise Refused(2, "quote.debug")
    if not re.search(r"SGX PCK (Processor|Platform) CA", common_name(authority)):
        raise Refused(1)
    # The collateral: form and dates, then signatures.
    if collateral.keys() != {
        *("pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature"),
        *("qe_identity_issuer_chain", "qe_identity", "qe_identity_signature"),
    }:
        raise Refused(1)
    crls = [x509.load_der_x509_crl(bytes.fromhex(collateral[name])) for name in ("root_ca_crl", "pck_crl")]
    tcb_info = json.loads(collateral["tcb_info"], object_pairs_hook=unique)
    identity = json.loads(collateral["qe_identity"], object_pairs_hook=unique)
    for crl in crls:
        check_window(crl.last_update_utc, crl.next_update_utc, now)
    for found in (tcb_info, identity):
        check_window(moment(found["issueDate"]), moment(found["nextUpdate"]), now)
    if [tcb_info["id"], tcb_info["version"], identity["id"], identity["version"]] != ["SGX", 3, "QE", 2]:
        raise Refused(1)
    for name in ("tcb_info", "qe_identity"):
        chain = certificates(collateral[f"{name}_issuer_chain"].encode())
        if len(chain) != 2 or "TCB Signing" not in common_name(chain[0]):
            raise Refused(1)
        check_chain(chain, root, crls, now)
        if len(raw := bytes.fromhex(collateral[f"{name}_signature"])) != 64:
            raise Refused(1)
        p256_verify(chain[0].public_key(), raw, collateral[name].encode())
    check_chain([pck, authority, found_root], root, crls, now)
    # The signatures of the quote.
    p256_verify(pck.public_key(), qe_signature, qe_raw)
    if qe["report_data"] != hashlib.sha256(attestation_key + authentication).digest() + bytes(32):
        raise Refused(1)
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + attestation_key)
    p256_verify(key, signature, quote[:432])
    # The documents are for this platform, and not older than the policy permits.
    extension = pck.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.2.840.113741.1.13.1")).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    items = sgx_items(next(der_items(extension.value))[1])
    tcb = sgx_items(items[2][1])
    cpu_svn, pce_svn = [int.from_bytes(tcb[number][1]) for number in range(1, 17)], int.from_bytes(tcb[17][1])
    if tcb_info["fmspc"].upper() != items[4][1].hex().upper() or tcb_info["pceId"].upper() != items[3][1].hex().upper():
        raise Refused(1)
    if min(tcb_info["tcbEvaluationDataNumber"], identity["tcbEvaluationDataNumber"]) < least:
        raise Refused(1)
    # The quoting enclave is Intel's.
    mask = bytes.fromhex(identity["attributesMask"])
    masked = bytes(a & b for a, b in zip(qe["attributes"], mask, strict=True))
    misc_mask = bytes.fromhex(identity["miscselectMask"])
    misc = bytes(a & b for a, b in zip(qe["misc_select"][::-1], misc_mask, strict=True))
    if (
        qe["mr_signer"].hex() != identity["mrsigner"].lower()
        or qe["isv_prod_id"] != identity["isvprodid"]
        or masked != bytes.fromhex(identity["attributes"])
        or misc != bytes.fromhex(identity["miscselect"])
    ):
        raise Refused(1)
    # The rating of the platform and of the quoting enclave.
    for level in tcb_info["tcbLevels"]:
        required = [component["svn"] for component in level["tcb"]["sgxtcbcomponents"]]
        if all(a >= b for a, b in zip(cpu_svn, required, strict=True)) and pce_svn >= level["tcb"]["pcesvn"]:
            break
    else:
        raise Refused(2)
    for qe_level in identity["tcbLevels"]:
        if qe["isv_svn"] >= qe_level["tcb"]["isvsvn"]:
            break
    else:
        raise Refused(1)
    status = combined(level["tcbStatus"], qe_level["tcbStatus"])
    if status == "Revoked":
        raise Refused(2)
    advisories = frozenset([*level.get("advisoryIDs", []), *qe_level.get("advisoryIDs", [])])
    return Platform(report=report, status=status, advisories=advisories, simulated=simulated)


def combined(platform: str, qe: str) -> str:
    """Combine the statuses of platform and quoting enclave, as Intel's library does."""
    if "Revoked" in {platform, qe}:
        return "Revoked"
    if qe == "OutOfDate":
        return "OutOfDateConfigurationNeeded" if "Configuration" in platform else "OutOfDate"
    return platform


# Step 3: statement and attestation result


def same_code(report: Mapping[str, Any], stated: Mapping[str, Any]) -> str:
    """Compare a report with reference values. Return the code of the first difference, or an empty text."""
    if report["mr_signer"].hex() != stated["mr_signer"]:
        return "policy.mr-signer"
    if report["isv_prod_id"] != stated["isv_prod_id"]:
        return "policy.isv-prod-id"
    if report["isv_svn"] < stated["isv_svn"]:
        return "policy.isv-svn"
    for found, name in ((report["flags"], "attribute_flags"), (report["xfrm"], "xfrm")):
        if (found ^ int(stated[name], 16)) & int(stated[f"{name}_mask"], 16):
            return "policy.attributes"
    return ""


def read_statement(signed: Mapping[str, str], owner_keys: list[str]) -> dict[str, Any]:
    content, signature = (b64(signed[name], range(1 << 20)) for name in ("content", "signature"))
    for key in owner_keys:
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
                signature, b"sealserve-attest/1 release statement\n" + content
            )
            break
        except InvalidSignature:
            continue
    else:
        raise Refused(3, "statement.signature")
    found = document(content, kind="sealserve.release-statement", limit=16384, form=STATEMENT, step=3, version=2)
    for listed in (
        [(model["name"], model["version"]) for model in found["models"]],
        [enclave["mr_enclave"] for enclave in found["enclaves"]],
        [broker["name"] for broker in found["brokers"]],
    ):
        if len(set(listed)) != len(listed):
            raise Refused(3, "document.member")
    for enclave in found["enclaves"]:
        flags, mask, xfrm = (int(enclave[n], 16) for n in ("attribute_flags", "attribute_flags_mask", "xfrm_mask"))
        zero = "0" * 64 in {enclave["mr_enclave"], enclave["mr_signer"]}
        if flags & 2 or mask & 7 != 7 or xfrm & 3 != 3 or zero:
            raise Refused(3, "statement.content")
    for broker in found["brokers"]:
        for key in broker["keys"]:
            web_key(key)
    return found


def web_key(members: Mapping[str, str]) -> tuple[str, ec.EllipticCurvePublicKey]:
    try:
        x, y = (int.from_bytes(b64(members[name], range(32, 33))) for name in ("x", "y"))
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        required = {name: members[name] for name in ("crv", "kty", "x", "y")}
        thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical(required)).digest()).rstrip(b"=").decode()
        fixed = {"alg": "ES256", "crv": "P-256", "kid": thumbprint, "kty": "EC", "use": "sig"}
        if dict(members) != {**fixed, "x": members["x"], "y": members["y"]}:
            raise ValueError
    except (ValueError, KeyError):
        raise Refused(3, "statement.content") from None
    return thumbprint, key


def read_token(token: str, statement: Mapping[str, Any], now: datetime, *, simulated: bool) -> dict[str, Any]:
    """Verify an attestation result with the keys of the brokers in the statement (attestation-result.md)."""
    try:
        parts = token.split(".")
        header = json.loads(b64(parts[0], range(1 << 14)), object_pairs_hook=unique)
        signature = b64(parts[2], range(1 << 14))
        payload = b64(parts[1], range(1 << 14))
        if len(parts) != 3 or header.keys() != {"alg", "kid", "typ"} or header["typ"] != "eat+jwt":
            raise ValueError
    except (ValueError, KeyError, IndexError, AttributeError):
        raise Refused(3) from None
    brokers = [b for b in statement["brokers"] if header["kid"] in {web_key(key)[0] for key in b["keys"]}]
    if not brokers:
        raise Refused(3, "evidence.broker-unknown")
    key = next(key for name, key in map(web_key, brokers[0]["keys"]) if name == header["kid"])
    if header["alg"] != "ES256" or len(signature) != 64:
        raise Refused(3)
    try:
        p256_verify(key, signature, ".".join(parts[:2]).encode())
        claims = json.loads(payload, object_pairs_hook=unique)
        enclave = claims["submods"]["enclave"]
        facts, stated = enclave["ear_attester_claims"], enclave["ear_verifier_claims"]
        times = [claims["iat"], claims.get("nbf", claims["iat"]), claims["exp"]]
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError):
        raise Refused(3) from None
    if claims["eat_profile"] != "tag:ietf.org,2026:rats/ear#04":
        raise Refused(3, "token.profile")
    if claims["iss"] not in {broker["name"] for broker in brokers}:
        raise Refused(3, "evidence.broker-unknown")
    if claims["aud"] != "sealserve.user":
        raise Refused(3, "token.audience")
    seconds = now.timestamp()
    if max(times[:2]) > seconds + 300:
        raise Refused(3, "token.not-yet-valid")
    if seconds >= times[2]:
        raise Refused(3, "token.expired")
    if not times[0] < times[2] <= times[0] + 7 * 86400:
        raise Refused(3, "token.lifetime")
    if facts["dbgstat"] != "disabled-since-boot":
        raise Refused(3, "token.debug")
    tiers = ["none", "affirming", "warning", "contraindicated"]
    worst = max(map(tier, enclave["ear_trustworthiness_vector"].values()), default=0)
    status = tiers.index(claims["ear_status"])
    if claims["ear_status"] != enclave["ear_status"] or status < worst or (facts["simulated"] and status != 3):
        raise Refused(3, "token.status")
    if facts["simulated"] and not simulated:
        raise Refused(3, "token.simulated")
    if status not in {1, 2} and not facts["simulated"]:
        raise Refused(3, "token.status")
    return {**facts, **stated}


def tier(value: int) -> int:
    if -1 <= value <= 1:
        return 0
    if 2 <= value <= 31 or -32 <= value <= -2:
        return 1
    return 2 if 32 <= value <= 95 or -96 <= value <= -33 else 3


def check_code(
    evidence: Mapping[str, Any],
    keyset: Mapping[str, Any],
    digest: bytes,
    platform: Platform,
    policy: Any,
    now: datetime,
) -> None:
    """Perform step 3."""
    report = platform.report
    if policy.get("owner_keys"):
        if evidence["statement"] is None:
            raise Refused(3, "evidence.no-statement")
        statement = read_statement(evidence["statement"], policy["owner_keys"])
        if statement["release_id"] != keyset["release_id"]:
            raise Refused(3, "evidence.release")
        entries = [e for e in statement["enclaves"] if e["mr_enclave"] == report["mr_enclave"].hex()]
        if not entries:
            raise Refused(3, "evidence.enclave-unknown")
        if code := same_code(report, entries[0]):
            raise Refused(3, code)
        if evidence["attestation_result"] is None:
            raise Refused(3, "evidence.no-result")
        result = read_token(evidence["attestation_result"], statement, now, simulated=platform.simulated)
        if result["release_id"] != keyset["release_id"]:
            raise Refused(3, "evidence.release")
        expected = {
            "keyset_sha256": digest.hex(),
            "public_key_sha256": keyset["tls_key_sha256"],
            "measurement": report["mr_enclave"].hex(),
            "signer": report["mr_signer"].hex(),
            "product_id": report["isv_prod_id"],
            "security_version": report["isv_svn"],
            "simulated": platform.simulated,
            "freshness": "session",
        }
        if any(result.get(name) != value for name, value in expected.items()):
            raise Refused(3, "evidence.result-binding")
        if statement["shared_batches"] and policy.get("dangerous_shared_batches") is not True:
            raise Refused(3, "evidence.shared-batches")
        for model in statement["models"]:
            if set(model["allowed_operations"]) - set(policy.get("dangerous_operations", [])):
                raise Refused(3, "evidence.allowed-operations")
    if policy.get("enclaves"):
        free = {"attribute_flags": "5", "attribute_flags_mask": "7", "xfrm": "3", "xfrm_mask": "3"}
        pins = [{**pin, **free} for pin in policy["enclaves"] if pin["mr_enclave"] == report["mr_enclave"].hex()]
        if not pins:
            raise Refused(3, "evidence.not-pinned")
        if code := same_code(report, pins[0]):
            raise Refused(3, code)
    if policy.get("releases") and keyset["release_id"] not in policy["releases"]:
        raise Refused(3, "evidence.release-not-pinned")


def verify_bundle(raw: bytes, policy_file: str, now: datetime) -> dict[str, Any]:
    """Verify an evidence bundle, and return the keyset.

    Raises:
        Refused: A step fails.
    """
    policy = tomllib.loads(policy_file)
    bundle = document(raw, kind="sealserve.evidence-bundle", limit=65536, form=BUNDLE, step=NONE)
    evidence = bundle["evidence"]
    # Steps 1 and 2.
    pem = policy.get("dangerous_simulated_root")
    root = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER) if pem else intel_root(evidence)
    least = policy.get("collateral", {}).get("least_evaluation_number", 0)
    try:
        quote = b64(evidence["quote"], range(8193))
        platform = verify_quote(quote, evidence["collateral"], root, least, now)
    except BAD_X509:
        raise Refused(1) from None
    rules = policy.get("tcb", {})
    default: Any = PRESETS[rules.get("preset", "cloud-smt")]
    accept: Any = rules.get("accept", default)
    if platform.status not in accept:
        raise Refused(2, "policy.tcb-status")
    if platform.advisories - set(accept[platform.status]):
        raise Refused(2, "policy.advisory")
    # Step 3, after the form of the keyset.
    keyset_bytes = b64(evidence["keyset"], range(1025))
    keyset = document(keyset_bytes, kind="sealserve.keyset", limit=1024, form=KEYSET, step=4)
    digest = hashlib.sha256(keyset_bytes).digest()
    check_code(evidence, keyset, digest, platform, policy, now)
    # Step 4.
    bound = hashlib.sha256(b"sealserve-attest/1 service report data\n" + digest).digest() + bytes(32)
    if platform.report["report_data"] != bound:
        raise Refused(4, "evidence.keyset-binding")
    # Step 5.
    signed = (
        b"sealserve-attest/1 user nonce\n" + b64(bundle["nonce"], range(33)) + bytes.fromhex(keyset["tls_key_sha256"])
    )
    try:
        identity = Ed25519PublicKey.from_public_bytes(b64(keyset["identity_key"], range(33)))
        identity.verify(b64(evidence["nonce_signature"], range(65)), signed)
    except InvalidSignature:
        raise Refused(5, "evidence.nonce-signature") from None
    # Step 6.
    try:
        certificate = x509.load_der_x509_certificate(b64(bundle["certificate"], range(3073)))
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except BAD_X509:
        raise Refused(6, "evidence.certificate") from None
    if hashlib.sha256(spki).hexdigest() != keyset["tls_key_sha256"]:
        raise Refused(6, "evidence.tls-key")
    return keyset


def intel_root(evidence: Mapping[str, Any]) -> bytes:
    """Return Intel's root from the collateral, after a comparison with its published digest."""
    for certificate in x509.load_pem_x509_certificates(evidence["collateral"]["tcb_info_issuer_chain"].encode()):
        der = certificate.public_bytes(Encoding.DER)
        if hashlib.sha256(der).hexdigest() == INTEL_ROOT_SHA256:
            return der
    raise Refused(1)
