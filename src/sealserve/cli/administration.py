"""The administration that a command uses: of the workspace's broker, or of the remote broker of ``--broker``."""

import contextlib
from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.broker.administration.client import RemoteAdministration
from sealserve.broker.administration.interface import Administration
from sealserve.cli import remote_broker
from sealserve.cli.context import Place
from sealserve.enclave.findings import Danger
from sealserve.owner.administration import LocalAdministration


@contextlib.contextmanager
def administration(place: Place, *, dangerous: Collection[Danger] = ()) -> Iterator[Administration]:
    """Yield the administration of the broker that the command line names.

    Args:
        place: The folder of the deployment. It is not used for a remote broker.
        dangerous: Classes of insecure settings that enclaves may have.

    Raises:
        InputError: `broker.owner-machine` if ``dangerous`` is not empty and the broker is remote.
        SealserveError: As `AdministratorFile.read` and `RemoteAdministration`.
    """
    remote = remote_broker.chosen()
    if remote is None:
        yield LocalAdministration(place.workspace, lambda: place.deployment, dangerous=dangerous)
        return
    if dangerous:
        remote_broker.require_local("A --dangerous option is accepted only from the owner")
    with RemoteAdministration(
        remote.url, AdministratorFile.read(remote.administrator), now=datetime.now(UTC)
    ) as administered:
        yield administered
