"""The users of a service with two-way TLS. Each has a certificate of their own, which the owner can revoke.

The register remembers the serial number of each certificate that was ever issued, so that revoking a user reaches all
of them. A revoked certificate stays on the list after its last day: the clock inside an enclave is the host's.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography import x509
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.canonical_document import canonical_json
from sealserve.deployment import Deployment
from sealserve.errors import InputError
from sealserve.owner.codes import OwnerCode
from sealserve.pki.authority import CERTIFICATE_FILE, Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey, extension, parse_chain
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.terms import DEFAULT_USER, LEAF_DAYS, ServerKind, TlsMode
from sealserve.workspace import Workspace

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label: it becomes a part of a DNS name
_CERTIFICATE: Final = "client.pem"
_KEY: Final = "client.key"


class UserState(StrEnum):
    """Whether the service accepts a user's newest certificate."""

    ACTIVE = "active"
    EXPIRED = "expired"
    FORMER_AUTHORITY = "former-authority"
    """An authority signed it that was replaced since: new releases do not accept it."""
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user.

    Args:
        name: What the owner calls them.
        state: Whether the service accepts their newest certificate.
        not_after: When it ends.
        serial: Its serial number, hex.
        revoked: When it was revoked, or None.
    """

    name: str
    state: UserState
    not_after: datetime
    serial: str
    revoked: datetime | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class _Issued(_Part):
    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
    not_after: AwareDatetime
    authority: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
    """The key identifier of the authority that signed it, hex."""
    revoked: AwareDatetime | None = None


class _Register(_Part):
    """What was issued to whom; ``number`` is that of the newest revocation list."""

    version: Literal[1] = 1
    number: Annotated[int, Field(ge=0)] = 0
    users: dict[str, list[_Issued]] = {}

    def revoked(self, authority: str | None) -> dict[int, datetime]:
        """Return the serial numbers of what an authority signed and is revoked, and since when."""
        issued = (item for items in self.users.values() for item in items if item.authority == authority)
        return {int(item.serial, 16): item.revoked for item in issued if item.revoked is not None}


def add(workspace: Workspace, deployment: Deployment, name: str, *, now: datetime, days: int = LEAF_DAYS) -> User:
    """Issue a certificate for a new user. The service accepts it at once: a new release is not needed.

    Args:
        workspace: The owner's.
        deployment: What it describes.
        name: The user's name: lower-case letters, digits and hyphens.
        now: The time.
        days: For how many days the certificate is valid.

    Raises:
        InputError: `user.name`: Not a name for a user.
        InputError: `user.exists`: There is such a user.
        InputError: `user.one-way-tls`: The deployment's users have no certificates.
        AuthorityMissingError: There are no certificates yet.
    """
    if not _NAME.fullmatch(name) or name == DEFAULT_USER:
        raise OwnerCode.USER_NAME.error(
            f"{name[:80]!r} cannot be a user's name: expected 1 to 63 lower-case letters, digits and hyphens.",
            hint=f"The name {DEFAULT_USER!r} is that of the certificate in the folder user/.",
        )
    authority = _authority(workspace, deployment)
    with _changing(workspace) as register:
        if any(item.revoked is None for item in register.users.get(name, [])):
            raise OwnerCode.USER_EXISTS.error(
                f"There is a user {name} already.", hint=f"Issue a new certificate: `sealserve user renew {name}`."
            )
        return _issue(workspace, deployment, authority, register, name, now=now, days=days)


def renew(workspace: Workspace, deployment: Deployment, name: str, *, now: datetime, days: int = LEAF_DAYS) -> User:
    """Issue a fresh certificate, with a fresh key, for a user. The former certificate stays valid until it ends.

    Raises:
        InputError: `user.unknown`: There is no such user, or the user is revoked.
        InputError: `user.one-way-tls`: The deployment's users have no certificates.
    """
    authority = _authority(workspace, deployment)
    with _changing(workspace) as register:
        if all(item.revoked is not None for item in register.users.get(name, [])) and name != DEFAULT_USER:
            raise _unknown(workspace, name)
        return _issue(workspace, deployment, authority, register, name, now=now, days=days)


def revoke(workspace: Workspace, deployment: Deployment, name: str, *, now: datetime) -> User:
    """Revoke every certificate of a user. The next release carries the list; running servers do not get it.

    Raises:
        InputError: `user.unknown`: There is no such user, or the user is revoked.
        InputError: `user.revocation-unsupported`: The deployment's model server does not support revocation.
        InputError: `user.one-way-tls`: The deployment's users have no certificates.
    """
    _authority(workspace, deployment)
    _check_supported(deployment)
    with _changing(workspace) as register:
        if name == DEFAULT_USER:
            _remember(register, name, _default_certificate(workspace))
        open_ones = [item for item in register.users.get(name, []) if item.revoked is None]
        if not open_ones:
            raise _unknown(workspace, name)
        for item in open_ones:
            item.revoked = now
        register.number += 1
    # The register is on disk. The owner has no use for the key any more.
    for path in _files(workspace, name):
        path.unlink(missing_ok=True)
    if name != DEFAULT_USER:
        shutil.rmtree(workspace.owner.users / name, ignore_errors=True)
    return _described(name, register.users[name], _current_authority(workspace), now)


def list_users(workspace: Workspace, *, now: datetime) -> list[User]:
    """Return the users, by name."""
    register = _read(workspace)
    _remember(register, DEFAULT_USER, _default_certificate(workspace))
    current = _current_authority(workspace)
    return [_described(name, items, current, now) for name, items in sorted(register.users.items()) if items]


def names(workspace: Workspace) -> list[str]:
    """Return the names in the register of users who have a certificate that is not revoked. No certificate is read."""
    register = _read(workspace)
    return sorted(name for name, items in register.users.items() if any(item.revoked is None for item in items))


def credentials_of(workspace: Workspace, name: str, *, now: datetime) -> CertifiedKey:
    """Return a user's certificate and key, which the service accepts.

    Raises:
        InputError: `user.unknown`: There is no such user, or the user is revoked.
        InputError: `user.certificate-outdated`: The certificate has expired, or its authority was replaced.
        CertificateMissingError: The files of the user are missing.
    """
    register = _read(workspace)
    if name != DEFAULT_USER and all(item.revoked is not None for item in register.users.get(name, [])):
        raise _unknown(workspace, name)
    certificate, key = _files(workspace, name)
    hint = f"Run `sealserve user renew {name}`."
    pair = CertifiedKey.read(certificate=certificate, key=key, missing=hint)
    _remember(register, name, pair.chain_pem)
    user = _described(name, register.users[name], _current_authority(workspace), now)
    if user.state is not UserState.ACTIVE:
        raise OwnerCode.USER_CERTIFICATE_OUTDATED.error(
            f"The certificate of {name} is not usable: expected an active one, got {user.state}.", hint=hint
        )
    return pair


def remember_default(workspace: Workspace, issued: CertifiedKey) -> None:
    """Record the certificate that was issued for the folder ``user/``, and the one that it is about to replace."""
    with _changing(workspace) as register:
        _remember_replaced(workspace, register, DEFAULT_USER)
        _remember(register, DEFAULT_USER, issued.chain_pem)


def revocation_list(workspace: Workspace, deployment: Deployment, *, now: datetime) -> bytes | None:
    """Return the list of the revoked certificates, signed by the users' authority, or None if none is revoked.

    The certificates of a replaced authority do not count: a release of now does not accept any of them.

    Raises:
        InputError: `user.revocation-unsupported`: The deployment's model server does not support revocation.
    """
    register = _read(workspace)
    if not (revoked := register.revoked(_current_authority(workspace))):
        return None
    _check_supported(deployment)
    authority = Authority.load(workspace.owner.authorities / AuthorityKind.USERS)
    return authority.issue_revocation_list(revoked, number=register.number, now=now)


def revocations(workspace: Workspace) -> str | None:
    """Return a digest of what is revoked, or None if nothing is: a release with another one has another list.

    The list's number would not tell: it goes back when an older register is restored.
    """
    authority = _current_authority(workspace)
    revoked = _read(workspace).revoked(authority)
    document = {"authority": authority, "serials": [f"{serial:x}" for serial in sorted(revoked)]}
    return hashlib.sha256(canonical_json(document)).hexdigest() if revoked else None


def revoked_since(workspace: Workspace, release: Path) -> list[str]:
    """Return the users of whom a certificate was revoked since a release was built: the release still accepts them.

    Args:
        workspace: The owner's.
        release: The release's folder. Its time has no fractions of a second, so a release of the same second is taken
            for one that was built before.

    Raises:
        VerificationError: `release.invalid-index`: The release has no valid index.
    """
    register = _read(workspace)
    if not register.number:
        return []
    built = parse_index(read_regular(release / INDEX_FILE)).created_at
    return sorted(
        name
        for name, items in register.users.items()
        if any(item.revoked is not None and item.revoked >= built for item in items)
    )


def _issue(
    workspace: Workspace,
    deployment: Deployment,
    authority: Authority,
    register: _Register,
    name: str,
    *,
    now: datetime,
    days: int,
) -> User:
    domain = deployment.service.client_name
    fresh = authority.issue_client(domain if name == DEFAULT_USER else f"{name}.{domain}", now=now, days=days)
    # The register comes first: a certificate that is not in it could not be revoked.
    _remember_replaced(workspace, register, name)
    _remember(register, name, fresh.chain_pem)
    _write(workspace, register)
    certificate, key = _files(workspace, name)
    certificate.parent.mkdir(mode=0o700, exist_ok=True)
    fresh.write(certificate=certificate, key=key)
    return _described(name, register.users[name], _current_authority(workspace), now)


def _remember_replaced(workspace: Workspace, register: _Register, name: str) -> None:
    """Record the default user's certificate on disk: an earlier version of sealserve issued it without a record.

    A file that is not a certificate is replaced all the same: renewing it is the remedy.
    """
    if name == DEFAULT_USER:
        with contextlib.suppress(InputError):
            _remember(register, name, _default_certificate(workspace))


def _remember(register: _Register, name: str, chain_pem: bytes | None) -> None:
    if chain_pem is not None:
        certificate = parse_chain(chain_pem)[0]
        serial = f"{certificate.serial_number:x}"
        items = register.users.setdefault(name, [])
        if all(item.serial != serial for item in items):
            identifier = extension(certificate, x509.AuthorityKeyIdentifier)
            signer = b"" if identifier is None else identifier.key_identifier or b""
            items.append(_Issued(serial=serial, not_after=certificate.not_valid_after_utc, authority=signer.hex()))


def _current_authority(workspace: Workspace) -> str | None:
    """Return the key identifier of the users' authority, hex, or None if there is no authority."""
    try:
        content = read_regular(workspace.owner.authorities / AuthorityKind.USERS / CERTIFICATE_FILE)
    except InputFileMissingError:
        return None
    identifier = extension(parse_chain(content)[0], x509.SubjectKeyIdentifier)
    return None if identifier is None else identifier.digest.hex()


def _default_certificate(workspace: Workspace) -> bytes | None:
    """Return the certificate chain in the folder ``user/``, or None if there is none. Its key is not needed."""
    try:
        return read_regular(workspace.user.certificate)
    except InputFileMissingError:
        return None


def _described(name: str, items: list[_Issued], authority: str | None, now: datetime) -> User:
    newest = items[-1]
    state = UserState.ACTIVE if newest.authority == authority else UserState.FORMER_AUTHORITY
    if now > newest.not_after:
        state = UserState.EXPIRED
    return User(
        name=name,
        state=UserState.REVOKED if newest.revoked else state,
        not_after=newest.not_after,
        serial=newest.serial,
        revoked=newest.revoked,
    )


def _files(workspace: Workspace, name: str) -> tuple[Path, Path]:
    if name == DEFAULT_USER:
        return workspace.user.certificate, workspace.user.key
    if not _NAME.fullmatch(name):  # it becomes a path
        raise _unknown(workspace, name)
    folder = workspace.owner.users / name
    return folder / _CERTIFICATE, folder / _KEY


def _authority(workspace: Workspace, deployment: Deployment) -> Authority:
    if deployment.service.tls is not TlsMode.TWO_WAY:
        raise OwnerCode.USER_ONE_WAY_TLS.error(
            'The users of this service have no certificates: service.tls is "one-way".',
            hint='Set service.tls = "two-way" to give each user a certificate.',
        )
    return Authority.load(workspace.owner.authorities / AuthorityKind.USERS)


def _check_supported(deployment: Deployment) -> None:
    if deployment.server.kind is ServerKind.TENSORFLOW_SERVING:
        raise OwnerCode.USER_REVOCATION_UNSUPPORTED.error(
            "TensorFlow Serving's binary does not support certificate revocation: it would go on accepting the user.",
            hint='Use server.kind = "embedded", or make a new users\' authority: see docs/how-to/users.md.',
        )


def _unknown(workspace: Workspace, name: str) -> Exception:
    known = ", ".join(names(workspace))
    return OwnerCode.USER_UNKNOWN.error(
        f"There is no active user {name[:80]!r}; the active users are {known or 'none'}.",
        hint="`sealserve user list` shows all users, and `sealserve user add NAME` adds one.",
    )


def _path(workspace: Workspace) -> Path:
    return workspace.owner.users / "register.json"


def _read(workspace: Workspace) -> _Register:
    path = _path(workspace)
    try:
        return _Register.model_validate_json(read_regular(path))
    except InputFileMissingError:
        return _Register()
    except ValidationError as error:
        raise OwnerCode.USER_REGISTER_DAMAGED.error(
            f"{path} is not a register of users: {error.errors()[0]['msg']}.",
            hint="Restore it from a backup: without it, certificates that were issued cannot be revoked.",
        ) from error


def _write(workspace: Workspace, register: _Register) -> None:
    write_file(_path(workspace), register.model_dump_json(indent=2).encode() + b"\n", mode=PRIVATE)


@contextlib.contextmanager
def _changing(workspace: Workspace) -> Iterator[_Register]:
    """Yield the register, and write it in the end; other processes wait."""
    folder = workspace.owner.users
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        register = _read(workspace)
        yield register
        _write(workspace, register)
    finally:
        os.close(lock)
