"""The server of the administration API in the owner's broker."""

import socket

from sealserve.broker.administration.server import AdministrationServer
from sealserve.broker.database import Database
from sealserve.broker.server_identity import ServerIdentity
from sealserve.deployment import Deployment
from sealserve.owner import administrators
from sealserve.owner.administration import LocalAdministration
from sealserve.workspace import Workspace


def administration_server(
    workspace: Workspace,
    deployment: Deployment,
    database: Database,
    *,
    identity: ServerIdentity,
    listener: socket.socket | None = None,
) -> AdministrationServer:
    """Return the server of the deployment's administration API, before it is started.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies ``broker.admin_listen`` and ``broker.admin_port``.
        database: The open database of the broker.
        identity: The broker's certificate. A new certificate that the broker rejects is not used here either.
        listener: The listening socket. `None` listens on the configured address.

    Raises:
        InputError: `administrator.authority` if the administrators' authority does not exist yet.
        UnavailableError: `administration.port` if the address cannot be used.
    """
    administrators.require_trust(workspace)
    return AdministrationServer(
        lambda actor: LocalAdministration(workspace, lambda: deployment, actor=actor, database=database),
        identity=lambda: identity.value.identity,
        trust=workspace.owner.administrators,
        listen=deployment.broker.admin_listen,
        port=deployment.broker.admin_port or 0,
        listener=listener,
    )
