"""The users of a service with two-way TLS. Each user has a separate certificate, which the owner can revoke.

The register contains the serial number of every certificate that was issued, so revoking a user revokes all of them. A
revoked certificate stays on the revocation list after it expires, because the host controls the clock of an enclave.
"""

import contextlib
import hashlib
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509

from sealserve.canonical_document import canonical_json
from sealserve.deployment import Deployment
from sealserve.errors import InputError
from sealserve.owner.codes import OwnerCode
from sealserve.owner.user_register import Issued, UserRegister, changing_register, read_register, write_register
from sealserve.pki.authority import CERTIFICATE_FILE, Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey, extension, parse_chain
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.terms import DEFAULT_USER, LEAF_DAYS, ServerKind, TlsMode
from sealserve.workspace import Workspace

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label, because it is part of a DNS name
_CERTIFICATE: Final = "client.pem"
_KEY: Final = "client.key"


class UserState(StrEnum):
    """Whether the service accepts a user's newest certificate."""

    ACTIVE = "active"
    EXPIRED = "expired"
    FORMER_AUTHORITY = "former-authority"
    """The certificate was signed by an authority that was replaced since. New releases do not accept it."""
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user, described by the user's newest certificate.

    Args:
        name: The user's name.
        state: Whether the service accepts the certificate.
        not_after: Expiry of the certificate.
        serial: Serial number of the certificate, hexadecimal.
        revoked: Time of the revocation, or None.
    """

    name: str
    state: UserState
    not_after: datetime
    serial: str
    revoked: datetime | None


def add(workspace: Workspace, deployment: Deployment, name: str, *, now: datetime, days: int = LEAF_DAYS) -> User:
    """Issue a certificate for a new user. The service accepts it immediately, without a new release.

    Args:
        workspace: The owner's workspace.
        deployment: The deployment that ``sealserve.toml`` describes.
        name: Name of the user: 1 to 63 lower-case letters, digits and hyphens.
        now: The current time.
        days: Validity of the certificate in days.

    Raises:
        InputError: `user.name`: The name is not valid.
        InputError: `user.exists`: An active user with this name already exists.
        InputError: `user.one-way-tls`: The service uses one-way TLS.
        AuthorityMissingError: The authorities do not exist yet.
    """
    if not _NAME.fullmatch(name) or name == DEFAULT_USER:
        raise OwnerCode.USER_NAME.error(
            f"The user name is invalid: expected 1 to 63 lower-case letters, digits and hyphens, got {name[:80]!r}.",
            hint=f"Choose another name. The name {DEFAULT_USER!r} is reserved for the certificate in the folder user/.",
        )
    authority = _authority(workspace, deployment)
    with changing_register(workspace) as register:
        if any(item.revoked is None for item in register.users.get(name, [])):
            raise OwnerCode.USER_EXISTS.error(
                f"The user {name} already exists.",
                hint=f"To issue a new certificate for this user, run `sealserve user renew {name}`.",
            )
        return _issue(workspace, deployment, authority, register, name, now=now, days=days)


def renew(workspace: Workspace, deployment: Deployment, name: str, *, now: datetime, days: int = LEAF_DAYS) -> User:
    """Issue a new certificate, with a new key, for a user. The former certificate stays valid until it expires.

    Raises:
        InputError: `user.unknown`: The user does not exist or is revoked.
        InputError: `user.one-way-tls`: The service uses one-way TLS.
    """
    authority = _authority(workspace, deployment)
    with changing_register(workspace) as register:
        if all(item.revoked is not None for item in register.users.get(name, [])) and name != DEFAULT_USER:
            raise _unknown(workspace, name)
        return _issue(workspace, deployment, authority, register, name, now=now, days=days)


def revoke(workspace: Workspace, deployment: Deployment, name: str, *, now: datetime) -> User:
    """Revoke every certificate of a user. The next release contains the new list; running servers do not receive it.

    Raises:
        InputError: `user.unknown`: The user does not exist or is already revoked.
        InputError: `user.revocation-unsupported`: The deployment's model server does not support revocation.
        InputError: `user.one-way-tls`: The service uses one-way TLS.
    """
    _authority(workspace, deployment)
    _check_supported(deployment)
    with changing_register(workspace) as register:
        if name == DEFAULT_USER:
            _remember(register, name, _default_certificate(workspace))
        open_ones = [item for item in register.users.get(name, []) if item.revoked is None]
        if not open_ones:
            raise _unknown(workspace, name)
        for item in open_ones:
            item.revoked = now
        register.number += 1
    # The register is on disk. Delete the user's certificate and key, which are no longer needed.
    for path in _files(workspace, name):
        path.unlink(missing_ok=True)
    if name != DEFAULT_USER:
        shutil.rmtree(workspace.owner.users / name, ignore_errors=True)
    return _described(name, register.users[name], _current_authority(workspace), now)


def list_users(workspace: Workspace, *, now: datetime) -> list[User]:
    """Return all users, sorted by name."""
    register = read_register(workspace)
    _remember(register, DEFAULT_USER, _default_certificate(workspace))
    current = _current_authority(workspace)
    return [_described(name, items, current, now) for name, items in sorted(register.users.items()) if items]


def names(workspace: Workspace) -> list[str]:
    """Return the names of users with a certificate that is not revoked. Only the register is read, no certificate."""
    register = read_register(workspace)
    return sorted(name for name, items in register.users.items() if any(item.revoked is None for item in items))


def credentials_of(workspace: Workspace, name: str, *, now: datetime) -> CertifiedKey:
    """Return a user's certificate and key, after checking that the service accepts the certificate.

    Raises:
        InputError: `user.unknown`: The user does not exist or is revoked.
        InputError: `user.certificate-outdated`: The certificate has expired, or its authority was replaced.
        CertificateMissingError: The files of the user are missing.
    """
    register = read_register(workspace)
    if name != DEFAULT_USER and all(item.revoked is not None for item in register.users.get(name, [])):
        raise _unknown(workspace, name)
    certificate, key = _files(workspace, name)
    hint = f"Issue a new certificate: `sealserve user renew {name}`."
    pair = CertifiedKey.read(certificate=certificate, key=key, missing=hint)
    _remember(register, name, pair.chain_pem)
    user = _described(name, register.users[name], _current_authority(workspace), now)
    if user.state is not UserState.ACTIVE:
        raise OwnerCode.USER_CERTIFICATE_OUTDATED.error(
            f"The certificate of the user {name} cannot be used: expected the state active, got {user.state}.",
            hint=hint,
        )
    return pair


def remember_default(workspace: Workspace, issued: CertifiedKey) -> None:
    """Record a new certificate for the folder ``user/``, and also the certificate that it will replace."""
    with changing_register(workspace) as register:
        _remember_replaced(workspace, register, DEFAULT_USER)
        _remember(register, DEFAULT_USER, issued.chain_pem)


def revocation_list(workspace: Workspace, deployment: Deployment, *, now: datetime) -> bytes | None:
    """Return the certificate revocation list, signed by the users' authority, or None if it would be empty.

    Certificates of a replaced authority are left out, because a new release does not accept them anyway.

    Raises:
        InputError: `user.revocation-unsupported`: The deployment's model server does not support revocation.
    """
    register = read_register(workspace)
    if not (revoked := register.revoked(_current_authority(workspace))):
        return None
    _check_supported(deployment)
    authority = Authority.load(workspace.owner.authorities / AuthorityKind.USERS)
    return authority.issue_revocation_list(revoked, number=register.number, now=now)


def revocations(workspace: Workspace) -> str | None:
    """Return a digest of the revoked certificates, or None if none is revoked.

    Two releases with different digests have different revocation lists. The number of the list cannot be used for this
    comparison, because restoring an older register decreases it.
    """
    authority = _current_authority(workspace)
    revoked = read_register(workspace).revoked(authority)
    document = {"authority": authority, "serials": [f"{serial:x}" for serial in sorted(revoked)]}
    return hashlib.sha256(canonical_json(document)).hexdigest() if revoked else None


def revoked_since(workspace: Workspace, release: Path) -> list[str]:
    """Return the users who were revoked after a release was built. The release still accepts them.

    Args:
        workspace: The owner's workspace.
        release: The release's folder. Its build time is in whole seconds, so a revocation in the same second counts as
            later.

    Raises:
        VerificationError: `release.invalid-index`: The index of the release is not valid.
    """
    register = read_register(workspace)
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
    register: UserRegister,
    name: str,
    *,
    now: datetime,
    days: int,
) -> User:
    domain = deployment.service.client_name
    fresh = authority.issue_client(domain if name == DEFAULT_USER else f"{name}.{domain}", now=now, days=days)
    # Write the register first, because a certificate that is not in the register cannot be revoked.
    _remember_replaced(workspace, register, name)
    _remember(register, name, fresh.chain_pem)
    write_register(workspace, register)
    certificate, key = _files(workspace, name)
    certificate.parent.mkdir(mode=0o700, exist_ok=True)
    fresh.write(certificate=certificate, key=key)
    return _described(name, register.users[name], _current_authority(workspace), now)


def _remember_replaced(workspace: Workspace, register: UserRegister, name: str) -> None:
    """Record the default user's existing certificate, which an earlier version of sealserve issued without a record.

    A file that is not a certificate is ignored, because renewing the certificate replaces the file.
    """
    if name == DEFAULT_USER:
        with contextlib.suppress(InputError):
            _remember(register, name, _default_certificate(workspace))


def _remember(register: UserRegister, name: str, chain_pem: bytes | None) -> None:
    if chain_pem is not None:
        certificate = parse_chain(chain_pem)[0]
        serial = f"{certificate.serial_number:x}"
        items = register.users.setdefault(name, [])
        if all(item.serial != serial for item in items):
            identifier = extension(certificate, x509.AuthorityKeyIdentifier)
            signer = b"" if identifier is None else identifier.key_identifier or b""
            items.append(Issued(serial=serial, not_after=certificate.not_valid_after_utc, authority=signer.hex()))


def _current_authority(workspace: Workspace) -> str | None:
    """Return the key identifier of the users' authority in hexadecimal, or None if the authority does not exist."""
    try:
        content = read_regular(workspace.owner.authorities / AuthorityKind.USERS / CERTIFICATE_FILE)
    except InputFileMissingError:
        return None
    identifier = extension(parse_chain(content)[0], x509.SubjectKeyIdentifier)
    return None if identifier is None else identifier.digest.hex()


def _default_certificate(workspace: Workspace) -> bytes | None:
    """Return the certificate chain in the folder ``user/``, or None if it does not exist. The key is not needed."""
    try:
        return read_regular(workspace.user.certificate)
    except InputFileMissingError:
        return None


def _described(name: str, items: list[Issued], authority: str | None, now: datetime) -> User:
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
    if not _NAME.fullmatch(name):  # the name becomes part of a path
        raise _unknown(workspace, name)
    folder = workspace.owner.users / name
    return folder / _CERTIFICATE, folder / _KEY


def _authority(workspace: Workspace, deployment: Deployment) -> Authority:
    if deployment.service.tls is not TlsMode.TWO_WAY:
        raise OwnerCode.USER_ONE_WAY_TLS.error(
            'Users can be managed only with two-way TLS: expected service.tls = "two-way", got "one-way".',
            hint='Set service.tls = "two-way" in sealserve.toml to give each user a certificate.',
        )
    return Authority.load(workspace.owner.authorities / AuthorityKind.USERS)


def _check_supported(deployment: Deployment) -> None:
    if deployment.server.kind is ServerKind.TENSORFLOW_SERVING:
        raise OwnerCode.USER_REVOCATION_UNSUPPORTED.error(
            "A user cannot be revoked with TensorFlow Serving's binary: it does not support certificate revocation, "
            "and would continue to accept the user.",
            hint='Use server.kind = "embedded", or replace the users\' authority as described in docs/how-to/users.md.',
        )


def _unknown(workspace: Workspace, name: str) -> Exception:
    known = ", ".join(names(workspace))
    return OwnerCode.USER_UNKNOWN.error(
        f"No active user is named {name[:80]!r}; the active users are: {known or 'none'}.",
        hint="List all users with `sealserve user list`, or add a user with `sealserve user add NAME`.",
    )
