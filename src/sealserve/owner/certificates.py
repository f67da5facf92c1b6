"""The workspace's certificates: the authorities, the broker's certificate and the default user's certificate.

The service's certificate is not managed here: each release gets a new one, whose private key exists only in the sealed
``ssl.cfg``. For attested serving, the enclave creates it.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealserve.atomic_file import OutputExistsError, write_file
from sealserve.deployment import Deployment
from sealserve.owner import issuing, users
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import require_first_use
from sealserve.owner.service_certificate import given_certificate, trusted_by_users
from sealserve.pki.authority import Authority, AuthorityKind, AuthorityMissingError, split_names
from sealserve.pki.certificate import (
    CertificateInfo,
    CertificateMissingError,
    CertifiedKey,
    IPAddress,
    KeyMismatchError,
    describe,
)
from sealserve.pki.client_settings import CLIENT_SETTINGS_PATH, ClientSettings
from sealserve.pki.ssl_config import SSL_CONFIG_PATH, SslConfig
from sealserve.regular_file import read_regular
from sealserve.sealing.release_index import INDEX_FILE
from sealserve.secret import SecretBytes
from sealserve.terms import PlatformKind, TlsMode
from sealserve.workspace import Workspace

BROKER_CERTIFICATE = "broker.pem"
BROKER_KEY = "broker.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCertificate:
    """A certificate of the workspace: its role, its file and its content."""

    role: str
    path: Path
    info: CertificateInfo


def check_mode(deployment: Deployment, mode: TlsMode) -> None:
    """Check that the deployment uses the TLS mode ``mode``.

    Raises:
        InputError: `certs.tls-mode`: The deployment uses the other mode.
    """
    if deployment.service.tls is not mode:
        raise OwnerCode.CERTS_TLS_MODE.error(
            f"The certificates do not fit the deployment: expected service.tls = {mode.value!r} in sealserve.toml, got "
            f"{deployment.service.tls.value!r}.",
            hint=f"Run `sealserve certs {deployment.service.tls.value}`, or change service.tls.",
        )


def create_certificates(
    workspace: Workspace, deployment: Deployment, *, now: datetime, first_time: bool = False
) -> list[NamedCertificate]:
    """Create the authorities, and issue the broker's certificate and, for two-way TLS, the default user's.

    Existing authorities and certificates are kept, so a second run completes an interrupted run.

    Args:
        workspace: The owner's workspace.
        deployment: The names and the TLS mode.
        now: The current time.
        first_time: Raise an error if an authority was lost. Otherwise a lost authority is replaced.

    Returns:
        All certificates of the workspace.

    Raises:
        OutputExistsError: All certificates already exist, or the folder of an authority contains other files.
        IdentityLostError: ``first_time`` is set, and an authority that signed existing certificates is missing.
    """
    workspace.create()
    simulated = deployment.platform is PlatformKind.SIMULATED
    made = set()
    for kind, (names, addresses) in _wanted(deployment).items():
        try:
            _authority(workspace, kind)
        except AuthorityMissingError:
            if first_time:
                folder = workspace.owner.authorities / kind
                require_first_use(f"The {kind} authority", folder, _made_by(workspace, kind))
            authority = Authority.create(kind, names=names, addresses=addresses, simulated=simulated, now=now)
            authority.save(workspace.owner.authorities / kind)
            made.add(kind)
    issued = _issue(workspace, deployment, now=now, afresh=made)
    issued |= ensure_issuing(workspace, deployment, now=now)
    if not made and not issued:
        raise OutputExistsError(
            f"The certificates already exist, and so do the three authorities in {workspace.owner.authorities}.",
            hint="To issue new certificates from the existing authorities, run `sealserve certs renew`.",
        )
    return list(show_certificates(workspace))


def _wanted(deployment: Deployment) -> Mapping[AuthorityKind, tuple[Sequence[str], Sequence[IPAddress]]]:
    """Return the names and addresses for which each authority may sign."""
    return {
        AuthorityKind.BROKER: split_names((deployment.broker.name, deployment.broker.address)),
        AuthorityKind.SERVICE: ((deployment.service.name,), ()),
        AuthorityKind.USERS: ((deployment.service.client_name,), ()),
    }


def outgrown_authorities(workspace: Workspace, deployment: Deployment) -> Sequence[AuthorityKind]:
    """Return the authorities that may not sign what the deployment needs now. Nothing is changed."""
    return [
        kind
        for kind, (names, addresses) in _wanted(deployment).items()
        if (workspace.owner.authorities / kind).exists() and not _authority(workspace, kind).permits(names, addresses)
    ]


def check_service_authority(workspace: Workspace, deployment: Deployment) -> None:
    """Check that the service's authority can sign the issuing CA, if the deployment is attested and it stays.

    An authority of an earlier version cannot. Users must get another certificate of it, so the owner decides when.

    Raises:
        InputError: `authority.no-intermediate`: It cannot sign the issuing CA.
    """
    if not deployment.server.attested or not (workspace.owner.authorities / AuthorityKind.SERVICE).exists():
        return
    service = _authority(workspace, AuthorityKind.SERVICE)
    if service.permits((deployment.service.name,)):
        service.check_may_sign_authorities()


def adapt_certificates(workspace: Workspace, deployment: Deployment, *, now: datetime) -> None:
    """Issue the certificates that a deployment needs after its names or its TLS mode changed.

    An authority that may not sign for a new name is replaced. Its folder is kept as ``KIND.replaced-TIME``.

    Args:
        workspace: The owner's workspace, with authorities.
        deployment: The names and the TLS mode.
        now: The current time.
    """
    replaced = outgrown_authorities(workspace, deployment)
    for kind in replaced:
        names, addresses = _wanted(deployment)[kind]
        simulated = deployment.platform is PlatformKind.SIMULATED
        folder = workspace.owner.authorities / kind
        # Complete the new authority before the old one is moved away.
        new = folder.with_name(f"{kind}.new")
        shutil.rmtree(new, ignore_errors=True)
        Authority.create(kind, names=names, addresses=addresses, simulated=simulated, now=now).save(new)
        folder.rename(folder.with_name(f"{kind}.replaced-{now:%Y%m%dT%H%M%S}"))
        new.rename(folder)
    _issue(workspace, deployment, now=now, afresh=frozenset(replaced))
    ensure_issuing(workspace, deployment, now=now)


def lacks_certificates(workspace: Workspace, deployment: Deployment) -> bool:
    """Return whether `adapt_certificates` would issue something. Nothing is changed."""
    if not all((workspace.owner.authorities / kind).exists() for kind in AuthorityKind):
        return False  # creating the first certificates is a separate step
    user = workspace.user
    lacks_user = deployment.service.tls is TlsMode.TWO_WAY and not _is_whole(user.certificate, user.key)
    lacks_root = (
        deployment.service.tls_root_file is not None
        and user.service_ca.is_file()
        and user.service_ca.read_bytes() != trusted_by_users(deployment, _authority(workspace, AuthorityKind.SERVICE))
    )
    needs_issuing = issuing.is_needed(workspace, deployment, _authority(workspace, AuthorityKind.SERVICE))
    return lacks_user or lacks_root or needs_issuing or bool(outgrown_authorities(workspace, deployment))


def lacks_issuing(workspace: Workspace, deployment: Deployment) -> bool:
    """Return whether an attested deployment has no issuing CA, although its authorities can create it."""
    if not deployment.server.attested or issuing.exists(workspace):
        return False
    service = _authority(workspace, AuthorityKind.SERVICE)
    return service.may_sign_authorities and service.permits(issuing.names_of(deployment))


def lost_authorities(workspace: Workspace) -> Sequence[AuthorityKind]:
    """Return the authorities that are missing although certificates that they signed exist."""
    folders = {kind: workspace.owner.authorities / kind for kind in AuthorityKind}
    return [
        kind
        for kind, folder in folders.items()
        if not folder.exists() and any(path.exists() for path in _made_by(workspace, kind))
    ]


def renew_certificates(workspace: Workspace, deployment: Deployment, *, now: datetime) -> list[NamedCertificate]:
    """Issue new certificates, with new keys, for the broker and the default user.

    Raises:
        AuthorityMissingError: The authorities do not exist yet.
    """
    workspace.create()
    _issue(workspace, deployment, now=now, afresh=frozenset(AuthorityKind))
    return list(show_certificates(workspace))


def renew_service_authority(workspace: Workspace, deployment: Deployment, *, now: datetime) -> list[NamedCertificate]:
    """Issue the certificate of the service's authority again, with the same key, and write it for the users.

    Users with the new ``user/service-ca.pem`` also accept the present service. Its old certificate is kept as
    ``ca.replaced-TIME.pem``. If the deployment is attested, the issuing CA is created as well.

    Args:
        workspace: The owner's workspace, with authorities.
        deployment: The deployment.
        now: The current time.

    Raises:
        AuthorityMissingError: The authorities do not exist yet.
    """
    folder = workspace.owner.authorities / AuthorityKind.SERVICE
    former = _authority(workspace, AuthorityKind.SERVICE)
    write_file(folder / f"ca.replaced-{now:%Y%m%dT%H%M%S}.pem", former.certificate_pem)
    renewed = former.renewed(now=now)
    renewed.save_certificate(folder)
    write_file(workspace.user.service_ca, trusted_by_users(deployment, renewed))
    if former.permits((deployment.service.name,)):
        ensure_issuing(workspace, deployment, now=now)
    return list(show_certificates(workspace))


def rotate_issuing(
    workspace: Workspace, deployment: Deployment, *, now: datetime, compromised: bool = False
) -> list[NamedCertificate]:
    """Replace the issuing CA of attested serving. See `sealserve.owner.issuing_rotation.rotate`.

    Returns:
        All certificates of the workspace.

    Raises:
        InputError: `certs.not-attested`: The deployment does not use attested serving.
        AuthorityMissingError: The authorities do not exist yet.
    """
    if not deployment.server.attested:
        raise OwnerCode.CERTS_NOT_ATTESTED.error(
            "The deployment has no issuing authority, because its servers use a TLS key that the owner creates.",
            hint="Remove server.dangerous_owner_tls_key from sealserve.toml, or run `sealserve certs renew`.",
        )
    _rotate_issuing(workspace, deployment, now=now, compromised=compromised)
    return list(show_certificates(workspace))


def ensure_issuing(workspace: Workspace, deployment: Deployment, *, now: datetime) -> bool:
    """Create the issuing CA if the deployment needs a new one. Return whether it was created."""
    if not issuing.is_needed(workspace, deployment, _authority(workspace, AuthorityKind.SERVICE)):
        return False
    _rotate_issuing(workspace, deployment, now=now)
    return True


def _rotate_issuing(workspace: Workspace, deployment: Deployment, *, now: datetime, compromised: bool = False) -> None:
    # The keystore needs the extra `owner`. Users, who import this module too, do not have it.
    from sealserve.owner.issuing_rotation import rotate  # noqa: PLC0415

    service = _authority(workspace, AuthorityKind.SERVICE)
    rotate(workspace, deployment, service, now=now, compromised=compromised)


def _issue(workspace: Workspace, deployment: Deployment, *, now: datetime, afresh: AbstractSet[AuthorityKind]) -> bool:
    """Issue the certificates of the authorities ``afresh``, and all missing or incomplete ones.

    Returns:
        Whether any certificate was issued.
    """
    authorities = {kind: _authority(workspace, kind) for kind in AuthorityKind}
    owner, user = workspace.owner, workspace.user
    issued = False
    broker_certificate, broker_key = owner.broker_tls / BROKER_CERTIFICATE, owner.broker_tls / BROKER_KEY
    if AuthorityKind.BROKER in afresh or not _is_whole(broker_certificate, broker_key):
        names, addresses = split_names((deployment.broker.name, deployment.broker.address))
        owner.broker_tls.mkdir(mode=0o700, exist_ok=True)
        fresh = authorities[AuthorityKind.BROKER].issue_server(names, addresses, now=now)
        fresh.write(certificate=broker_certificate, key=broker_key)
        issued = True
    service_ca = trusted_by_users(deployment, authorities[AuthorityKind.SERVICE])
    if not user.service_ca.is_file() or user.service_ca.read_bytes() != service_ca:
        write_file(user.service_ca, service_ca)
        issued = True
    two_way = deployment.service.tls is TlsMode.TWO_WAY
    if two_way and (AuthorityKind.USERS in afresh or not _is_whole(user.certificate, user.key)):
        fresh = authorities[AuthorityKind.USERS].issue_client(deployment.service.client_name, now=now)
        users.remember_default(workspace, fresh)
        fresh.write(certificate=user.certificate, key=user.key)
        issued = True
    return issued


def _made_by(workspace: Workspace, kind: AuthorityKind) -> Sequence[Path]:
    """Return the files that exist only if an authority has signed. Clients would not trust its replacement."""
    signed = {
        AuthorityKind.BROKER: workspace.owner.broker_tls / BROKER_CERTIFICATE,
        AuthorityKind.SERVICE: workspace.user.service_ca,
        AuthorityKind.USERS: workspace.user.certificate,
    }[kind]
    # A release contains or trusts the certificates of all three authorities.
    return (signed, *workspace.owner.releases.glob(f"*/{INDEX_FILE}"))


def _is_whole(certificate: Path, key: Path) -> bool:
    try:
        CertifiedKey.read(certificate=certificate, key=key)
    except (CertificateMissingError, KeyMismatchError):  # never written, or interrupted between the two files
        return False
    return True


def show_certificates(workspace: Workspace) -> Iterable[NamedCertificate]:
    """Yield the existing certificates of the workspace."""
    for role, path in certificate_files(workspace).items():
        if path.is_file():
            info = describe(read_regular(path), source=str(path))[0]
            yield NamedCertificate(role=role, path=path, info=info)


def certificate_files(workspace: Workspace) -> Mapping[str, Path]:
    """Return the file of each certificate by its role, whether it exists or not."""
    return {
        **{f"{kind} authority": workspace.owner.authorities / kind / "ca.pem" for kind in AuthorityKind},
        issuing.ROLE: issuing.certificate_file(workspace),
        "broker": workspace.owner.broker_tls / BROKER_CERTIFICATE,
        "user": workspace.user.certificate,
    }


def broker_certificate(workspace: Workspace) -> CertifiedKey:
    """Return the broker's certificate and key.

    Raises:
        CertificateMissingError: The certificate does not exist yet.
    """
    certificate, key = broker_certificate_files(workspace)
    hint = missing_certificate_hint(workspace, AuthorityKind.BROKER)
    return CertifiedKey.read(certificate=certificate, key=key, missing=hint)


def broker_certificate_files(workspace: Workspace) -> tuple[Path, Path]:
    """Return the files of the broker's certificate and of its private key."""
    folder = workspace.owner.broker_tls
    return folder / BROKER_CERTIFICATE, folder / BROKER_KEY


def missing_certificate_hint(workspace: Workspace, kind: AuthorityKind, mode: TlsMode = TlsMode.TWO_WAY) -> str:
    """Return a hint for a missing certificate.

    Args:
        workspace: The owner's workspace, or a user's workspace without authorities.
        kind: The authority that signs the certificate.
        mode: The TLS mode of the deployment.
    """
    if (workspace.owner.authorities / kind).exists():
        return "Run `sealserve certs renew` to issue the certificate again."
    return f"If you are the owner, run `sealserve certs {mode}`. Otherwise ask the owner for the folder user/."


def broker_authority_pem(workspace: Workspace) -> bytes:
    """Return the certificate of the broker authority, which enclaves trust, PEM."""
    return _authority(workspace, AuthorityKind.BROKER).certificate_pem


def tls_files(workspace: Workspace, deployment: Deployment, *, now: datetime) -> Mapping[str, bytes | SecretBytes]:
    """Return the TLS settings for a release by their path.

    For attested serving, a release contains only the settings for client certificates, and nothing for one-way TLS: the
    enclave creates the TLS key.

    Raises:
        AuthorityMissingError: The authorities do not exist yet.
        InputError: `authority.no-intermediate`: As `check_service_authority`.
    """
    if not deployment.server.attested:
        return {SSL_CONFIG_PATH: fresh_ssl_config(workspace, deployment, now=now).render()}
    _authority(workspace, AuthorityKind.SERVICE)  # it must exist, because a release seems to depend on all authorities
    check_service_authority(workspace, deployment)
    if deployment.service.tls is TlsMode.ONE_WAY:
        return {}
    return {CLIENT_SETTINGS_PATH: _client_settings(workspace, deployment, now=now).render()}


def fresh_ssl_config(workspace: Workspace, deployment: Deployment, *, now: datetime) -> SslConfig:
    """Issue a certificate for the service, and return its ``ssl.cfg``, which is the only copy of the private key.

    A certificate of another CA is used as it is.

    Raises:
        AuthorityMissingError: The authorities do not exist yet.
        SealserveError: As `given_certificate`.
    """
    service = given_certificate(deployment, now=now) or _authority(workspace, AuthorityKind.SERVICE).issue_server(
        (deployment.service.name,), now=now
    )
    return _client_settings(workspace, deployment, now=now).with_key(service.key_pem, service.chain_pem)


def _client_settings(workspace: Workspace, deployment: Deployment, *, now: datetime) -> ClientSettings:
    if deployment.service.tls is TlsMode.ONE_WAY:
        return ClientSettings()
    return ClientSettings(
        custom_ca=_authority(workspace, AuthorityKind.USERS).certificate_pem,
        client_verify=True,
        revocation_lists=users.revocation_list(workspace, deployment, now=now),
    )


def _authority(workspace: Workspace, kind: AuthorityKind) -> Authority:
    return Authority.load(workspace.owner.authorities / kind)
