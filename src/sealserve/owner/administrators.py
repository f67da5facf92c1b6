"""The broker's remote administrators: their certificate authority, their certificates, and revocation.

The register contains the serial number of every certificate that was issued. The broker reads only the authority's
certificate and its revocation list, in the same folder, for each request. Therefore a revocation takes
effect immediately.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner.certificates import broker_authority_pem
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import require_first_use
from sealserve.pki import expiry
from sealserve.pki.administrators import AdministratorAuthority, check_name
from sealserve.pki.authority import CERTIFICATE_FILE
from sealserve.pki.certificate import parse_chain
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.terms import AdministratorRole, PlatformKind
from sealserve.whole_folder import refuse_existing
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate of an administrator.

    Args:
        name: The administrator's name.
        role: The role in the certificate.
        serial: The serial number, hexadecimal.
        not_after: Expiry of the certificate.
        revoked: Time of the revocation, or None.
    """

    name: str
    role: AdministratorRole
    serial: str
    not_after: datetime
    revoked: datetime | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Issued(_Part):
    name: str
    role: AdministratorRole
    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
    not_after: AwareDatetime
    revoked: AwareDatetime | None = None

    def described(self) -> IssuedCertificate:
        return IssuedCertificate(**dict(self))


class _Register(_Part):
    version: Literal[1] = 1
    number: Annotated[int, Field(ge=0)] = 0
    """The number of the newest revocation list."""
    issued: list[_Issued] = []

    @property
    def revoked(self) -> dict[int, datetime]:
        return {int(item.serial, 16): item.revoked for item in self.issued if item.revoked is not None}


def issue(
    workspace: Workspace,
    deployment: Deployment,
    name: str,
    role: AdministratorRole,
    output: Path,
    *,
    now: datetime,
    days: int,
) -> IssuedCertificate:
    """Issue a certificate for an administrator, and write it with its key to an administrator file.

    The first call creates the certificate authority of the administrators. An administrator may have several
    certificates, so that a certificate can be renewed before it expires.

    Args:
        workspace: The owner's workspace, with the certificate authority of the broker.
        deployment: Supplies ``broker.name``, which the administrator's client verifies.
        name: 1 to 32 lower-case letters, digits and hyphens.
        role: The administrator's role.
        output: The file to write. It must not exist.
        now: The current time.
        days: Validity of the certificate in days.

    Raises:
        InputError: `administrator.name` if the name is invalid.
        OutputExistsError: The output exists.
        AuthorityMissingError: The broker's certificate authority does not exist yet.
        IdentityLostError: The key of the administrators' authority is missing, although it has signed certificates.
    """
    check_name(name)
    refuse_existing(output)
    broker_ca = broker_authority_pem(workspace)
    with _changing(workspace) as register:
        authority = _authority(workspace, simulated=deployment.platform is PlatformKind.SIMULATED, now=now)
        identity = authority.issue(name, role, now=now, days=days)
        certificate = parse_chain(identity.chain_pem)[0]
        issued = _Issued(
            name=name,
            role=role,
            serial=f"{certificate.serial_number:x}",
            not_after=certificate.not_valid_after_utc,
        )
        # Write the register before the file, because a certificate that is not in the register cannot be revoked.
        register.issued.append(issued)
        _write(workspace, register, authority, now=now)
        AdministratorFile(
            name=name, role=role, server_name=deployment.broker.name, broker_ca=broker_ca, identity=identity
        ).write(output)
    return issued.described()


def revoke(workspace: Workspace, name: str, *, now: datetime) -> Sequence[IssuedCertificate]:
    """Revoke every certificate of an administrator. A running broker refuses them from its next request on.

    Raises:
        InputError: `administrator.unknown` if the administrator has no certificate that is not revoked.
        InputError: `administrator.authority` if no certificate was ever issued.
    """
    with _changing(workspace) as register:
        found = [item for item in register.issued if item.name == name and item.revoked is None]
        if not found:
            active = sorted({item.name for item in register.issued if item.revoked is None})
            raise OwnerCode.ADMINISTRATOR_UNKNOWN.error(
                f"No active administrator is named {name[:80]!r}; the active administrators are: "
                f"{', '.join(active) or 'none'}.",
                hint="List the administrators with `sealserve broker admin list`.",
            )
        authority = _authority(workspace, simulated=False, now=now)
        for item in found:
            item.revoked = now
        _write(workspace, register, authority, now=now)
    return [item.described() for item in found]


def every(workspace: Workspace) -> Sequence[IssuedCertificate]:
    """Return all certificates of administrators, in the order in which they were issued."""
    return [item.described() for item in _read(workspace).issued]


def certificate_ends(workspace: Workspace) -> Mapping[str, datetime]:
    """Return the expiry time of the administrators' authority, and of each administrator's newest certificate.

    Revoked certificates are left out. The names are the names of `sealserve.pki.expiry`.

    Raises:
        SealserveError: The authority's certificate or the register cannot be read.
    """
    file = workspace.owner.administrators / CERTIFICATE_FILE
    if not file.is_file():
        return {}
    authority = parse_chain(read_regular(file), source=str(file))[0].not_valid_after_utc
    ends = {expiry.ADMINISTRATORS_AUTHORITY: authority}
    for item in every(workspace):
        name = f"{expiry.ADMINISTRATOR}{item.name}"
        if item.revoked is None:
            ends[name] = max(item.not_after, ends.get(name, item.not_after))
    return ends


def require_trust(workspace: Workspace) -> None:
    """Check that the broker can verify administrators.

    Raises:
        InputError: `administrator.authority` if the administrators' authority does not exist yet.
    """
    if not (workspace.owner.administrators / CERTIFICATE_FILE).is_file():
        raise _no_authority(workspace)


def _authority(workspace: Workspace, *, simulated: bool, now: datetime) -> AdministratorAuthority:
    """Return the administrators' authority, after creating it if it never existed."""
    folder, public = workspace.owner.administrators_authority, workspace.owner.administrators / CERTIFICATE_FILE
    if not folder.exists():
        require_first_use("The administrators' authority", folder, [public])
        AdministratorAuthority.create(simulated=simulated, now=now).save(folder)
    return AdministratorAuthority.load(folder)


def _no_authority(workspace: Workspace) -> SealserveError:
    return OwnerCode.ADMINISTRATOR_AUTHORITY.error(
        f"Remote administration is on, but {workspace.owner.administrators} does not contain the certificate of an "
        "administrators' authority.",
        hint="Issue the first certificate with `sealserve broker admin issue`, or remove broker.admin_port.",
    )


def _register_file(workspace: Workspace) -> Path:
    return workspace.owner.administrators / "register.json"


def _read(workspace: Workspace) -> _Register:
    path = _register_file(workspace)
    try:
        return _Register.model_validate_json(read_regular(path))
    except InputFileMissingError:
        return _Register()
    except ValidationError as error:
        raise OwnerCode.ADMINISTRATOR_REGISTER_DAMAGED.error(
            f"The register of administrators {path} is damaged: {error.errors(include_input=False)[0]['msg']}.",
            hint="Restore the file from a backup. Without it, issued certificates cannot be revoked.",
        ) from error


def _write(workspace: Workspace, register: _Register, authority: AdministratorAuthority, *, now: datetime) -> None:
    register.number += 1
    # Publish first: after an interruption, the same command can be repeated.
    authority.publish(workspace.owner.administrators, register.revoked, number=register.number, now=now)
    content = register.model_dump_json(indent=2).encode() + b"\n"
    write_file(_register_file(workspace), content, mode=PRIVATE, keep_owner=True)


@contextlib.contextmanager
def _changing(workspace: Workspace) -> Iterator[_Register]:
    """Yield the register under a lock. Other processes wait for the lock."""
    folder = workspace.owner.administrators
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield _read(workspace)
    finally:
        os.close(lock)
