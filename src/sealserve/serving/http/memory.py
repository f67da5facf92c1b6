"""The memory that a REST request borrows from the allowance of all clients, until its answer is sent."""

from types import TracebackType
from typing import Self

from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.wire.allowance import Allowance


def give_up(body: bytes | bytearray, loan: "Loan") -> None:
    """Free the memory of a body that has been read, if it is a `bytearray`."""
    if isinstance(body, bytearray):
        size = len(body)
        body.clear()
        loan.give_back(min(size, loan.size))


class NoMemoryError(RequestError):
    """The memory that the server allows for all requests together is exhausted."""

    code = "request.no-memory"
    status = Status.RESOURCE_EXHAUSTED


class Loan:
    """The memory that one request borrows. It is returned at the end of the ``with`` block.

    Args:
        allowance: The memory that all requests share.
    """

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back(self._size)

    @property
    def size(self) -> int:
        """The bytes that are currently borrowed."""
        return self._size

    def take(self, size: int) -> None:
        """Borrow ``size`` bytes before they are used.

        Raises:
            NoMemoryError: Too little memory is left.
        """
        if not self._allowance.take(size):
            raise NoMemoryError("The server is busy: the memory for requests is full.")
        self._size += size

    def take_anyway(self, size: int) -> None:
        """Borrow ``size`` bytes that are already in use, even beyond the limit. Other requests wait for them."""
        self._allowance.take_anyway(size)
        self._size += size

    def give_back(self, size: int) -> None:
        """Return ``size`` bytes."""
        self._allowance.give_back(size)
        self._size -= size
