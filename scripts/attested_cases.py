"""Cases of the test vectors: evidence with one wrong value each, which a verifier must refuse, and why."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from scripts.attested_case import Case, raw_signature
from scripts.attested_example import NOW, Example, digest, ed25519, p256
from scripts.attested_quote_cases import QuoteCases

from sealserve.attestation.claims import Measurement, TcbStatus
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.result import Freshness
from sealserve.attestation.result_token import sign_result
from sealserve.attestation.session_binding import NONCE_LABEL, session_report_data, signed_nonce
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url
from sealserve.attestation.trustworthiness import vector_of, worst_tier
from sealserve.attested.release_statement import DOMAIN, StatedBroker, StatedEnclave, sign_statement
from sealserve.canonical_document import canonical_json
from sealserve.sgx.report import MrSigner

GENUINE = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "quotes"
DAY = 86_400


class Cases(QuoteCases):
    """Builds the cases of all steps."""

    def all(self) -> Iterator[Case]:
        """Yield every case."""
        for group in (self.quotes, self.collateral, self.platforms, self.statements, self.exceptions, self.results,
                      self.pins, self.keysets, self.nonces, self.connections):  # fmt: skip
            yield from group()

    # Step 3

    def exceptions(self) -> Iterator[Case]:
        """Yield statements with exceptions to the rules for models that the policy does not accept."""
        example = self.example

        def stating(*operations: tuple[str, ...], shared_batches: bool = False) -> dict[str, str]:
            models = tuple(
                example.model.model_copy(update={"version": str(number), "allowed_operations": names})
                for number, names in enumerate(operations)
            )
            statement = example.statement(models=models or (example.model,), shared_batches=shared_batches)
            return sign_statement(statement, example.owner).model_dump(mode="json")

        def accepting(*lines: str) -> str:
            return example.policy_file.replace("version = 1\n", "\n".join(("version = 1", *lines, "")))

        batches, operations = "evidence.shared-batches", "evidence.allowed-operations"
        for name, code, statement, lines in (
            ("shared batches", batches, stating(shared_batches=True), ()),
            ("shared batches that the policy excludes", batches, stating(shared_batches=True),
             ("dangerous_shared_batches = false",)),
            ("shared batches, where operations are accepted", batches, stating(("PrintV2",), shared_batches=True),
             ('dangerous_operations = ["PrintV2"]',)),
            ("an operation that the owner allowed", operations, stating(("PrintV2",)), ()),
            ("an operation of the second model", operations, stating((), ("PrintV2",)), ()),
            ("an operation beside an accepted one", operations, stating(("PrintV2", "WriteFile")),
             ('dangerous_operations = ["PrintV2"]',)),
            ("an operation whose name differs in case", operations, stating(("printv2",)),
             ('dangerous_operations = ["PrintV2"]',)),
            ("an operation, where batches are accepted", operations, stating(("PrintV2",), shared_batches=True),
             ("dangerous_shared_batches = true",)),
        ):  # fmt: skip
            yield self.case(name, 3, code, statement=statement, policy=accepting(*lines))

    def statements(self) -> Iterator[Case]:
        """Yield wrong release statements."""
        example = self.example
        content = example.statement().to_bytes()

        def signed(raw: bytes, *, by: str = "owner", domain: bytes = DOMAIN) -> dict[str, str]:
            signature = ed25519(by).sign(domain + raw)
            return {"content": encode_base64url(raw), "signature": encode_base64url(signature)}

        def stating(**changes: Any) -> dict[str, str]:
            return sign_statement(example.statement(**changes), example.owner).model_dump(mode="json")

        def entry(**changes: Any) -> dict[str, str]:
            enclave = StatedEnclave.of_values(example.reference_values).model_copy(update=changes)
            return stating(enclaves=(enclave,))

        yield self.case("no statement", 3, "evidence.no-statement", statement=None)
        for name, statement in (
            ("a statement of another owner", signed(content, by="attacker")),
            ("a statement signed without its prefix", signed(content, domain=b"")),
            ("a statement signed as a release index", signed(content, domain=b"sealserve release index v1\n")),
            ("a statement with another byte", signed(content) | {"content": encode_base64url(content[:-1] + b" ")}),
            ("a statement with a short signature", signed(content) | {"signature": encode_base64url(bytes(63))}),
            ("a statement with an empty signature", signed(content) | {"signature": ""}),
        ):
            yield self.case(name, 3, "statement.signature", statement=statement)
        document = json.loads(content)
        key = dict(document["brokers"][0]["keys"][0])
        for name, raw, code in (
            ("a statement that is not JSON", b"release", "document.json"),
            ("a statement with a name twice", content[:-1] + b',"issued":0}', "document.duplicate-name"),
            ("a statement with a new line", content + b"\n", "document.trailing-bytes"),
            ("a keyset in place of a statement", example.keyset.to_bytes(), "document.type"),
            (
                "a statement of version 1",
                canonical_json(_without(document, "shared_batches") | {"version": 1}),
                "document.version",
            ),
            ("a statement of version 3", canonical_json(document | {"version": 3}), "document.version"),
            (
                "a statement without a word about batches",
                canonical_json(_without(document, "shared_batches")),
                "document.missing-member",
            ),
            (
                "a statement with a number in place of a boolean",
                canonical_json(document | {"shared_batches": 0}),
                "document.member",
            ),
            (
                "a statement with null in place of a boolean",
                canonical_json(document | {"shared_batches": None}),
                "document.member",
            ),
            ("a statement with an unknown member", canonical_json(document | {"x": 1}), "document.unknown-member"),
            ("a statement without models", canonical_json(_without(document, "models")), "document.missing-member"),
            ("a statement with an empty list of models", canonical_json(document | {"models": []}), "document.member"),
            ("a model twice", canonical_json(document | {"models": document["models"] * 2}), "document.member"),
            ("an enclave twice", canonical_json(document | {"enclaves": document["enclaves"] * 2}), "document.member"),
            ("a broker twice", canonical_json(document | {"brokers": document["brokers"] * 2}), "document.member"),
            ("a statement with spaces", json.dumps(document, sort_keys=True).encode(), "document.canonical"),
            ("a statement that is too large", canonical_json(document | {"release_id": "a" * 17000}), "document.size"),
            ("a broker's key with a private part", _with_key(document, key | {"d": key["x"]}), "statement.content"),
            ("a broker's key with another id", _with_key(document, key | {"kid": "A" * 43}), "statement.content"),
            ("a broker's key outside of the curve", _with_key(document, key | {"y": key["x"]}), "statement.content"),
            ("a broker's key for another algorithm", _with_key(document, key | {"alg": "RS256"}), "statement.content"),
        ):
            yield self.case(name, 3, code, statement=signed(raw))
        for name, changes in (
            ("reference values of a debug enclave", {"attribute_flags": "0000000000000007"}),
            ("a mask without DEBUG", {"attribute_flags_mask": "0000000000000005"}),
            ("a mask without SSE", {"xfrm_mask": "0000000000000001"}),
            ("an empty MRENCLAVE", {"mr_enclave": "0" * 64}),
        ):
            yield self.case(name, 3, "statement.content", statement=entry(**changes))
        for name, code, statement in (
            ("a statement for another release", "evidence.release", stating(release_id=digest("other").hex())),
            ("another MRENCLAVE in the statement", "evidence.enclave-unknown", entry(mr_enclave=digest("other").hex())),
            ("another MRSIGNER in the statement", "policy.mr-signer", entry(mr_signer=digest("other").hex())),
            ("another product id in the statement", "policy.isv-prod-id", entry(isv_prod_id=8)),
            ("a higher security version in the statement", "policy.isv-svn", entry(isv_svn=4)),
            ("other flags in the statement", "policy.attributes", entry(attribute_flags="0000000000000085")),
            ("another XFRM in the statement", "policy.attributes",
             entry(xfrm="0000000000000003", xfrm_mask="000000000000000f")),
            ("a statement without brokers", "evidence.broker-unknown", stating(brokers=())),
            ("a statement with another broker", "evidence.broker-unknown", stating(brokers=(
                StatedBroker(name="attestation.other.com", keys=example.statement().brokers[0].keys),))),
        ):  # fmt: skip
            yield self.case(name, 3, code, statement=statement)

    def results(self) -> Iterator[Case]:
        """Yield wrong attestation results."""
        example, other = self.example, digest("other")

        def token(**changes: Any) -> str:
            return sign_result(example.result(**changes), example.token_key)

        affirming = vector_of(tcb_status=TcbStatus.UP_TO_DATE, enrolled=False, simulated=False)
        header, claims, signature = example.token.split(".")
        enclave = example.result().enclave
        yield self.case("no attestation result", 3, "evidence.no-result", attestation_result=None)
        for name, code, found in (
            ("a token with another signature", "token.signature", f"{header}.{claims}.{encode_base64url(bytes(64))}"),
            ("a token with a short signature", "token.signature", f"{header}.{claims}.{encode_base64url(bytes(63))}"),
            ("a token with other claims", "token.signature", f"{header}.{encode_base64url(b'{}')}.{signature}"),
            ("a token of two parts", "token.form", f"{header}.{claims}"),
            ("a token of four parts", "token.form", f"{example.token}."),
            ("a token with a non-canonical part", "token.encoding", f"{header}.{claims}.{signature[:-1]}_"),
            ("a token with the algorithm none", "token.algorithm", _with_header(example, alg="none")),
            ("a token with a MAC", "token.algorithm", _with_header(example, alg="HS256")),
            ("a token of another type", "token.type", _with_header(example, typ="JWT")),
            ("a token that brings its key", "token.header", _with_header(example, jwk={})),
            ("a token with a critical extension", "token.critical", _with_header(example, crit=["exp"])),
            ("a token of another key", "evidence.broker-unknown", sign_result(example.result(), p256("attacker"))),
            ("a token of another broker", "evidence.broker-unknown", token(issuer="attestation.other.com")),
            ("a token for another audience", "token.audience", token(audience="sealserve.client")),
            ("a token that lives too long", "token.lifetime", token(expires=NOW + timedelta(days=8))),
            ("a token from the future", "token.not-yet-valid",
             token(issued=NOW + timedelta(hours=1), expires=NOW + timedelta(hours=2))),
            ("a token for a debug enclave", "token.debug",
             token(enclave=dataclasses.replace(enclave, debug=True))),
            ("a token with a status that is too good", "token.status", token(status=worst_tier(affirming))),
            ("a token for another release", "evidence.release", token(release_id=other.hex())),
            ("a token for another keyset", "evidence.result-binding", token(keyset_digest=other)),
            ("a token without a keyset", "evidence.result-binding", token(keyset_digest=None)),
            ("a token for another TLS key", "evidence.result-binding", token(public_key_digest=other)),
            ("a token that is not bound to a session", "evidence.result-binding",
             token(freshness=Freshness.CERTIFICATE)),
            ("a token for another enclave", "evidence.result-binding",
             token(enclave=dataclasses.replace(enclave, measurement=Measurement(other)))),
            ("a token for another signer", "evidence.result-binding",
             token(enclave=dataclasses.replace(enclave, signer=MrSigner(other)))),
            ("a token for another security version", "evidence.result-binding",
             token(enclave=dataclasses.replace(enclave, security_version=2))),
            ("a token for a genuine platform", "evidence.result-binding",
             token(simulated=False, vector=affirming, status=worst_tier(affirming))),
        ):  # fmt: skip
            yield self.case(name, 3, code, attestation_result=found)
        yield self.case("a revoked release: the token expired", 3, "token.expired", seconds=3 * DAY)

    def pins(self) -> Iterator[Case]:
        """Yield policies that pin other enclaves and releases."""
        release = f'releases = ["{digest("other").hex()}"]\n'
        yield self.case(
            "a release that is not pinned", 3, "evidence.release-not-pinned",
            policy=self.example.policy_file.replace("version = 1\n", f"version = 1\n{release}"),
        )  # fmt: skip
        for name, code, changes in (
            ("an enclave that is not pinned", "evidence.not-pinned", {"mr_enclave": digest("other").hex()}),
            ("an enclave of another signer", "policy.mr-signer", {"mr_signer": digest("other").hex()}),
            ("an enclave of another product", "policy.isv-prod-id", {"isv_prod_id": 8}),
            ("an enclave with a lower security version", "policy.isv-svn", {"isv_svn": 4}),
        ):
            yield self.case(name, 3, code, policy=self.pinning(**changes))

    # Step 4

    def keysets(self) -> Iterator[Case]:
        """Yield keysets that the quote does not cover, and quotes with other report data."""
        example = self.example
        raw = example.keyset.to_bytes()
        members = json.loads(raw)
        for name, content, code in (
            ("a keyset that is not JSON", b"keyset", "document.json"),
            ("a keyset with a name twice", raw[:-1] + b',"version":1}', "document.duplicate-name"),
            ("a keyset with a new line", raw + b"\n", "document.trailing-bytes"),
            ("a keyset of another type", canonical_json(members | {"type": "sealserve.keys"}), "document.type"),
            ("a keyset of version 2", canonical_json(members | {"version": 2}), "document.version"),
            ("a keyset with an unknown member", canonical_json(members | {"x": 1}), "document.unknown-member"),
            ("a keyset without an identity key", canonical_json(_without(members, "identity_key")),
             "document.missing-member"),
            ("a keyset with a short identity key", canonical_json(members | {"identity_key": "AAAA"}),
             "document.member"),
            ("a keyset with capitals", canonical_json(members | {"release_id": "A" * 64}), "document.member"),
            ("a keyset with spaces", json.dumps(members, sort_keys=True).encode(), "document.canonical"),
        ):  # fmt: skip
            yield self.case(name, 4, code, keyset=encode_base64url(content))
        attacker = Example(self.folder / "attacker", name="attacker")
        policy = self.pinning()
        for name, found in (
            ("a keyset of the attacker", attacker.keyset),
            ("a keyset with another TLS key", Keyset.of_keys(
                release_id=example.release_id, tls=attacker.tls_key.public_key(),
                identity=example.identity.public_key())),
            ("a keyset with another identity key", Keyset.of_keys(
                release_id=example.release_id, tls=example.tls_key.public_key(),
                identity=attacker.identity.public_key())),
            ("a keyset of another release", Keyset.of_keys(
                release_id=digest("other").hex(), tls=example.tls_key.public_key(),
                identity=example.identity.public_key())),
        ):  # fmt: skip
            yield self.case(
                name, 4, "evidence.keyset-binding", policy=policy, keyset=encode_base64url(found.to_bytes())
            )
        keyset_digest = example.keyset.digest
        session = session_report_data(
            nonce=example.session_nonce, exporter=example.exporter, keyset_digest=keyset_digest
        )
        for name, report_data in (
            ("a quote for the broker", session),
            ("a quote with the plain digest", keyset_digest + bytes(32)),
            ("a quote as in RA-TLS", example.keyset.tls_key_digest + bytes(32)),
            ("a quote without report data", bytes(64)),
            ("a quote with the digest in the second half", bytes(32) + keyset_digest),
        ):
            yield self.case(name, 4, "evidence.keyset-binding", quote=encode_base64url(example.quote(report_data)))
        appended = self.example.quote()[48 + 320 : 48 + 352] + b"\1" + bytes(31)
        yield self.case(
            "a byte after the digest in the report data", 4, "evidence.keyset-binding",
            quote=encode_base64url(example.quote(appended)),
        )  # fmt: skip

    # Step 5

    def nonces(self) -> Iterator[Case]:
        """Yield signatures of other nonces, by other keys, and for other TLS keys."""
        example = self.example
        genuine = signed_nonce(nonce=example.nonce, tls_key_digest=example.keyset.tls_key_digest)
        other = digest("other")
        for name, key, content in (
            ("a replayed signature of another nonce", example.identity,
             signed_nonce(nonce=other, tls_key_digest=example.keyset.tls_key_digest)),
            ("a signature for another TLS key", example.identity,
             signed_nonce(nonce=example.nonce, tls_key_digest=other)),
            ("a signature of another key", ed25519("attacker"), genuine),
            ("a signature without the label", example.identity, genuine.removeprefix(NONCE_LABEL)),
            ("a signature of the digest", example.identity, hashlib.sha256(genuine).digest()),
            ("a signature of the nonce", example.identity, example.nonce),
            ("the owner's signature", example.owner, genuine),
        ):  # fmt: skip
            yield self.case(name, 5, "evidence.nonce-signature", nonce_signature=encode_base64url(key.sign(content)))
        signature = bytearray(example.identity.sign(genuine))
        signature[0] ^= 1
        yield self.case(
            "a flipped bit in the signature", 5, "evidence.nonce-signature",
            nonce_signature=encode_base64url(bytes(signature)),
        )  # fmt: skip
        yield self.case(
            "a signature of zeros", 5, "evidence.nonce-signature", nonce_signature=encode_base64url(bytes(64))
        )
        yield self.case(
            "a replayed bundle: the user chose another nonce", 5, "evidence.nonce-signature",
            bundle={"nonce": encode_base64url(other)},
        )  # fmt: skip

    # Step 6

    def connections(self) -> Iterator[Case]:
        """Yield connections that do not end in the enclave."""
        for name, certificate in (
            ("a second certificate of the owner", self.example.certificate_for(p256("owner's second TLS key"))),
            ("a certificate of the attacker", self.example.certificate_for(p256("attacker"))),
            ("a certificate of another replica", self.example.certificate_for(p256("second TLS key"))),
        ):
            der = certificate.public_bytes(Encoding.DER)
            yield self.case(name, 6, "evidence.tls-key", bundle={"certificate": encode_base64url(der)})
        der = self.example.certificate.public_bytes(Encoding.DER)
        for name, content in (
            ("a certificate that is not DER", b"certificate"),
            ("a truncated certificate", der[:-1]),
            ("a byte after the certificate", der + b"\0"),
        ):
            yield self.case(name, 6, "evidence.certificate", bundle={"certificate": encode_base64url(content)})


def _without(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in members.items() if other != name}


def _with_key(statement: Mapping[str, Any], key: Mapping[str, str]) -> bytes:
    broker = {**statement["brokers"][0], "keys": [dict(key)]}
    return canonical_json({**statement, "brokers": [broker]})


def _with_header(example: Example, **changes: Any) -> str:
    """Return the token with another header, which the broker's key signed."""
    header, claims, _ = example.token.split(".")
    members = json.loads(decode_base64url(header)) | changes
    signed = f"{encode_base64url(canonical_json(members))}.{claims}"
    return f"{signed}.{encode_base64url(raw_signature(example.token_key, signed.encode()))}"
