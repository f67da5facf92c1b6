"""The simulated vendor: it certifies simulated platforms and publishes their TCB ratings. It stands in for Intel.

Its folder contains ``root``, ``processor-ca``, ``platform-ca`` and ``tcb-signing`` (each ``.der`` and ``.key``) and
``vendor.json``, the state of the published data. Documents and revocation lists are generated on each request from the
current ``vendor.json``. Therefore several processes can use the same vendor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, ValidationError

from sealserve.atomic_file import OutputExistsError, write_file
from sealserve.attestation.claims import TcbStatus
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import Fmspc, PckCa, PckExtension
from sealserve.sgx.simulated import documents, pck_extension
from sealserve.sgx.simulated.authority import Authority, Keys, SimulatedStateError, chain_pem, new_key, sign_raw
from sealserve.sgx.simulated.documents import DEFAULT_LEVELS, EVALUATION_NUMBER, FMSPC, TcbLevel
from sealserve.sgx.trust_anchor import SIMULATED, TrustAnchor

_STATE: Final = "vendor.json"


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    evaluation_number: int = EVALUATION_NUMBER
    levels: dict[Fmspc, tuple[TcbLevel, ...]]
    early_levels: dict[Fmspc, tuple[TcbLevel, ...]] = {}  # announced, but not yet standard
    revoked: tuple[int, ...] = ()  # serial numbers of PCK certificates
    crl_number: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDocument:
    """A document as it is served: the text, and the raw signature over exactly this text."""

    text: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """The simulated vendor. See `create` and `load`."""

    folder: Path
    root: Authority
    processor_ca: Authority
    platform_ca: Authority
    tcb_signing: Authority

    @classmethod
    def create(cls, folder: Path, *, now: datetime, keys: Keys = new_key) -> Self:
        """Create a vendor in ``folder``.

        Args:
            folder: The vendor's folder.
            now: The time of creation.
            keys: The source of keys. Test vectors use fixed keys.

        Raises:
            OutputExistsError: The folder already contains a vendor.
        """
        if (folder / _STATE).exists():
            raise OutputExistsError(
                f"{folder} already contains a simulated vendor.", hint="Use this vendor, or delete the folder."
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = Authority.create_root(SIMULATED.root, now=now, keys=keys)
        vendor = cls(
            folder=folder,
            root=root,
            processor_ca=root.create_authority(SIMULATED.processor_ca, now=now, keys=keys),
            platform_ca=root.create_authority(SIMULATED.platform_ca, now=now, keys=keys),
            tcb_signing=root.create_signer(SIMULATED.tcb_signing, now=now, keys=keys),
        )
        vendor.root.save(folder, "root")
        vendor.processor_ca.save(folder, "processor-ca")
        vendor.platform_ca.save(folder, "platform-ca")
        vendor.tcb_signing.save(folder, "tcb-signing")
        vendor._write(_State(levels={FMSPC: DEFAULT_LEVELS}))  # last, as the mark of completeness
        return vendor

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the vendor in ``folder``.

        Raises:
            SimulatedStateError: The folder does not contain a complete vendor.
        """
        vendor = cls(
            folder=folder,
            root=Authority.load(folder, "root"),
            processor_ca=Authority.load(folder, "processor-ca"),
            platform_ca=Authority.load(folder, "platform-ca"),
            tcb_signing=Authority.load(folder, "tcb-signing"),
        )
        vendor._read()
        return vendor

    @property
    def root_der(self) -> bytes:
        """The root certificate, the only file of this folder that the owner trusts."""
        return self.root.certificate.public_bytes(Encoding.DER)

    @property
    def anchor(self) -> TrustAnchor:
        """The root as a trust anchor."""
        return TrustAnchor(root_der=self.root_der, simulated=True)

    def authority(self, ca: PckCa) -> Authority:
        """Return the Processor or the Platform CA."""
        return self.processor_ca if ca is PckCa.PROCESSOR else self.platform_ca

    def issue_platform(
        self, public_key: ec.EllipticCurvePublicKey, extension: PckExtension, *, ca: PckCa, now: datetime
    ) -> str:
        """Certify a platform's PCK. Return its chain as PEM: PCK, PCK CA, root."""
        issuer = self.authority(ca)
        leaf = issuer.issue(SIMULATED.pck, public_key, extension=pck_extension.encode(extension), now=now)
        return chain_pem(leaf, issuer.certificate, self.root.certificate)

    def publish_levels(self, levels: Sequence[TcbLevel], *, fmspc: Fmspc = FMSPC) -> None:
        """Replace the TCB levels of a kind of processor and increase the evaluation number, as in a TCB recovery."""
        state = self._read()
        self._write(
            state.model_copy(
                update={
                    "levels": state.levels | {fmspc: tuple(levels)},
                    "early_levels": {},
                    "evaluation_number": state.evaluation_number + 1,
                }
            )
        )

    def announce_levels(self, levels: Sequence[TcbLevel], *, fmspc: Fmspc = FMSPC) -> None:
        """Publish TCB levels on the early channel only, with the next evaluation number. `publish_levels` ends this."""
        self._write(self._read().model_copy(update={"early_levels": {fmspc: tuple(levels)}}))

    def recover_tcb(
        self,
        *,
        advisory_id: str = "SIMULATED-SA-00002",
        fmspc: Fmspc = FMSPC,
        tcb_date: str | None = None,
        early: bool = False,
    ) -> None:
        """Require a higher security version than any platform has, so that all platforms become out of date.

        Args:
            advisory_id: The advisory that affects all present platforms.
            fmspc: The kind of processor.
            tcb_date: The date of the new level. `None` means the date of the present level.
            early: Publish the new levels on the early channel only.
        """
        current = self._read().levels[fmspc]
        newest = bytearray.fromhex(current[0].cpu_svn)
        newest[0] += 1
        dated = current[0].tcb_date if tcb_date is None else tcb_date
        raised = current[0].model_copy(update={"cpu_svn": newest.hex(), "tcb_date": dated})
        older = [
            level.model_copy(
                update={"status": TcbStatus.OUT_OF_DATE, "advisory_ids": (advisory_id, *level.advisory_ids)}
            )
            for level in current
        ]
        publish = self.announce_levels if early else self.publish_levels
        publish([raised, *older], fmspc=fmspc)

    def revoke(self, serial: int) -> None:
        """Add a PCK certificate to the revocation lists."""
        state = self._read()
        self._write(state.model_copy(update={"revoked": (*state.revoked, serial), "crl_number": state.crl_number + 1}))

    def fmspcs(self) -> frozenset[Fmspc]:
        """Return the kinds of processors with published TCB info."""
        return frozenset(self._read().levels)

    def tcb_info(self, fmspc: Fmspc = FMSPC, *, now: datetime, early: bool = False) -> SignedDocument:
        """Return TCB info as of ``now``, of the standard or the early channel. ``fmspc`` must be in `fmspcs`."""
        state = self._read()
        levels = state.levels | state.early_levels if early else state.levels
        number = state.evaluation_number + bool(early and state.early_levels)
        return self.sign(
            documents.encode(documents.tcb_info(fmspc=fmspc, evaluation_number=number, levels=levels[fmspc], now=now))
        )

    def qe_identity(self, *, now: datetime, early: bool = False) -> SignedDocument:
        """Return the quoting enclave's identity as of ``now``, of the standard or the early channel."""
        state = self._read()
        evaluation_number = state.evaluation_number + bool(early and state.early_levels)
        return self.sign(documents.encode(documents.qe_identity(evaluation_number=evaluation_number, now=now)))

    def sign(self, text: str) -> SignedDocument:
        """Sign a document with the TCB signing key."""
        return SignedDocument(text=text, signature=sign_raw(self.tcb_signing.key, text.encode()))

    def root_crl(self, *, now: datetime) -> bytes:
        """Return the root's revocation list, DER."""
        return self.root.revocation_list((), number=self._read().crl_number, now=now)

    def pck_crl(self, ca: PckCa, *, now: datetime) -> bytes:
        """Return a PCK CA's revocation list, DER."""
        state = self._read()
        return self.authority(ca).revocation_list(state.revoked, number=state.crl_number, now=now)

    def signing_chain(self) -> str:
        """Return the certificate chain for TCB info and QE identity, PEM."""
        return chain_pem(self.tcb_signing.certificate, self.root.certificate)

    def pck_ca_chain(self, ca: PckCa) -> str:
        """Return the certificate chain for a PCK CA's revocation list, PEM."""
        return chain_pem(self.authority(ca).certificate, self.root.certificate)

    def collateral(self, fmspc: Fmspc = FMSPC, *, ca: PckCa = PckCa.PLATFORM, now: datetime) -> Collateral:
        """Return all collateral for a kind of platform, as a client would assemble it."""
        tcb_info, qe_identity = self.tcb_info(fmspc, now=now), self.qe_identity(now=now)
        return Collateral(
            pck_crl_issuer_chain=self.pck_ca_chain(ca),
            root_ca_crl=self.root_crl(now=now),
            pck_crl=self.pck_crl(ca, now=now),
            tcb_info_issuer_chain=self.signing_chain(),
            tcb_info=tcb_info.text,
            tcb_info_signature=tcb_info.signature,
            qe_identity_issuer_chain=self.signing_chain(),
            qe_identity=qe_identity.text,
            qe_identity_signature=qe_identity.signature,
        )

    def _read(self) -> _State:
        path = self.folder / _STATE
        try:
            return _State.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise SimulatedStateError(
                f"{path} is not the state file of a simulated vendor.",
                hint="Delete the vendor's folder and create a new vendor. Its platforms then become invalid.",
            ) from error

    def _write(self, state: _State) -> None:
        write_file(self.folder / _STATE, state.model_dump_json(indent=2).encode())
