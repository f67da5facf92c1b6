"""A simulated platform: the identity of a processor, and the keys of its provisioning and quoting enclaves.

The platform's folder contains ``platform.json``, ``pck-chain.pem``, ``pck.key`` and ``attestation.key``. Hardware has
no such folder: these keys never leave the processor and its enclaves.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from sealserve.atomic_file import OutputExistsError, write_file
from sealserve.errors import VerificationError
from sealserve.sgx.pck import Fmspc, PckCa, PckChain, PckExtension
from sealserve.sgx.quote import QE_AUTHENTICATION_DATA_SIZE
from sealserve.sgx.simulated.authority import SimulatedStateError, load_key, new_key, save_key
from sealserve.sgx.simulated.documents import CPU_SVN, FMSPC, OLD_CPU_SVN, OLD_PCE_SVN, PCE_ID, PCE_SVN
from sealserve.sgx.simulated.vendor import Vendor

_STATE: Final = "platform.json"
_CHAIN: Final = "pck-chain.pem"
_PCK: Final = "pck.key"
_ATTESTATION: Final = "attestation.key"


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    simulated: Literal[True] = True
    qe_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    qe_authentication_data: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPlatform:
    """A simulated platform. See `create` and `load`.

    Args:
        pck_key: Certifies the quoting enclave's attestation key.
        pck_chain_pem: The certificate chain of ``pck_key``.
        chain: The parsed certificate chain.
        attestation_key: Signs quotes.
        qe_id: The id of the quoting enclave, 16 bytes.
        qe_authentication_data: 32 bytes.
    """

    pck_key: ec.EllipticCurvePrivateKey = field(repr=False)
    pck_chain_pem: bytes = field(repr=False)
    chain: PckChain
    attestation_key: ec.EllipticCurvePrivateKey = field(repr=False)
    qe_id: bytes
    qe_authentication_data: bytes

    @property
    def platform_id(self) -> str:
        """The unique id of this platform, in hexadecimal."""
        return self.chain.extension.platform_id

    @classmethod
    def create(
        cls,
        vendor: Vendor,
        folder: Path,
        *,
        now: datetime,
        out_of_date: bool = False,
        ca: PckCa = PckCa.PLATFORM,
        fmspc: Fmspc = FMSPC,
    ) -> Self:
        """Create a platform in ``folder``. The vendor certifies it.

        Args:
            vendor: The vendor that certifies the platform.
            folder: The platform's folder.
            now: The time of creation.
            out_of_date: Whether the platform has the security versions from before the last TCB recovery.
            ca: The CA that certifies the platform. The Platform CA adds a platform instance id.
            fmspc: The kind of processor.

        Raises:
            OutputExistsError: The folder already contains a platform.
        """
        if (folder / _STATE).exists():
            raise OutputExistsError(
                f"{folder} already contains a simulated platform.", hint="Use this platform, or delete the folder."
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        extension = PckExtension(
            ppid=secrets.token_bytes(16),
            cpu_svn=OLD_CPU_SVN if out_of_date else CPU_SVN,
            pce_svn=OLD_PCE_SVN if out_of_date else PCE_SVN,
            pce_id=PCE_ID,
            fmspc=fmspc,
            platform_instance_id=secrets.token_bytes(16) if ca is PckCa.PLATFORM else None,
        )
        pck_key = new_key()
        chain = vendor.issue_platform(pck_key.public_key(), extension, ca=ca, now=now)
        save_key(pck_key, folder / _PCK)
        save_key(new_key(), folder / _ATTESTATION)
        write_file(folder / _CHAIN, chain.encode())
        state = _State(
            qe_id=secrets.token_hex(16), qe_authentication_data=secrets.token_hex(QE_AUTHENTICATION_DATA_SIZE)
        )
        write_file(folder / _STATE, state.model_dump_json(indent=2).encode())  # last, as the mark of completeness
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the platform in ``folder``.

        Raises:
            SimulatedStateError: The folder does not contain a complete platform.
        """
        try:
            state = _State.model_validate_json((folder / _STATE).read_bytes())
            pem = (folder / _CHAIN).read_bytes()
            chain = PckChain.parse(pem)
        except (OSError, ValidationError, VerificationError) as error:
            raise SimulatedStateError(
                f"{folder} does not contain a simulated platform.", hint="Delete the folder and create a new platform."
            ) from error
        return cls(
            pck_key=load_key(folder / _PCK),
            pck_chain_pem=pem,
            chain=chain,
            attestation_key=load_key(folder / _ATTESTATION),
            qe_id=bytes.fromhex(state.qe_id),
            qe_authentication_data=bytes.fromhex(state.qe_authentication_data),
        )
