"""A simulated enclave requests an attestation result, and no key, from the broker. No server is started."""

import os
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sealserve.attestation.result_request import ResultRequest
from sealserve.enclave.findings import Danger
from sealserve.enclave.simulated import provisioning
from sealserve.enclave.simulated.launcher import connect_broker, load_simulated, log_step, quote_for


def request_result(
    bundle: Path,
    name: str,
    request: ResultRequest,
    *,
    quoting_socket: Path,
    connect_timeout: float = 10.0,
    broker_timeout: float = 60.0,
    dangerous: Collection[Danger] = (),
) -> str:
    """Return an attestation result for an enclave of a release, as a token. The token is not verified.

    Args:
        bundle: The release's folder, with ``enclave/`` in it.
        name: The enclave's name.
        request: The audience and the nonce of the result.
        quoting_socket: The Unix socket of the simulated quoting enclave.
        connect_timeout: Maximum seconds to wait for a connection to each broker.
        broker_timeout: Maximum seconds to wait for each of the broker's answers.
        dangerous: The classes of insecure settings that are allowed in the manifest.

    Raises:
        SealserveError: The errors of `load_simulated`, `provisioning` and `request_quote`.
    """
    here = Path(os.path.abspath(bundle))  # noqa: PTH100  # keep links
    # Verify the enclave and the files that it trusts, as for its start.
    enclave = load_simulated(here, name, dangerous)
    # Attest to the first broker of the measured list that accepts a connection.
    broker_ca, broker = connect_broker(enclave, here, connect_timeout)
    token = provisioning.fetch_result(
        broker,
        request,
        broker_ca=broker_ca,
        quote_for=partial(quote_for, enclave, quoting_socket),
        now=datetime.now(UTC),
        timeout=broker_timeout,
    )
    log_step("result", bytes=len(token), audience=request.audience)
    return token
