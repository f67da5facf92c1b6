"""Passes accepted connections from the supervisor to its workers, and counts the connections of each worker.

A message contains the peer's name and the descriptor of the connection. A worker adds each connection that ended to its
count in shared memory, so that the supervisor can choose the worker with the fewest open connections.

Source: unix(7) SCM_RIGHTS; memfd_create(2) "File sealing".
"""

import fcntl
import logging
import mmap
import os
import select
import socket
import threading
from array import array
from typing import Final

from sealserve.broker.arrivals import Begin, Drop
from sealserve.broker.silent_peers import SilentPeer
from sealserve.terms import MOST_PROCESSES

_LOG: Final = logging.getLogger(__name__)
_LONGEST_NAME: Final = 128
_CHECK: Final = 0.5  # seconds
_BYTES: Final = 8


class EndedCounts:
    """The number of ended connections of each worker, in memory that all processes of a broker share.

    Args:
        descriptor: The memory, from `create`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor: Final = descriptor
        self._memory = mmap.mmap(descriptor, MOST_PROCESSES * _BYTES)
        self._counts = memoryview(self._memory).cast("Q")
        self._lock = threading.Lock()

    @classmethod
    def create(cls) -> "EndedCounts":
        """Return new counts of zero. The memory's size is fixed: a worker cannot take it from the supervisor."""
        descriptor = os.memfd_create("ended-connections", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, MOST_PROCESSES * _BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(descriptor)

    def of(self, worker: int) -> int:
        """Return the count of a worker."""
        return self._counts[worker]

    def add(self, worker: int) -> None:
        """Count an ended connection. Only the worker itself calls this."""
        with self._lock:
            self._counts[worker] += 1

    def reset(self, worker: int) -> None:
        """Set the count of a worker that does not run to zero."""
        self._counts[worker] = 0

    def close(self) -> None:
        """Release the memory."""
        self._counts.release()
        self._memory.close()
        os.close(self.descriptor)


class HandedArrivals:
    """The connections that the supervisor passes to this worker. See `sealserve.broker.arrivals.Arrivals`.

    Args:
        stream: This worker's end of the socket for connections.
        counts: The counts of ended connections.
        worker: The number of this worker.
        address: The address and port that the supervisor listens on.
    """

    def __init__(self, stream: socket.socket, counts: EndedCounts, *, worker: int, address: tuple[str, int]) -> None:
        self._stream = stream
        self._counts = counts
        self._worker = worker
        self.address: Final = address

    def __len__(self) -> int:
        """Return 0: the supervisor holds the silent connections."""
        return 0

    def open(self) -> None:
        """Do nothing: the supervisor listens."""

    def run(self, stopping: threading.Event, begin: Begin, drop: Drop) -> None:
        """Call ``begin`` with each connection, until ``stopping`` is set or the supervisor is gone."""
        del drop
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        while not stopping.is_set():
            if not poll.poll(_CHECK * 1000):
                continue
            try:
                name, descriptors = _receive(self._stream)
            except OSError as error:
                _LOG.warning("cannot take a connection from the supervisor: %s", error)
                stopping.wait(_CHECK)
                continue
            if not name:  # the supervisor is gone, or `wake` was called
                break
            if not descriptors:  # the limit of open files is reached
                _LOG.warning("cannot take a connection from the supervisor: too many open files")
                self.ended()
                continue
            begin(SilentPeer(socket.socket(fileno=descriptors[0]), name.decode()))

    def wake(self) -> None:
        """Let `run` notice at once that ``stopping`` is set. Connections that are not taken yet are closed."""
        self._stream.shutdown(socket.SHUT_RDWR)

    def ended(self) -> None:
        """Count a connection that has ended."""
        self._counts.add(self._worker)


def _receive(stream: socket.socket) -> tuple[bytes, list[int]]:
    """Return the name of a peer, and the descriptor of its connection, which child processes do not inherit."""
    # `socket.recv_fds` of Python 3.11 ignores its flags.
    room = socket.CMSG_LEN(array("i").itemsize)
    name, ancillary, _, _ = stream.recvmsg(_LONGEST_NAME, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return name, list(descriptors)


def hand_over(stream: socket.socket, peer: SilentPeer) -> bool:
    """Pass a connection to a worker without waiting. Return `False` if the worker cannot take it.

    Args:
        stream: The supervisor's end of the socket for connections, in non-blocking mode.
        peer: The connection. The caller closes its own descriptor.
    """
    try:
        socket.send_fds(stream, [peer.peer.encode()[:_LONGEST_NAME]], [peer.stream.fileno()])
    except OSError:  # the worker has ended, or does not take connections
        return False
    return True
