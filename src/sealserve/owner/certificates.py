"""The workspace's certificates: three authorities, the broker's certificate, the user's.

The service's own certificate is not here: each release gets a fresh one, and its key exists only inside the sealed
``ssl.cfg``.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealserve.atomic_file import OutputExistsError, write_file
from sealserve.deployment import Deployment
from sealserve.owner import users
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import require_first_use
from sealserve.pki.authority import Authority, AuthorityKind, AuthorityMissingError, split_names
from sealserve.pki.certificate import (
    CertificateInfo,
    CertificateMissingError,
    CertifiedKey,
    IPAddress,
    KeyMismatchError,
    describe,
)
from sealserve.pki.ssl_config import SslConfig
from sealserve.regular_file import read_regular
from sealserve.sealing.release_index import INDEX_FILE
from sealserve.terms import PlatformKind, TlsMode
from sealserve.workspace import Workspace

BROKER_CERTIFICATE = "broker.pem"
BROKER_KEY = "broker.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCertificate:
    """A certificate of the workspace: what it is for, where it lies, what it says."""

    role: str
    path: Path
    info: CertificateInfo


def check_mode(deployment: Deployment, mode: TlsMode) -> None:
    """Check that the deployment wants certificates for ``mode``.

    Raises:
        InputError: `certs.tls-mode`: It wants the other one.
    """
    if deployment.service.tls is not mode:
        raise OwnerCode.CERTS_TLS_MODE.error(
            f"sealserve.toml says service.tls = {deployment.service.tls.value!r}, not {mode.value!r}.",
            hint=f"Run `sealserve certs {deployment.service.tls.value}`, or change service.tls.",
        )


def create_certificates(
    workspace: Workspace, deployment: Deployment, *, now: datetime, first_time: bool = False
) -> list[NamedCertificate]:
    """Make the authorities and issue the broker's certificate and, for two-way TLS, the user's.

    What is there is kept, so that an interrupted run is completed by the next one.

    Args:
        workspace: The owner's.
        deployment: The names, and the kind of TLS.
        now: The time.
        first_time: Refuse to replace an authority that was lost.

    Raises:
        OutputExistsError: Everything is there already, and in use; or an authority's folder holds something else.
        IdentityLostError: ``first_time``, and an authority is missing of which there are certificates.
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
    if not made and not issued:
        raise OutputExistsError(
            f"The three authorities in {workspace.owner.authorities} and their certificates are there already.",
            hint="`sealserve certs renew` issues fresh certificates from the authorities that you have.",
        )
    return list(show_certificates(workspace))


def _wanted(deployment: Deployment) -> Mapping[AuthorityKind, tuple[Sequence[str], Sequence[IPAddress]]]:
    """Return the names and addresses that each authority signs for."""
    return {
        AuthorityKind.BROKER: split_names((deployment.broker.name, deployment.broker.address)),
        AuthorityKind.SERVICE: ((deployment.service.name,), ()),
        AuthorityKind.USERS: ((deployment.service.client_name,), ()),
    }


def outgrown_authorities(workspace: Workspace, deployment: Deployment) -> Sequence[AuthorityKind]:
    """Return the authorities that may not sign for the names that the deployment describes now. Nothing is changed."""
    return [
        kind
        for kind, (names, addresses) in _wanted(deployment).items()
        if (workspace.owner.authorities / kind).exists() and not _authority(workspace, kind).permits(names, addresses)
    ]


def adapt_certificates(workspace: Workspace, deployment: Deployment, *, now: datetime) -> None:
    """Issue what a deployment needs whose names or kind of TLS changed.

    An authority that may not sign for a new name is replaced. The old one is kept beside it, as ``KIND.replaced-TIME``.

    Args:
        workspace: The owner's, with authorities.
        deployment: The names, and the kind of TLS.
        now: The time.
    """
    replaced = outgrown_authorities(workspace, deployment)
    for kind in replaced:
        names, addresses = _wanted(deployment)[kind]
        simulated = deployment.platform is PlatformKind.SIMULATED
        folder = workspace.owner.authorities / kind
        # The new one is whole before the old one gives way.
        new = folder.with_name(f"{kind}.new")
        shutil.rmtree(new, ignore_errors=True)
        Authority.create(kind, names=names, addresses=addresses, simulated=simulated, now=now).save(new)
        folder.rename(folder.with_name(f"{kind}.replaced-{now:%Y%m%dT%H%M%S}"))
        new.rename(folder)
    _issue(workspace, deployment, now=now, afresh=frozenset(replaced))


def lacks_certificates(workspace: Workspace, deployment: Deployment) -> bool:
    """Return whether `adapt_certificates` would issue something. Nothing is changed."""
    if not all((workspace.owner.authorities / kind).exists() for kind in AuthorityKind):
        return False  # the first certificates are another step
    user = workspace.user
    lacks_user = deployment.service.tls is TlsMode.TWO_WAY and not _is_whole(user.certificate, user.key)
    return lacks_user or bool(outgrown_authorities(workspace, deployment))


def lost_authorities(workspace: Workspace) -> Sequence[AuthorityKind]:
    """Return the authorities that are missing although there are certificates that they signed."""
    folders = {kind: workspace.owner.authorities / kind for kind in AuthorityKind}
    return [
        kind
        for kind, folder in folders.items()
        if not folder.exists() and any(path.exists() for path in _made_by(workspace, kind))
    ]


def renew_certificates(workspace: Workspace, deployment: Deployment, *, now: datetime) -> list[NamedCertificate]:
    """Issue fresh certificates, with fresh keys, for the broker and the user from the authorities at hand.

    Raises:
        AuthorityMissingError: There are no authorities yet.
    """
    workspace.create()
    _issue(workspace, deployment, now=now, afresh=frozenset(AuthorityKind))
    return list(show_certificates(workspace))


def _issue(workspace: Workspace, deployment: Deployment, *, now: datetime, afresh: AbstractSet[AuthorityKind]) -> bool:
    """Issue the certificates of the authorities ``afresh``, and those that are missing or torn; return whether any."""
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
    service_ca = authorities[AuthorityKind.SERVICE].certificate_pem
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
    """Return the files that exist only after an authority has signed: nobody trusts an authority that replaces it."""
    signed = {
        AuthorityKind.BROKER: workspace.owner.broker_tls / BROKER_CERTIFICATE,
        AuthorityKind.SERVICE: workspace.user.service_ca,
        AuthorityKind.USERS: workspace.user.certificate,
    }[kind]
    return (signed, *workspace.owner.releases.glob(f"*/{INDEX_FILE}"))  # a release holds or trusts all three


def _is_whole(certificate: Path, key: Path) -> bool:
    try:
        CertifiedKey.read(certificate=certificate, key=key)
    except (CertificateMissingError, KeyMismatchError):  # never written, or interrupted between the two files
        return False
    return True


def show_certificates(workspace: Workspace) -> Iterable[NamedCertificate]:
    """Yield what certificates there are."""
    places = {f"{kind} authority": workspace.owner.authorities / kind / "ca.pem" for kind in AuthorityKind}
    places["broker"] = workspace.owner.broker_tls / BROKER_CERTIFICATE
    places["user"] = workspace.user.certificate
    for role, path in places.items():
        if path.is_file():
            info = describe(read_regular(path), source=str(path))[0]
            yield NamedCertificate(role=role, path=path, info=info)


def broker_certificate(workspace: Workspace) -> CertifiedKey:
    """Return the broker's certificate and key.

    Raises:
        CertificateMissingError: There is none yet.
    """
    folder = workspace.owner.broker_tls
    hint = missing_certificate_hint(workspace, AuthorityKind.BROKER)
    return CertifiedKey.read(certificate=folder / BROKER_CERTIFICATE, key=folder / BROKER_KEY, missing=hint)


def missing_certificate_hint(workspace: Workspace, kind: AuthorityKind, mode: TlsMode = TlsMode.TWO_WAY) -> str:
    """Return what to do about a certificate that is missing.

    Args:
        workspace: The owner's, or a user's, which has no authorities.
        kind: The authority that signs it.
        mode: The kind of TLS that the deployment has.
    """
    if (workspace.owner.authorities / kind).exists():
        return "Run `sealserve certs renew` to issue it again."
    return f"If you are the owner, run `sealserve certs {mode}`. If not, ask the owner for the folder user/."


def broker_authority_pem(workspace: Workspace) -> bytes:
    """Return the certificate that enclaves trust to name the broker, PEM."""
    return _authority(workspace, AuthorityKind.BROKER).certificate_pem


def fresh_ssl_config(workspace: Workspace, deployment: Deployment, *, now: datetime) -> SslConfig:
    """Issue a certificate for the service, and return the ``ssl.cfg`` that holds its key: it is written nowhere else.

    Raises:
        AuthorityMissingError: There are no authorities yet.
    """
    service = _authority(workspace, AuthorityKind.SERVICE).issue_server((deployment.service.name,), now=now)
    two_way = deployment.service.tls is TlsMode.TWO_WAY
    return SslConfig(
        server_key=service.key_pem,
        server_cert=service.chain_pem,
        custom_ca=_authority(workspace, AuthorityKind.USERS).certificate_pem if two_way else None,
        client_verify=two_way,
        revocation_lists=users.revocation_list(workspace, deployment, now=now) if two_way else None,
    )


def _authority(workspace: Workspace, kind: AuthorityKind) -> Authority:
    return Authority.load(workspace.owner.authorities / kind)
