"""``sealserve bench``: send many requests and measure them."""

from dataclasses import asdict
from typing import Annotated, Final

import typer

from sealserve.cli import connection, console
from sealserve.cli.attested_options import PolicyFile, RequireAttested, required_policy
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.request_options import (
    LONGEST_WAIT,
    Inputs,
    Label,
    Model,
    Version,
    find_model,
    find_signature,
)
from sealserve.cli.verbs import Verbs
from sealserve.serving_interface import DEFAULT_SIGNATURE

with deferred:
    from sealserve.cli.generated_input import Arrays, Guess, TensorInputError, first_accepted, guesses
    from sealserve.cli.tensor_input import read_inputs
    from sealserve.client.call import INPUT_REFUSED
    from sealserve.client.load import LoadReport, Request, run_load
    from sealserve.client.predict import Predictor, check_version_choice

app = Verbs()

_REQUESTS: Final = 100


@app.command()
def bench(
    context: Context,
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, help="Number of requests", show_default="100")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Duration in seconds, instead of a number of requests")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Number of requests at the same time")
    ] = 4,
    connections: Annotated[
        int, typer.Option(min=1, help="Number of connections; each one stays on the replica that NGINX chose for it")
    ] = 4,
    inputs: Inputs = None,
    batch: Annotated[int, typer.Option(min=1, help="Number of rows in generated inputs")] = 1,
    model: Model = None,
    signature: Annotated[str, typer.Option(help="Name of the model's signature")] = DEFAULT_SIGNATURE,
    version: Version = None,
    label: Label = None,
    bundle: connection.BundleFile = None,
    target: connection.Target = None,
    server_name: connection.ServerName = None,
    ca: connection.ServiceCa = None,
    certificate: connection.ClientCertificate = None,
    key: connection.ClientKey = None,
    require_attested: RequireAttested = False,
    policy: PolicyFile = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=LONGEST_WAIT, help="Maximum time of each request, in seconds")
    ] = 60,
) -> None:
    """Send many requests, and show the rate, the latencies and each replica's share.

    Without --input, the inputs are random. Example: `sealserve bench -n 1000 -c 8`.
    """
    if requests is not None and seconds is not None:
        raise TensorInputError(
            "The end of the load is ambiguous: expected either --requests or --seconds, got both.",
            hint="Give one of the two options.",
        )
    check_version_choice(version, label)
    if seconds is None:
        requests = requests or _REQUESTS
    accepted = required_policy(require_attested, policy)
    reach = connection.find_access(
        context, target=target, server_name=server_name, ca=ca, certificate=certificate, key=key, bundle=bundle
    )
    name = find_model(model, reach)
    with connection.channels(reach, connections, timeout=min(timeout, 10), attested=accepted) as opened:
        predictor = Predictor(opened)
        found = predictor.metadata(name, version=version, label=label, timeout=timeout)
        called = find_signature(name, signature, found.signatures)
        given = read_inputs(inputs or [], called, signature_name=signature)

        def arrays(number: int, guess: Guess) -> Arrays:
            return given.complete(batch=batch, seed=number, guess=guess)

        def attempt(guess: Guess) -> Guess:
            predictor.predict(
                name, arrays(0, guess), signature=signature, version=version, label=label, timeout=timeout
            )
            return guess

        # If the signature leaves something open, requests before the load find inputs that the model accepts.
        possible = guesses(called) if given.generated else [Guess()]
        chosen = first_accepted(possible, attempt, INPUT_REFUSED) if len(possible) > 1 else possible[0]

        def make_request(number: int) -> Request:
            return Request(model=name, inputs=arrays(number, chosen), signature=signature, version=version, label=label)

        extent = f"{requests} requests" if seconds is None else f"requests for {seconds:g} s"
        with console.spinner(f"Sending {extent}, {concurrency} at a time"):
            report = run_load(
                opened, make_request, requests=requests, seconds=seconds, concurrency=concurrency, timeout=timeout
            )
    _show(context, report)
    if report.first_error is not None:
        if context.as_json:
            raise typer.Exit(report.first_error.exit_status)  # the report already contains the error
        raise report.first_error


def _show(result: Output, report: LoadReport) -> None:
    latency = asdict(report.latency) if report.latency else {}
    result.show(
        {
            "requests": report.requests, "answered": report.answered, "errors": dict(report.errors),
            "seconds": report.seconds, "rate": report.rate, "latency_seconds": latency,
            "connections": list(report.channels), "instances": dict(report.instances),
            **({"error": console.describe_error(report.first_error)} if report.first_error else {}),
        },
        {
            "answered": f"{report.answered} of {report.requests} in {report.seconds:.2f} s",
            "rate": f"{report.rate:.1f} requests/s",
            "latency": ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in latency.items()),
            "errors": ", ".join(f"{count} {code}" for code, count in report.errors.items()) or "none",
            "replicas": ", ".join(f"{name[:8]}: {count}" for name, count in report.instances.items()),
        },
    )  # fmt: skip
