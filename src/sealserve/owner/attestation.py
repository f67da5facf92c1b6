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
        genuine = deployment.broker.collateral_url if deployment.platform is PlatformKind.SGX else None
        clients = {PlatformKind.SGX: stack.enter_context(PcsClient(genuine or INTEL_PCS))}
        vendors = {PlatformKind.SGX: TrustedVendor(anchor=TrustAnchor.intel(), collateral=clients[PlatformKind.SGX])}
        if (root := trusted_root(workspace)) is not None:
            clients[PlatformKind.SIMULATED] = stack.enter_context(PcsClient(pcs_url(deployment)))
            vendors[PlatformKind.SIMULATED] = TrustedVendor(anchor=root, collateral=clients[PlatformKind.SIMULATED])
        yield SgxVerifier(vendors), partial(_documents, clients)


def _documents(clients: Mapping[PlatformKind, PcsClient]) -> Documents:
    return {
        (platform.value, url.rpartition(f"{API}/")[2]): Fetched(*times)
        for platform, client in clients.items()
        for url, times in client.kept().items()
    }
