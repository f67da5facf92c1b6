"""One demonstration from start to end: the twelve steps, or the attacks of a hostile host and of the owner."""

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

INTRODUCTION = (
    "This machine plays three roles: the owner of a model, a host that the owner does not trust, and a user of the "
    "model. Steps ① to ⑫ follow the model from the owner to the user. Steps marked · prepare them or check the result."
)
ATTACK_INTRODUCTION = (
    "This machine plays the owner of a model, a hostile host, a thief in the network, and a user of the model. The "
    "host and the thief try to obtain or change the model, and to read the user's input. Then the owner herself tries "
    "to read the user's input."
)
WARNING = (
    "SIMULATED: software replaces the SGX processor in this demo. Every format, signature, protocol and check below is "
    "real, but nothing is protected from root on this machine."
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
    """Run the demo in the folder of ``context``. The arguments are the options of `sealserve demo`."""
    load_simulator()  # fail before anything is changed, if the simulator is not installed
    screen = Screen(as_json=context.as_json)
    workspace = preparation.reset(
        context.directory, on_running=lambda left: _say_what_stops(screen, context.directory, left)
    )
    choice = ModelChoice(path=model, inputs=tuple(inputs), outputs=tuple(outputs))
    with interrupted_once(), console.spinner("Preparing") as tell:
        walk = Walk(workspace, screen, tell=tell)
        introduction = ATTACK_INTRODUCTION if attacks else INTRODUCTION
        screen.heading("sealserve demo: a sealed model, served from attested enclaves", "", introduction, "", WARNING)
        try:
            folder = walk.prepare(choice, seed=seed, tls=tls)
            if attacks:
                walk.certify()
                attack.run(workspace, walk, screen, tell=tell)
            else:
                _serve(walk, folder, given, keep=keep)
        except BaseException:
            walk.stop()
            raise
        if not keep or attacks:
            walk.stop()
    screen.finish(workspace=str(workspace.root))
    if not context.as_json:
        _show_next_steps(screen, workspace.directory, keep=keep and not attacks)


def _say_what_stops(screen: Screen, directory: Path, left: Sequence[str]) -> None:
    screen.step(
        0,
        "An earlier demo still runs in this folder: it is stopped first",
        "This demo then creates new keys and certificates. To keep the earlier service, run the demo in another "
        "folder: `sealserve demo -C DIR`.",
        ("folder", str(directory)),
        ("stopping", ", ".join(left)),
        seconds=0.0,
    )


def _serve(walk: Walk, folder: Path, given: Sequence[str], *, keep: bool) -> None:
    reference = walk.compare(folder, given)
    walk.certify()
    walk.start_vendor()
    built = walk.seal()
    bundle = walk.ship(built, REPLICAS)
    walk.start_replicas(bundle, REPLICAS)
    walk.start_front()
    policy = walk.verify()
    walk.use(reference, policy)
    walk.prove(built)
    if keep:
        walk.keep(bundle, REPLICAS)


def _show_next_steps(screen: Screen, directory: Path, *, keep: bool) -> None:
    where = "" if directory == Path.cwd() else f" -C {shlex.quote(str(directory))}"
    if keep:
        heading = "The service is still running. Next:"
        commands = {
            f"sealserve predict{where}": "send a request",
            f"sealserve status{where}": "show the parts of the deployment",
            f"sealserve down{where}": "stop the service",
        }
    else:
        heading = "Inspect the workspace:"
        commands = {
            f"sealserve broker log{where}": "show which enclaves got the key, and which were refused",
            f"sealserve release show{where}": "show the files of the release",
            f"sealserve logs{where}": "show the logs of all parts",
        }
    screen.pairs(heading, list(commands.items()))
