"""The memory that one REST request borrows from what all clients share, until its answer has left."""

from types import TracebackType
from typing import Self

from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.wire.allowance import Allowance


class NoMemoryError(RequestError):
    """All requests together would take more memory than the server gives to them."""

    code = "request.no-memory"
    status = Status.RESOURCE_EXHAUSTED


class Loan:
    """What one request borrows. Everything returns at the end of the ``with`` block.

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
        """The bytes that are borrowed now."""
        return self._size

    def take(self, size: int) -> None:
        """Borrow ``size`` bytes before they are used.

        Raises:
            NoMemoryError: Too little is left.
        """
        if not self._allowance.take(size):
            raise NoMemoryError("The server is busy: it has no memory for more.")
        self._size += size

    def take_anyway(self, size: int) -> None:
        """Borrow ``size`` bytes that are in use already. Other requests wait for them."""
        self._allowance.take_anyway(size)
        self._size += size

    def give_back(self, size: int) -> None:
        """Return ``size`` bytes."""
        self._allowance.give_back(size)
        self._size -= size
