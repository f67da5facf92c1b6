"""The user's policy: what a service must prove before the user sends an input. The user writes it, not the owner.

The policy is a value, or a TOML file. `docs/reference/attestation-protocol.md` describes the file.
"""

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field, StringConstraints, ValidationError

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.keyset import IDENTITY_KEY_SIZE
from sealserve.attestation.policy import LARGEST_EVALUATION_NUMBER
from sealserve.attestation.tcb_policy import TcbPolicy
from sealserve.attested.codes import AttestedCode
from sealserve.canonical_document import DocumentPart, Sha256
from sealserve.errors import SealserveError
from sealserve.names import OperationName
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import AttributeFlags, MrEnclave, MrSigner
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.x509_errors import X509_ERRORS

LARGEST_FILE: Final = 64 * 2**10
"""The maximum size of a policy file in bytes."""
DEFAULT_TCB: Final = "cloud-smt"
_REQUIRED_FLAGS: Final = AttributeFlags.INIT | AttributeFlags.MODE64BIT
_X87_AND_SSE: Final = 0x3


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPolicy:
    """A user's policy. A service must satisfy every rule.

    Args:
        tcb: The accepted TCB states of a platform.
        owner_keys: The pinned Ed25519 public keys of the owner, 32 bytes each. If there are any, the service must
            present a release statement that one of them signed, and an attestation result of a broker in it.
        enclaves: The pinned enclaves. If there are any, the service's enclave must be one of them.
        releases: The ids of the pinned releases. If there are any, the service's release must be one of them.
        least_evaluation_number: The minimum TCB evaluation data number of the collateral. The service bundles the
            collateral, so without a minimum it can present collateral that is old but has not expired.
        dangerous_operations: The accepted operations, although the model lint rejects them. A statement in which the
            owner allows another such operation is rejected.
        dangerous_shared_batches: Whether the requests of several users may be computed in one batch. A model can then
            answer one user with the input of another user.
        dangerous_simulated_root: The root of a simulated vendor, or `None`. A policy with such a root accepts only
            simulated services, which protect nothing.

    Raises:
        InputError: `user-policy.empty` if the policy pins neither an owner key nor an enclave.
        InputError: `user-policy.invalid` if an owner key does not have 32 bytes.
    """

    tcb: TcbPolicy
    owner_keys: tuple[bytes, ...] = ()
    enclaves: tuple[ReferenceValues, ...] = ()
    releases: frozenset[str] = frozenset()
    least_evaluation_number: int = 0
    dangerous_operations: frozenset[str] = frozenset()
    dangerous_shared_batches: bool = False
    dangerous_simulated_root: TrustAnchor | None = None

    def __post_init__(self) -> None:
        if not self.owner_keys and not self.enclaves:
            raise AttestedCode.USER_POLICY_EMPTY.error(
                "The user's policy is empty: it pins neither an owner key nor an enclave.",
                hint="Pin the key that the owner published, or list enclaves that you measured.",
            )
        if any(len(key) != IDENTITY_KEY_SIZE for key in self.owner_keys):
            raise _fault("an owner key is not an Ed25519 public key of 32 bytes")

    @property
    def anchor(self) -> TrustAnchor:
        """The root that quotes must end at: the policy decides, never the quote."""
        return self.dangerous_simulated_root or TrustAnchor.intel()


class _Pin(DocumentPart):
    mr_enclave: Sha256
    mr_signer: Sha256
    isv_prod_id: Annotated[int, Field(ge=0, le=2**16 - 1)]
    isv_svn: Annotated[int, Field(ge=0, le=2**16 - 1)]

    def values(self) -> ReferenceValues:
        # These four values identify the code. The platform decides the other attributes.
        return ReferenceValues(
            mr_enclave=MrEnclave(bytes.fromhex(self.mr_enclave)),
            mr_signer=MrSigner(bytes.fromhex(self.mr_signer)),
            isv_prod_id=self.isv_prod_id,
            isv_svn=self.isv_svn,
            attribute_flags=_REQUIRED_FLAGS,
            attribute_flags_mask=_REQUIRED_FLAGS | AttributeFlags.DEBUG,
            xfrm=_X87_AND_SSE,
            xfrm_mask=_X87_AND_SSE,
        )


class _Tcb(DocumentPart):
    preset: Literal["strict", "cloud-smt"] | None = None
    accept: dict[str, list[str]] | None = None


class _Collateral(DocumentPart):
    least_evaluation_number: Annotated[int, Field(ge=0, le=LARGEST_EVALUATION_NUMBER)] = 0


class _File(DocumentPart):
    version: Literal[1]
    owner_keys: Annotated[list[Sha256], Field(max_length=8, default_factory=list)]  # as many bytes as a digest
    releases: Annotated[list[Sha256], Field(max_length=256, default_factory=list)]
    enclaves: Annotated[list[_Pin], Field(max_length=256, default_factory=list)]
    tcb: _Tcb = _Tcb()
    collateral: _Collateral = _Collateral()
    dangerous_operations: Annotated[list[OperationName], Field(max_length=256, default_factory=list)]
    dangerous_shared_batches: bool = False
    dangerous_simulated_root: Annotated[str, StringConstraints(max_length=8192)] | None = None


def parse_user_policy(content: bytes) -> UserPolicy:
    """Parse a policy file.

    Raises:
        InputError: `user-policy.invalid` if the content is not a valid policy file. The message names the key.
        InputError: `user-policy.empty` if the policy pins neither an owner key nor an enclave.
    """
    if len(content) > LARGEST_FILE:
        raise _fault(f"expected at most {LARGEST_FILE} bytes, got {len(content)}")
    try:
        file = _File.model_validate(tomllib.loads(content.decode()))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:120].encode("unicode_escape").decode()
        raise _fault(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
    except (ValueError, RecursionError) as error:
        raise _fault(f"it is not valid TOML in UTF-8: {error}", hint="Correct the syntax of the file.") from error
    try:
        return UserPolicy(
            tcb=_tcb(file.tcb),
            owner_keys=tuple(bytes.fromhex(key) for key in file.owner_keys),
            enclaves=tuple(pin.values() for pin in file.enclaves),
            releases=frozenset(file.releases),
            least_evaluation_number=file.collateral.least_evaluation_number,
            dangerous_operations=frozenset(file.dangerous_operations),
            dangerous_shared_batches=file.dangerous_shared_batches,
            dangerous_simulated_root=_root(file.dangerous_simulated_root),
        )
    except SealserveError as error:
        if error.code in {AttestedCode.USER_POLICY_EMPTY, AttestedCode.USER_POLICY_INVALID}:
            raise
        raise _fault(error.message.removesuffix("."), hint=error.hint) from error


def tcb_preset(name: str) -> TcbPolicy:
    """Return the TCB policy of a preset, ``strict`` or ``cloud-smt``."""
    path = resources.files("sealserve.attestation").joinpath("policies", f"{name}.toml")
    return _accepting(name, tomllib.loads(path.read_text(encoding="utf-8"))["tcb"]["accept"])


def _tcb(table: _Tcb) -> TcbPolicy:
    if table.preset is not None and table.accept is not None:
        raise _fault("the table `tcb`: expected preset or accept, got both")
    if table.accept is None:
        return tcb_preset(table.preset or DEFAULT_TCB)
    return _accepting("user", table.accept)


def _accepting(name: str, accept: dict[str, list[str]]) -> TcbPolicy:
    if unknown := sorted(accept.keys() - set(TcbStatus)):
        raise _fault(f"tcb.accept: {unknown[0]!r:.60} is not a TCB status")
    return TcbPolicy(
        name=name, accept={TcbStatus(status): frozenset(advisories) for status, advisories in accept.items()}
    )


def _root(pem: str | None) -> TrustAnchor | None:
    if pem is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except X509_ERRORS as error:
        raise _fault("dangerous_simulated_root: expected a certificate in PEM") from error
    return TrustAnchor(root_der=certificate.public_bytes(Encoding.DER), simulated=True)


def _fault(what: str, *, hint: str | None = None) -> SealserveError:
    shown = re.sub(r"[^\x20-\x7e]", "?", what)  # keys can be any text
    return AttestedCode.USER_POLICY_INVALID.error(
        f"The user's policy is invalid: {shown}.",
        hint=hint or "Correct the key. docs/reference/attestation-protocol.md describes all keys.",
    )
