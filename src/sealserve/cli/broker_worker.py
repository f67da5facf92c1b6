"""The program of a worker of a broker with several processes. Only the supervisor starts it.

`sealserve.broker.processes.supervisor` describes the processes of a broker.
"""

import argparse
import logging
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sealserve.broker.hardening import forbid_inspection, lock_memory
from sealserve.broker.passphrase import ASK_PASSPHRASE
from sealserve.broker.processes.channel import Channel, ChannelError
from sealserve.broker.processes.handover import EndedCounts, HandedArrivals
from sealserve.broker.processes.parent_death import end_with_parent
from sealserve.broker.processes.worker import Event, Worker, ask_supervisor, error_message
from sealserve.broker.service_loop import signalled
from sealserve.cli import console
from sealserve.deprecation import DeprecatedKeyWarning
from sealserve.errors import SealserveError
from sealserve.owner.broker_parts import Part, open_part
from sealserve.owner.supervised_broker import parse_settings
from sealserve.workspace import Workspace

_LOG: Final = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run a worker until it ends. Return the exit status."""
    # 1. End with the supervisor. It alone handles the signals that a terminal sends to all processes.
    options = _options(arguments)
    end_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # 2. Protect the memory before any secret is in it.
    forbid_inspection()
    reason = lock_memory()
    # 3. Receive the settings.
    channel = Channel(socket.socket(fileno=options.control))
    if (setup := channel.receive()) is None:
        return 1
    workspace = Workspace(Path(setup["directory"]))
    warnings.simplefilter("ignore", DeprecatedKeyWarning)  # the supervisor has shown it
    described = parse_settings(workspace, setup["settings"])
    console.log_to_standard_error(described.broker.log_format)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if reason is not None and options.number == 0:
        _LOG.warning("the system may swap out the broker's memory, which contains keys: %s", reason)
    # 4. Open the broker, and serve.
    ASK_PASSPHRASE.set(partial(ask_supervisor, channel))
    host, port = setup["address"]
    part = Part(
        number=options.number,
        processes=setup["processes"],
        arrivals=HandedArrivals(
            socket.socket(fileno=options.connections),
            EndedCounts(options.counts),
            worker=options.number,
            address=(host, port),
        ),
        administration=None if options.administration is None else socket.socket(fileno=options.administration),
        changes_after=setup["changes_after"],
    )
    try:
        with signalled() as signals, open_part(workspace, described, part) as opened:
            Worker(channel, opened.server, opened.observed, changes=opened.reported).run(signals)
    except SealserveError as error:
        return _fail(channel, error)
    except Exception:  # noqa: BLE001  # the supervisor reports it, and the log has the traceback
        _LOG.exception("a process of the broker failed with an internal error")
        return _fail(channel, SealserveError("A process of the broker failed with an internal error."))
    return 0


def _fail(channel: Channel, error: SealserveError) -> int:
    try:
        channel.send({"event": Event.FAILED, **error_message(error)})
    except ChannelError:
        console.print_error(error)
    return error.exit_status


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A process of a broker. `sealserve broker run --processes` starts it.")
    for name in ("parent", "number", "control", "connections", "counts"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--administration", type=int)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
