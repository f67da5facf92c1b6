"""The process that loads a PKCS#11 module. `pkcs11_key` starts it and sends it requests.

The module is a vendor's native code. In a separate process, it cannot read the broker's memory, a crash does not end
the broker, and a call that hangs can be ended.
"""

import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from sealserve.broker.hardening import forbid_inspection, lock_memory
from sealserve.broker.pkcs11_protocol import Failure, Message, Operation, TokenFailedError, receive

if TYPE_CHECKING:
    from sealserve.broker.pkcs11_token import TokenKey

_GRACE: Final = 5  # seconds after the broker's timeout


def serve(connection: Connection) -> None:
    """Handle the requests of the broker until it closes the connection."""
    requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_work, args=(connection, requests), daemon=True).start()
    try:
        while True:
            requests.put(receive(connection))
    except (OSError, EOFError, ValueError, TypeError):
        os._exit(0)  # immediately, although the other thread may wait for the module


def _work(connection: Connection, requests: "queue.SimpleQueue[Message]") -> None:
    state = _State()
    while True:
        request = requests.get()
        # The broker ends this process after its timeout. The alarm ends it if the broker was killed meanwhile, even
        # in native code that blocks the interpreter.
        signal.setitimer(signal.ITIMER_REAL, float(request.header["seconds"]) + _GRACE)
        try:
            reply = state.handle(request)
        except TokenFailedError as error:
            reply = Message(header={"failure": error.failure, "message": error.message})
        except Exception as error:  # noqa: BLE001  # reported to the broker, without details that could be secret
            text = f"The process of the PKCS#11 module failed: {type(error).__name__}"
            reply = Message(header={"failure": Failure.FAILED, "message": text})
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply.send(connection)


class _State:
    """The key in the token, after the first request."""

    def __init__(self) -> None:
        self._key: TokenKey | None = None

    def handle(self, request: Message) -> Message:
        header = request.header
        if header["operation"] == Operation.OPEN:
            from sealserve.broker import pkcs11_token  # noqa: PLC0415  # so that an import error reaches the broker

            self._key = pkcs11_token.TokenKey(
                pkcs11_token.load(header["module"]),
                label=header["token"],
                serial=header["serial"],
                key=header["key"],
                pin=request.data.decode(),
            )
            return Message(header={"warning": self._key.warning})
        if self._key is None:
            raise TokenFailedError(Failure.FAILED, "The first request must open the token")
        operation = self._key.encrypt if header["operation"] == Operation.ENCRYPT else self._key.decrypt
        return Message(header={}, data=operation(request.data, bytes.fromhex(header["context"])))


def main() -> None:
    """Serve the connection whose descriptor is the argument."""
    forbid_inspection()
    lock_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):  # the broker finishes its requests first, and then closes
        signal.signal(number, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
