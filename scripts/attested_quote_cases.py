"""Cases of the test vectors with wrong quotes, collateral and platforms: steps 1 and 2 of the verification."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from scripts.attested_case import Case, CaseBuilder, raw_signature
from scripts.attested_example import Example, p256

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.strict_encoding import encode_base64url
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import Attributes
from sealserve.sgx.simulated.documents import CPU_SVN, DEFAULT_LEVELS, PCE_SVN, TcbLevel

GENUINE = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "quotes"
DAY = 86_400


class QuoteCases(CaseBuilder):
    """Builds the cases of steps 1 and 2."""

    # Step 1

    def quotes(self) -> Iterator[Case]:
        """Yield quotes that are not genuine."""
        raw = self.example.quote()

        def at(position: int, content: bytes) -> str:
            return encode_base64url(raw[:position] + content + raw[position + len(content) :])

        def flipped(position: int) -> str:
            return at(position, bytes([raw[position] ^ 1]))

        yield self.case("an empty report", 1, "quote.truncated", quote=encode_base64url(raw[:100]))
        yield self.case("a truncated quote", 1, "quote.truncated", quote=encode_base64url(raw[:-1]))
        yield self.case("a byte after the quote", 1, "quote.trailing-bytes", quote=encode_base64url(raw + b"\0"))
        for name, position, content, code in (
            ("a quote of version 4", 0, b"\4", "quote.version"),
            ("a quote of version 259", 1, b"\1", "quote.version"),
            ("a quote with an ECDSA P-384 key", 2, b"\3", "quote.attestation-key-type"),
            ("a quote for TDX", 4, b"\x81", "quote.tee-type"),
            ("a quote of another vendor's QE", 12, b"\0", "quote.qe-vendor"),
            ("a reserved byte in the report", 48 + 20, b"\1", "report.reserved"),
            ("a reserved byte at the end of the report", 48 + 303, b"\1", "report.reserved"),
            ("no signatures", 432, (100).to_bytes(4, "little"), "quote.trailing-bytes"),
            ("longer QE authentication data", 436 + 576, b"\x21", "quote.malformed"),
            ("certification data of type 1", 436 + 578 + 32, b"\1", "quote.certification-data"),
            ("longer certification data", 436 + 578 + 34, b"\0\0", "quote.malformed"),
        ):
            yield self.case(name, 1, code, quote=at(position, content))
        for name, position, code in (
            ("another CPUSVN", 48, "quote.signature"),
            ("another MRENCLAVE", 48 + 64, "quote.signature"),
            ("another MRSIGNER", 48 + 128, "quote.signature"),
            ("another product id", 48 + 256, "quote.signature"),
            ("another security version", 48 + 258, "quote.signature"),
            ("other report data", 48 + 320, "quote.signature"),
            ("another user data", 28, "quote.signature"),
            ("another signature", 436 + 63, "quote.signature"),
            ("another QE report", 436 + 128 + 64, "quote.qe-report-signature"),
            ("another QE report signature", 436 + 512 + 63, "quote.qe-report-signature"),
            ("other QE authentication data", 436 + 578, "quote.attestation-key"),
        ):
            yield self.case(name, 1, code, quote=flipped(position))
        parsed = Quote.parse(raw)
        other = dataclasses.replace(parsed, attestation_key=_raw_key(p256("attacker")), signature=bytes(64))
        forged = dataclasses.replace(other, signature=raw_signature(p256("attacker"), other.signed_bytes()))
        yield self.case(
            "an attestation key of the attacker", 1, "quote.attestation-key", quote=encode_base64url(forged.to_bytes())
        )
        chain = parsed.certification_data
        without_root = chain[: chain.rindex(b"-----BEGIN")]
        yield self.case(
            "a chain of two certificates", 1, "pck.chain",
            quote=encode_base64url(dataclasses.replace(parsed, certification_data=without_root).to_bytes()),
        )  # fmt: skip
        yield self.case(
            "text in the chain", 1, "certificate-chain.malformed",
            quote=encode_base64url(dataclasses.replace(parsed, certification_data=b"x" + chain).to_bytes()),
        )  # fmt: skip
        key = self.example.owner.public_key().public_bytes_raw().hex()
        yield self.case(
            "a simulated quote, and a policy without a simulated root", 1, "evidence.simulated",
            policy=f'version = 1\nowner_keys = ["{key}"]\n',
        )  # fmt: skip
        genuine = (GENUINE / "sgx_quote").read_bytes()
        yield self.case(
            "a genuine quote, and a policy with a simulated root", 1, "evidence.platform-kind",
            quote=encode_base64url(genuine),
        )  # fmt: skip
        stranger = Example(self.folder / "stranger", keys=lambda number: p256(f"stranger {number}"))
        yield self.case(
            "another simulated vendor", 1, "pck.root-not-trusted",
            quote=encode_base64url(stranger.quote()), collateral=stranger.collateral_members,
        )  # fmt: skip

    def collateral(self) -> Iterator[Case]:
        """Yield wrong collateral."""
        members = self.example.collateral_members
        vendor = self.example.vendor

        def changed(**changes: str) -> dict[str, str]:
            return members | changes

        short = {name: text for name, text in members.items() if name != "pck_crl"}
        yield self.case("no PCK CRL", 1, "collateral.malformed", collateral=short)
        yield self.case("an unknown member of collateral", 1, "collateral.malformed", collateral=changed(other=""))
        for name, member, value, code in (
            ("TCB info that is not JSON", "tcb_info", "x", "collateral.malformed"),
            ("a CRL that is not hex", "pck_crl", "zz", "collateral.malformed"),
            ("a CRL that is not DER", "pck_crl", "00", "collateral.malformed"),
            ("a short signature of TCB info", "tcb_info_signature", "00" * 63, "collateral.malformed"),
            ("another signature of TCB info", "tcb_info_signature", members["qe_identity_signature"],
             "collateral.tcb-info-signature"),
            ("another signature of the QE identity", "qe_identity_signature", members["tcb_info_signature"],
             "collateral.qe-identity-signature"),
            ("TCB info with another text", "tcb_info", members["tcb_info"].replace('"pcesvn":15', '"pcesvn":14'),
             "collateral.tcb-info-signature"),
            ("a TCB info signer that is a PCK", "tcb_info_issuer_chain", self.example.platform.pck_chain_pem.decode(),
             "collateral.signer-not-tcb-signing"),
            ("a TCB info chain without the root", "tcb_info_issuer_chain",
             _first_certificate(members["tcb_info_issuer_chain"]), "certificate-chain.malformed"),
            ("two lists of the root", "pck_crl", members["root_ca_crl"], "collateral.crl"),
        ):  # fmt: skip
            yield self.case(name, 1, code, collateral=changed(**{member: value}))
        yield self.case("a time after the next update", 1, "collateral.expired", seconds=31 * DAY)
        yield self.case("a time before the documents", 1, "collateral.not-yet-valid", seconds=-DAY)
        text = re.sub(r'"fmspc":"[0-9A-F]+"', '"fmspc":"00906EA10000"', members["tcb_info"])
        other = vendor.sign(text)
        yield self.case(
            "TCB info for another kind of processor", 1, "collateral.fmspc",
            collateral=changed(tcb_info=text, tcb_info_signature=other.signature.hex()),
        )  # fmt: skip
        text = members["qe_identity"].replace('"isvprodid":1', '"isvprodid":2')
        identity = vendor.sign(text)
        yield self.case(
            "a QE identity for another QE", 1, "quote.qe-identity",
            collateral=changed(qe_identity=text, qe_identity_signature=identity.signature.hex()),
        )  # fmt: skip
        revoked = Example(self.folder / "revoked")
        revoked.vendor.revoke(revoked.platform.chain.leaf.serial_number)
        yield self.case("a revoked platform", 1, "pck.revoked", collateral=revoked.collateral_members)
        yield self.case(
            "collateral that is older than the policy permits", 1, "collateral.rolled-back",
            policy=self.example.policy_file + "[collateral]\nleast_evaluation_number = 18\n",
        )  # fmt: skip

    # Step 2

    def platforms(self) -> Iterator[Case]:
        """Yield enclaves and platforms that the policy does not accept."""
        debug = self.example.quote(attributes=Attributes(flags=0x7, xfrm=0xE7))
        yield self.case("a debug enclave", 2, "quote.debug", quote=encode_base64url(debug))
        for name, status, advisories, code, rules in (
            ("an out-of-date platform", TcbStatus.OUT_OF_DATE, (), "policy.tcb-status", ""),
            ("a platform that needs configuration", TcbStatus.CONFIGURATION_NEEDED, (), "policy.tcb-status", ""),
            ("an advisory that the preset does not accept", TcbStatus.SW_HARDENING_NEEDED, ("INTEL-SA-00334",),
             "policy.advisory", ""),
            ("a hardened platform, and the preset strict", TcbStatus.SW_HARDENING_NEEDED, ("INTEL-SA-00615",),
             "policy.tcb-status", '[tcb]\npreset = "strict"\n'),
            ("an advisory that the user does not accept", TcbStatus.UP_TO_DATE, ("INTEL-SA-00615",),
             "policy.advisory", "[tcb.accept]\nUpToDate = []\n"),
            ("a revoked TCB level", TcbStatus.REVOKED, (), "tcb.revoked", ""),
        ):  # fmt: skip
            rated = Example(self.folder / re.sub(r"\W", "-", name))
            rated.vendor.publish_levels(
                [
                    TcbLevel(
                        cpu_svn=CPU_SVN.hex(), pce_svn=PCE_SVN, tcb_date="2025-05-14T00:00:00Z", status=status,
                        advisory_ids=advisories,
                    )
                ]
            )  # fmt: skip
            yield self.case(name, 2, code, policy=self.example.policy_file + rules, collateral=rated.collateral_members)
        newer = Example(self.folder / "no-level")
        newer.vendor.publish_levels([DEFAULT_LEVELS[0].model_copy(update={"pce_svn": PCE_SVN + 1})])
        yield self.case("a platform below every level", 2, "tcb.no-level", collateral=newer.collateral_members)


def _raw_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _first_certificate(pem: str) -> str:
    end = "-----END CERTIFICATE-----\n"
    return pem.partition(end)[0] + end
