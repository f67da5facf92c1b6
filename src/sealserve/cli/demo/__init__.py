"""``sealserve demo``: the twelve steps on this machine, or what a hostile host may try."""

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
        typer.Option(help="A frozen graph (.pb) or a SavedModel of yours.", show_default="a ResNet50 that it makes"),
    ] = None,
    inputs: Annotated[str, typer.Option(help="A frozen graph's input nodes, with commas between.")] = "input",
    outputs: Annotated[str, typer.Option(help="A frozen graph's output nodes, likewise.")] = "predict",
    tls: Annotated[TlsMode, typer.Option(help="Whether users show a certificate too.")] = TlsMode.TWO_WAY,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An input for your model, as for `sealserve predict`. Repeat the option for each input.",
            show_default="generated values",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the example's weights.")] = 0,
    attacks: Annotated[
        bool, typer.Option("--attack", help="Try what a hostile host may try; each is refused.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running at the end.")] = False,
) -> None:
    """Run the twelve steps of confidential serving on this machine, with real parts."""
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
