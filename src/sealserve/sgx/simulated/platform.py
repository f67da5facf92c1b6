"""A simulated platform: a processor's identity and the keys of its provisioning and quoting enclaves.

Its folder holds ``platform.json``, ``pck-chain.pem``, ``pck.key`` and ``attestation.key``. On hardware no such folder
exists: these keys never leave the processor and its enclaves.
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
        pck_chain_pem: The vendor's word for ``pck_key``.
        chain: The same, read.
        attestation_key: Signs quotes.
        qe_id: 16 bytes, tells the quoting enclave apart from others.
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
        """What tells this platform apart from all others, in hexadecimal."""
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
        """Make a new platform in ``folder`` and have the vendor certify it.

        Args:
            vendor: Who certifies it.
            folder: Where it lives.
            now: When it is made.
            out_of_date: Give it the security versions of before the last recovery.
            ca: Which authority certifies it: the Platform CA gives a platform instance id too.
            fmspc: The kind of processor.

        Raises:
            OutputExistsError: There is one already.
        """
        if (folder / _STATE).exists():
            raise OutputExistsError(
                f"{folder} holds a simulated platform already.", hint="Use it, or delete the folder."
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
        write_file(folder / _STATE, state.model_dump_json(indent=2).encode())  # last: it says that the rest is whole
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open the platform in ``folder``.

        Raises:
            SimulatedStateError: There is none.
        """
        try:
            state = _State.model_validate_json((folder / _STATE).read_bytes())
            pem = (folder / _CHAIN).read_bytes()
            chain = PckChain.parse(pem)
        except (OSError, ValidationError, VerificationError) as error:
            raise SimulatedStateError(
                f"{folder}: expected a simulated platform.", hint="Delete the folder and make a new one."
            ) from error
        return cls(
            pck_key=load_key(folder / _PCK),
            pck_chain_pem=pem,
            chain=chain,
            attestation_key=load_key(folder / _ATTESTATION),
            qe_id=bytes.fromhex(state.qe_id),
            qe_authentication_data=bytes.fromhex(state.qe_authentication_data),
        )
