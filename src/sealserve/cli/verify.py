"""``sealserve verify``: check that a service is an enclave that the user accepts, now or from a saved bundle."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sealserve.cli import connection, console, options
from sealserve.cli.attested_options import PolicyFile, find_policy
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.evidence_endpoint import find_endpoint
from sealserve.cli.output import Table
from sealserve.cli.request_options import LONGEST_WAIT
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.atomic_file import write_file
    from sealserve.client.attested import (
        MAXIMUM_BUNDLE,
        PresentedService,
        VerifiedEndpoint,
        fetch_evidence,
        parse_bundle,
        verify_presented,
    )
    from sealserve.client.credentials import parse_endpoint
    from sealserve.errors import InputError, SealserveError
    from sealserve.regular_file import InputFileMissingError, read_regular
    from sealserve.sgx.pck import PckChain
    from sealserve.sgx.quote import Quote

app = Verbs()


@app.command()
def verify(
    context: Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[ADDRESS|FILE]",
            help="Address of the service (HOST:PORT of gRPC or REST), or an evidence bundle that --save wrote",
            show_default="the address in --bundle or sealserve.toml",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Evidence bundle to create", show_default="none"),
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(help="Time (UTC) of the verification, only with FILE", show_default="now"),
    ] = None,
    policy: PolicyFile = None,
    collateral_from: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="PCS or PCCS from which to fetch the vendor's collateral; needs the extra owner",
            show_default="the collateral that the service sent",
        ),
    ] = None,
    bundle: connection.BundleFile = None,
    server_name: connection.ServerName = None,
    ca: connection.ServiceCa = None,
    certificate: connection.ClientCertificate = None,
    key: connection.ClientKey = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=LONGEST_WAIT, help="Maximum time to wait, in seconds")] = 10,
    force: options.Force = False,
) -> None:
    """Verify that a service is an enclave that your policy accepts, in six steps. Nothing else is sent to it.

    Example: `sealserve verify service.example.com:8500 --save evidence.json`. Later, without a network: `sealserve
    verify evidence.json --at 2026-12-01T12:00:00`.
    """
    # 1. The user's own policy decides what is acceptable.
    accepted = find_policy(policy)
    options.refuse_existing(save, force=force)
    # 2. Get the evidence: from a file, or from the service on a new connection.
    saved: datetime | None = None
    if (path := _as_file(source)) is not None:
        content = parse_bundle(read_regular(path, limit=MAXIMUM_BUNDLE))
        presented, address = PresentedService.of_bundle(content), content.address
        saved = datetime.fromtimestamp(content.saved, UTC)
    else:
        if at is not None:
            raise CliCode.CLIENT_OPTIONS.error(
                "--at cannot be used with an address: a running service is verified at the current time.",
                hint="Leave out --at, or give a file that `sealserve verify --save` wrote.",
            )
        address, _, tls = find_endpoint(
            context, source, bundle=bundle, server_name=server_name, ca=ca, certificate=certificate, key=key
        )
        presented = fetch_evidence(address, tls=tls, timeout=timeout)
    if collateral_from is not None:
        presented = _with_collateral(presented, collateral_from)
    # 3. Perform the six steps.
    now = at.replace(tzinfo=UTC) if at is not None else datetime.now(UTC)
    try:
        found = verify_presented(presented, accepted, address=address, now=now)
    except SealserveError as error:
        if saved is not None and at is None and error.hint is not None:
            error.hint += f" The bundle was saved at {saved:%Y-%m-%dT%H:%M:%S} (not verified): see --at."
        raise
    # 4. Keep the evidence, and report.
    if save is not None:
        write_file(save, found.bundle(), overwrite=force)
    _show(context, found, saved=saved, output=save)


def _as_file(source: str | None) -> Path | None:
    """Return the file that the argument names. An address is never read as a file, even if the file exists."""
    if source is None:
        return None
    path = Path(source)
    try:
        parse_endpoint(source)
    except InputError as error:
        if path.exists():
            return path
        if "://" in source or ("/" not in source and ":" in source):
            raise
        raise InputFileMissingError(
            f"{source!r} is neither an address nor a file that exists.",
            reason="it does not exist",
            hint="Give HOST:PORT, such as service.example.com:8500, or a file that `sealserve verify --save` wrote.",
        ) from error
    return None


def _with_collateral(presented: PresentedService, url: str) -> PresentedService:
    """Replace the service's collateral by collateral of the user's own source. Only here, another server is contacted.

    The platform's id is not sent: the request names the kind of processor and the CA.
    """
    from sealserve.sgx.pcs import PcsClient  # noqa: PLC0415  # the base installation has no HTTP client

    try:
        chain = PckChain.parse(Quote.parse(presented.evidence.quote).pck_chain_pem)
    except SealserveError:
        return presented  # the six steps report the fault of the quote
    try:
        with PcsClient(url) as client:
            members = json.loads(client.collateral_for(chain).to_json())
    except InputError as error:
        error.hint = "Correct --collateral-from."
        raise
    return replace(presented, evidence=presented.evidence.model_copy(update={"collateral": members}))


def _show(context: Context, found: VerifiedEndpoint, *, saved: datetime | None, output: Path | None) -> None:
    service, keyset = found.service, found.service.keyset
    statement = service.statement
    models = [] if statement is None else [
        {
            "name": model.name,
            "version": model.version,
            "sha256": model.sha256,
            "allowed_operations": list(model.allowed_operations),
            "signer": None if model.signer is None else model.signer.model_dump(),
        }
        for model in statement.models
    ]  # fmt: skip
    value: dict[str, Any] = {
        "address": found.address,
        "verified_at": found.verified_at.isoformat(),
        "expires": found.expires.isoformat(),
        "saved": None if saved is None else saved.isoformat(),
        "simulated": service.simulated,
        "release_id": keyset.release_id,
        "keyset_sha256": keyset.digest.hex(),
        "certificate_sha256": found.fingerprint,
        "tcb_status": str(service.quote.tcb_status),
        "advisories": sorted(service.quote.advisory_ids),
        "models": models,
        "shared_batches": None if statement is None else statement.shared_batches,
        "steps": [
            {"step": report.step.number, "title": report.step.title, "evidence": report.text}
            for report in service.reports
        ],
        "file": None if output is None else str(output),
    }
    rows = [(report.step.number, report.step.title, report.text) for report in service.reports]
    lines = [f"{model['name']} version {model['version']}: SHA-256 {model['sha256']}" for model in models]
    when = "" if saved is None else f", saved at {saved:%Y-%m-%d %H:%M:%S} UTC"
    context.show(
        value,
        f"All six steps hold for {found.address}{when}.",
        Table(("STEP", "CHECK", "EVIDENCE"), rows),
        *(["", "The owner states these models:", *lines, *_exceptions(found)] if lines else []),
        f"Request new evidence after {found.expires:%Y-%m-%d %H:%M} UTC.",
        *([f"Wrote {output}."] if output is not None else []),
    )
    if service.simulated:
        console.warn("The platform is SIMULATED. It protects nothing: the host can read inputs and keys.")


def _exceptions(found: VerifiedEndpoint) -> list[str]:
    """Return what the owner states about the exceptions to the rules for models, for people."""
    statement = found.service.statement
    if statement is None:
        return []
    batches, operations = "Each request runs alone.", "No model may use operations that the model lint rejects."
    if statement.shared_batches:
        batches = (
            "Requests of several users can run in one batch: a model can answer one user with the input of another."
        )
    if statement.allowed_operations:
        names = ", ".join(sorted(statement.allowed_operations))
        operations = f"The models may use these operations, with which they can keep or send an input: {names}."
    return [batches, operations]
