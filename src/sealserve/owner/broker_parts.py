"""Opens the owner's broker with the files of the workspace, or one process of a broker with several processes."""

import contextlib
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sealserve.broker import audit
from sealserve.broker.application_protocols import ATTEST, RESULTS
from sealserve.broker.arrivals import Arrivals
from sealserve.broker.attest_issuer import AttestIssuer
from sealserve.broker.certificate_issuer import CertificateIssuer
from sealserve.broker.decision import Broker
from sealserve.broker.head_file import keep_head
from sealserve.broker.limits import PlatformLimit
from sealserve.broker.metrics import Observed
from sealserve.broker.reloaded import Reloaded
from sealserve.broker.server import BrokerServer
from sealserve.broker.server_identity import ServerIdentity
from sealserve.broker.server_limits import Limits
from sealserve.broker.token_issuer import TokenIssuer
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner import administrators, issuing, vault
from sealserve.owner.attestation import open_verifier
from sealserve.owner.broker_certificate import names_of
from sealserve.owner.broker_database import is_shared
from sealserve.owner.certificates import broker_certificate, broker_certificate_files, certificate_files
from sealserve.owner.notifications import notifications
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import create_token_key, token_signer
from sealserve.pki import expiry
from sealserve.pki.certificate import describe
from sealserve.pki.issuing import IssuingCertificate
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A process of a broker that has several processes.

    Args:
        number: The number of the process, from 0. The first process has the duties that exist once for a broker: it
            serves the administration API, and reports the changes by the owner.
        processes: The number of processes, which share the limits on peers.
        arrivals: The source of the connections.
        administration: The listening socket of the administration API. `None` for the other processes.
        changes_after: The last row of the audit log whose change a predecessor of this process reported.
    """

    number: int
    processes: int
    arrivals: Arrivals
    administration: socket.socket | None = None
    changes_after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBroker:
    """A broker that is not started yet.

    Args:
        server: The server.
        observed: The sources of its metrics.
        reported: Returns the last row of the audit log whose change was reported. `None` if changes are not reported.
    """

    server: BrokerServer
    observed: Observed
    reported: Callable[[], int | None]


@contextlib.contextmanager
def open_part(workspace: Workspace, deployment: Deployment, part: Part | None = None) -> Iterator[OpenedBroker]:
    """Yield the deployment's broker, or one process of it, before it is started.

    `sealserve.owner.attestation` defines the evidence that the broker accepts.

    Args:
        workspace: The owner's workspace.
        deployment: The settings.
        part: The process. `None` means that the broker has only this process.

    Raises:
        CertificateMissingError: The broker's certificate does not exist yet.
    """
    processes = 1 if part is None else part.processes
    first = part is None or part.number == 0
    # Enclaves of an attested release renew their certificates until a roll-out has replaced them.
    attested = deployment.server.attested or issuing.exists(workspace)
    identity = ServerIdentity(
        partial(broker_certificate, workspace),
        files=broker_certificate_files(workspace),
        names=names_of(deployment),
        protocols=(RESULTS, ATTEST) if attested else (RESULTS,),
    )
    owner = Owner.open(workspace)
    shared = is_shared(workspace)
    if not shared:  # otherwise, each broker needs the same keys: a key created here would not match the others
        owner.create_audit_key()
        create_token_key(workspace)
    signer = owner.audit_signer()  # never the key that signs releases, because this process is exposed to the network
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(owner.database(create=True, create_row_key=not shared))
        keystore = stack.enter_context(vault.current(workspace, database, create_master_key=not shared))
        verifier, collateral = stack.enter_context(open_verifier(workspace, deployment))
        keep = partial(keep_head, workspace.owner.audit_head, database)
        notified = stack.enter_context(
            notifications(
                deployment,
                database,
                processes=processes,
                changes=first,
                changes_after=None if part is None else part.changes_after,
            )
        )
        token_key = Reloaded(
            partial(token_signer, workspace), what="token signing key", files=(workspace.owner.token_signing_key,)
        )
        broker = Broker(
            database=database,
            keystore=keystore,
            verifier=verifier,
            signer=signer,
            keep=keep,
            name=deployment.broker.instance or instance_name(),
            limit=_limit(deployment),
            notify=notified.notify,
            parts=processes,
        )
        issuing_authority = _issuing_authority(workspace) if attested else None
        with database.read() as connection:
            rows, _ = audit.head(connection)
        if rows > 0 and first:  # sign the existing rows now, because this process may be killed later
            broker.sign_head()
        server = BrokerServer(
            broker,
            identity=identity,
            listen=deployment.broker.listen,
            port=deployment.broker.port,
            results=TokenIssuer(broker, key=lambda: token_key.value, issuer=deployment.broker.name),
            attested=None
            if issuing_authority is None
            else AttestIssuer(
                broker,
                certificates=CertificateIssuer(lambda: issuing_authority.value, database=database, keystore=keystore),
                token_key=lambda: token_key.value,
                issuer=deployment.broker.name,
                lifetime=timedelta(hours=deployment.broker.certificate_hours),
            ),
            reloaded=(
                keystore,
                token_key,
                *notified.reloaded,
                *(() if issuing_authority is None else (issuing_authority,)),
            ),
            limits=Limits().divided(processes),
            arrivals=None if part is None else part.arrivals,
            name="the broker" if part is None else f"broker process {part.number}",
        )
        observed = Observed(
            decisions=broker.decisions,
            certificates=lambda: _certificate_ends(workspace, identity),
            collateral=collateral,
            ready=server.check_ready,
            stages=broker.stages,
            connections=server.connections,
            reloads=server.reloads,
            notifications=notified.totals,
            waiting=notified.waiting,
        )
        if deployment.broker.admin_port is not None and first:
            # Only this feature needs aiohttp, and most commands that import this module do not run a broker.
            from sealserve.owner.administration_server import administration_server  # noqa: PLC0415

            listener = None if part is None else part.administration
            stack.enter_context(
                administration_server(workspace, deployment, database, identity=identity, listener=listener)
            )
        yield OpenedBroker(server=server, observed=observed, reported=notified.reported)


def _issuing_authority(workspace: Workspace) -> Reloaded[IssuingCertificate]:
    return Reloaded(
        partial(issuing.read_certificate, workspace), what=issuing.ROLE, files=(issuing.certificate_file(workspace),)
    )


def instance_name() -> str:
    """Return the default name of this machine's broker in the audit log: the host name, without special characters."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63].strip("._-")
    return plain or "broker"


def _limit(deployment: Deployment) -> PlatformLimit | None:
    settings = deployment.broker.limits
    keys, results = settings.keys_per_platform, settings.results_per_platform
    if keys is None and results is None:
        return None
    return PlatformLimit(keys=keys, results=results, period=timedelta(minutes=settings.period_minutes))


def _certificate_ends(workspace: Workspace, identity: ServerIdentity) -> Mapping[str, datetime]:
    """Return the expiry time of each certificate. For the broker, it is the certificate that is loaded in memory.

    A file that cannot be read is omitted and logged, because it must not hide the other metrics.
    """
    ends = {}
    for role, path in certificate_files(workspace).items():
        if role != "broker" and path.is_file():
            try:
                ends[role] = describe(read_regular(path), source=str(path))[0].not_after
            except SealserveError as error:
                _LOG.warning("the metrics page omits the certificate of %s: %s", role, error.message)
    try:
        found = administrators.certificate_ends(workspace)
        # The page has no names of people. `sealserve status` lists the certificates of administrators.
        ends |= {role: end for role, end in found.items() if role == expiry.ADMINISTRATORS_AUTHORITY}
    except SealserveError as error:
        _LOG.warning("the metrics page omits the certificates of administrators: %s", error.message)
    return {**ends, "broker": identity.value.ends}
