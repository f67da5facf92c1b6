"""``sealserve demo``: the twelve steps on this machine, or the attacks of a hostile host and of the owner."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs
from sealserve.terms import TlsMode

with deferred:
    from sealserve.cli.demo.demonstration import demonstrate

app = Verbs()


@app.command()
def demo(
    context: Context,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Your model: a frozen graph (.pb) or a SavedModel folder",
            show_default="ResNet50 with random weights",
        ),
    ] = None,
    inputs: Annotated[str, typer.Option(help="Input nodes of a frozen graph, separated by commas")] = "input",
    outputs: Annotated[str, typer.Option(help="Output nodes of a frozen graph, separated by commas")] = "predict",
    tls: Annotated[
        TlsMode, typer.Option(help="two-way: users need a client certificate; one-way: they do not")
    ] = TlsMode.TWO_WAY,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="Input for your model, as for `sealserve predict`; repeat the option for each input",
            show_default="generated values",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the weights of the example model")] = 0,
    attacks: Annotated[
        bool,
        typer.Option("--attack", help="Run attacks of a hostile host, a thief and the owner, and show why they fail"),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the service running at the end (not with --attack)")
    ] = False,
) -> None:
    """Run the twelve steps of confidential serving on this machine.

    The demo starts a simulated SGX platform, the broker, two enclaves and NGINX. A user verifies the enclaves, sends
    requests, and verifies a receipt. The demo compares the answers with TensorFlow's, searches everything on the host
    for secrets, and stops everything. It takes one or two minutes.

    The workspace is created in the current folder, or in the folder of --directory. An existing deployment that is not
    a demo is never changed.
    """
    demonstrate(
        context,
        model,
        inputs=inputs.split(","),
        outputs=outputs.split(","),
        given=given or [],
        seed=seed,
        tls=tls,
        attacks=attacks,
        keep=keep,
    )
