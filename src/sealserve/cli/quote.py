"""``sealserve quote``: show a quote, and verify it with its collateral."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Verbs
from sealserve.terms import INTEL_PCS

with deferred:
    from sealserve.regular_file import read_regular
    from sealserve.sgx.appraisal import examine_quote
    from sealserve.sgx.collateral import Collateral
    from sealserve.sgx.pcs import PcsClient
    from sealserve.sgx.quote import Quote
    from sealserve.sgx.trust_anchor import TrustAnchor

app = Verbs("Show and verify SGX quotes.")

QuoteFile = Annotated[Path, typer.Argument(metavar="QUOTE", help="File with the raw (binary) quote")]


@app.command()
def show(result: Output, path: QuoteFile) -> None:
    """Show the fields of a quote. Nothing is verified."""
    _show(result, _fields(Quote.parse(read_regular(path))))


@app.command()
def verify(
    result: Output,
    path: QuoteFile,
    collateral: Annotated[
        Path | None, typer.Option(help="JSON file with the collateral", show_default="fetched from --pcs")
    ] = None,
    pcs: Annotated[str, typer.Option(help="Address of the service that supplies collateral (PCS or PCCS)")] = INTEL_PCS,
    at: Annotated[
        datetime | None, typer.Option(help="Time (UTC) for which validity is checked", show_default="now")
    ] = None,
    simulated_root: Annotated[
        Path | None,
        typer.Option(
            help="Root certificate of a simulated vendor (DER), for simulated quotes only",
            show_default="Intel's root certificate",
        ),
    ] = None,
) -> None:
    """Verify the signatures of a quote up to Intel's root certificate, and show the TCB status of its platform.

    The command accepts every TCB status. The TCB policy of a release decides which statuses are acceptable.
    """
    anchor = (
        TrustAnchor(root_der=read_regular(simulated_root), simulated=True) if simulated_root else TrustAnchor.intel()
    )
    examined = examine_quote(read_regular(path), anchor=anchor)
    if collateral is not None:
        found = Collateral.from_json(read_regular(collateral).decode(errors="replace"))
    else:
        with PcsClient(pcs) as client:
            found = client.collateral_for(examined.pck)
    verified = examined.verify(found, now=at.replace(tzinfo=UTC) if at else datetime.now(UTC))
    _show(
        result,
        _fields(examined.quote)
        | {
            "TCB status": str(verified.tcb_status),
            "advisories": ", ".join(sorted(verified.advisory_ids)) or "none",
            "TCB evaluation": verified.tcb_evaluation_data_number,
            "FMSPC": verified.fmspc,
            "platform id": verified.platform_id,
            "simulated": verified.simulated,
        },
    )


def _fields(quote: Quote) -> dict[str, object]:
    report = quote.report
    return {
        "MRENCLAVE": report.mr_enclave.hex(),
        "MRSIGNER": report.mr_signer.hex(),
        "ISVPRODID": report.isv_prod_id,
        "ISVSVN": report.isv_svn,
        "debug": report.attributes.debug,
        "report data": report.report_data.hex(),
    }


def _show(result: Output, fields: dict[str, object]) -> None:
    result.show({name.lower().replace(" ", "_"): value for name, value in fields.items()}, fields)
