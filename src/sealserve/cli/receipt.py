"""``sealserve receipt``: receipts, the enclave's signed statements about its answers."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli.attested_options import PolicyFile, find_policy
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.client.attested import MAXIMUM_BUNDLE, PresentedService, parse_bundle, verify_presented
    from sealserve.client.receipts import MAXIMUM_RECEIPT, verify_receipt
    from sealserve.client.tensors import MAX_BYTES
    from sealserve.regular_file import read_regular

app = Verbs("Verify receipts: an enclave's signed statements that it computed a response from a request.")


@app.callback()
def _group() -> None:
    pass  # with a callback, Typer keeps the name of the only command


@app.command()
def verify(
    result: Output,
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="File with the receipt")],
    request: Annotated[Path, typer.Option(help="File with the bytes of the request: gRPC message or HTTP body")],
    response: Annotated[Path, typer.Option(help="File with the bytes of the response: gRPC message or HTTP body")],
    evidence: Annotated[Path, typer.Option(help="Evidence bundle of the replica that answered")],
    policy: PolicyFile = None,
    at: Annotated[
        datetime | None, typer.Option(help="Time (UTC) at which the evidence is verified", show_default="now")
    ] = None,
) -> None:
    """Verify a receipt without a network: the evidence by your policy, then the receipt by the enclave's key."""
    now = at.replace(tzinfo=UTC) if at is not None else datetime.now(UTC)
    bundle = parse_bundle(read_regular(evidence, limit=MAXIMUM_BUNDLE))
    found = verify_presented(PresentedService.of_bundle(bundle), find_policy(policy), address=bundle.address, now=now)
    claims = verify_receipt(
        read_regular(receipt, limit=2 * MAXIMUM_RECEIPT).decode(errors="replace").rstrip("\r\n"),
        request=read_regular(request, limit=MAX_BYTES),
        response=read_regular(response, limit=MAX_BYTES),
        keyset=found.service.keyset,
        statement=found.service.statement,
    )
    stated = found.service.statement is not None
    result.show(
        {
            "model": claims.model,
            "model_version": claims.model_version,
            "model_sha256": claims.model_sha256,
            "model_stated_by_owner": stated,
            "release_id": claims.release_id,
            "keyset_sha256": claims.keyset_sha256,
            "request_sha256": claims.request_sha256,
            "response_sha256": claims.response_sha256,
            "sequence": claims.sequence,
            "simulated": found.service.simulated,
        },
        f"The receipt is valid: an enclave of release {claims.release_id} computed this response from this request.",
        {
            "model": f"{claims.model} version {claims.model_version}",
            "model digest": f"{claims.model_sha256}{', as the owner states' if stated else ', as the enclave states'}",
            "keyset": claims.keyset_sha256,
            "number": claims.sequence,
        },
    )
