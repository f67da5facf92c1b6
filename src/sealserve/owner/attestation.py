"""The verifier of the owner's broker. Only this module connects the broker to the kinds of evidence that it accepts."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from sealserve.attestation.evidence import Verifier
from sealserve.broker.metrics import Fetched
from sealserve.deployment import Deployment
from sealserve.owner.simulation import trusted_root
from sealserve.pcs_address import pcs_url
from sealserve.sgx.pcs import API, PcsClient
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.sgx.verifier import SgxVerifier, TrustedVendor
from sealserve.terms import INTEL_PCS, PlatformKind
from sealserve.workspace import Workspace

Documents = Mapping[tuple[str, str], Fetched]
"""The collateral documents that were fetched, by kind of platform and by name."""


@contextlib.contextmanager
def open_verifier(workspace: Workspace, deployment: Deployment) -> Iterator[tuple[Verifier, Callable[[], Documents]]]:
    """Yield the broker's verifier, and a function that returns the collateral that the verifier has fetched.

    For SGX releases, the verifier trusts Intel's root certificate. For simulated releases, it trusts the workspace's
    simulated root certificate, if one exists.
    """
    with contextlib.ExitStack() as stack:
        anchors = trust_anchors(workspace)
        clients = {
            platform: stack.enter_context(open_client(workspace, deployment, platform, anchor))
            for platform, anchor in anchors.items()
        }
        vendors = {
            platform: TrustedVendor(
                anchor=anchor, collateral=clients[platform], update=deployment.broker.collateral_update
            )
            for platform, anchor in anchors.items()
        }
        yield SgxVerifier(vendors), partial(_documents, clients)


def trust_anchors(workspace: Workspace) -> Mapping[PlatformKind, TrustAnchor]:
    """Return the trusted root of each kind of platform that the workspace supports."""
    simulated = trusted_root(workspace)
    return {
        PlatformKind.SGX: TrustAnchor.intel(),
        **({} if simulated is None else {PlatformKind.SIMULATED: simulated}),
    }


def open_client(
    workspace: Workspace, deployment: Deployment, platform: PlatformKind, anchor: TrustAnchor, *, store: bool = True
) -> PcsClient:
    """Return the client for the collateral of one kind of platform.

    Args:
        workspace: The owner's workspace.
        deployment: The settings of the PCS or PCCS.
        platform: The kind of platform.
        anchor: Its trusted root.
        store: Whether to use and fill the workspace's folder for collateral.

    Raises:
        InputError: `pcs.url` or `pcs.ca-file` if the setting for it is invalid.
    """
    settings = deployment.broker
    if platform is PlatformKind.SIMULATED:
        url = pcs_url(deployment)
    else:
        url = (settings.collateral_url if deployment.platform is PlatformKind.SGX else None) or INTEL_PCS
    own = url == settings.collateral_url  # the CA file is for the configured service only, not for Intel's
    return PcsClient(
        url,
        ca_file=settings.collateral_ca_file if own else None,
        anchor=anchor,
        folder=workspace.owner.collateral / platform.value if store else None,
        update=settings.collateral_update,
    )


def _documents(clients: Mapping[PlatformKind, PcsClient]) -> Documents:
    return {
        (platform.value, url.rpartition(f"{API}/")[2]): Fetched(*times)
        for platform, client in clients.items()
        for url, times in client.kept().items()
    }
