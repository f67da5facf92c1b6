"""A demonstration from its beginning to its end: the twelve steps, or what a hostile host may try."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.cli.demo import attack, preparation
from sealserve.cli.demo.preparation import REPLICAS, ModelChoice
from sealserve.cli.demo.screen import Screen
from sealserve.cli.demo.walk import Walk
from sealserve.enclave.launch.simulator import load_simulator
from sealserve.interruptions import interrupted_once
from sealserve.terms import TlsMode

WARNING = (
    "SIMULATED: there is no SGX here. Every format, signature, protocol and check below is real, and nothing is "
    "protected from this machine's root."
)


def demonstrate(
    context: Context,
    model: Path | None,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    given: Sequence[str],
    seed: int,
    tls: TlsMode,
    attacks: bool,
    keep: bool,
) -> None:
    """Demonstrate in the folder of ``context``; the arguments are the options of `sealserve demo`."""
    load_simulator()  # without it, nothing is made or stopped
    screen = Screen(as_json=context.as_json)
    workspace = preparation.reset(
        context.directory, on_running=lambda left: _say_what_stops(screen, context.directory, left)
    )
    choice = ModelChoice(path=model, inputs=tuple(inputs), outputs=tuple(outputs))
    with interrupted_once(), console.spinner("Preparing") as tell:
        walk = Walk(workspace, screen, tell=tell)
        screen.heading("sealserve demo: a sealed model, served from attested enclaves", WARNING, "")
        try:
            folder = walk.prepare(choice, seed=seed, tls=tls)
            if attacks:
                walk.certify()
                attack.run(workspace, walk, screen, tell=tell)
            else:
                _serve(walk, folder, given)
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
