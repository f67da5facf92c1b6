"""``sealserve demo``: the twelve steps on this machine, or what a hostile host may try."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.cli.demo import attack, preparation
from sealserve.cli.demo.preparation import REPLICAS, ModelChoice
from sealserve.cli.demo.screen import Screen
from sealserve.cli.demo.walk import Walk
from sealserve.cli.verbs import Verbs
from sealserve.cluster.processes import interrupted_once
from sealserve.enclave.launch.simulator import load_simulator
from sealserve.terms import TlsMode

app = Verbs()

WARNING = (
    "SIMULATED: there is no SGX here. Every format, signature, protocol and check below is real, and nothing is "
    "protected from this machine's root."
)


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
    load_simulator()  # without it, nothing is made or stopped
    screen = Screen(as_json=context.as_json)
    workspace = preparation.reset(
        context.directory, on_running=lambda left: _say_what_stops(screen, context.directory, left)
    )
    choice = ModelChoice(path=model, inputs=tuple(inputs.split(",")), outputs=tuple(outputs.split(",")))
    with interrupted_once(), console.spinner("Preparing") as tell:
        walk = Walk(workspace, screen, tell=tell)
        screen.heading("sealserve demo: a sealed model, served from attested enclaves", WARNING, "")
        try:
            folder = walk.prepare(choice, seed=seed, tls=tls)
            if attacks:
                walk.certify()
                attack.run(workspace, walk, screen, tell=tell)
            else:
                _serve(walk, folder, given or [])
        except BaseException:
            walk.stop()
            raise
        if not keep or attacks:
            walk.stop()
    screen.finish(workspace=str(workspace.root))
    if not context.as_json:
        _say_what_next(workspace.directory, keep=keep and not attacks)


def _say_what_stops(screen: Screen, directory: Path, left: Sequence[str]) -> None:
    screen.step(
        0,
        "An earlier demo still runs here: it is stopped, and this one makes new keys and certificates",
        f"stopping: {', '.join(left)}",
        f"to keep that service, run the demo in another folder: `sealserve demo -C DIR`; here is {directory}",
        seconds=0.0,
    )


def _serve(walk: Walk, folder: Path, given: Sequence[str]) -> None:
    reference = walk.compare(folder, given)
    walk.certify()
    walk.start_vendor()
    built = walk.seal()
    bundle = walk.ship(built, REPLICAS)
    walk.start_replicas(bundle, REPLICAS)
    walk.start_front()
    walk.use(reference)
    walk.prove(built)


def _say_what_next(directory: Path, *, keep: bool) -> None:
    where = "" if directory == Path.cwd() else f" -C {shlex.quote(str(directory))}"
    if keep:
        console.out.print(
            f"It runs: `sealserve predict{where}`, `sealserve status{where}`; `sealserve down{where}` stops it."
        )
    else:
        console.out.print(
            f"The workspace is there to look around: `sealserve broker log{where}`, `sealserve release show{where}`, "
            f"`sealserve logs{where}`."
        )
