"""Queues with turns: items wait in one queue for each client, and the clients take turns.

With a single queue, a client with a thousand slow calls would delay all clients after it.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Turns(Generic[Item]):
    """Waiting items. The caller serializes all calls."""

    def __init__(self) -> None:
        self._peers: OrderedDict[bytes, dict[Item, None]] = OrderedDict()
        self._peer_of: dict[Item, bytes] = {}

    def __len__(self) -> int:
        return len(self._peer_of)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._peer_of)

    def add(self, peer: bytes, item: Item) -> None:
        """Add ``item`` after the other items of its client. A new client comes after the other clients."""
        self._peers.setdefault(peer, {})[item] = None
        self._peer_of[item] = peer

    def next(self) -> Item | None:
        """Remove and return the item whose turn it is, or None if no item waits. Its client moves to the end."""
        for peer, items in self._peers.items():
            item = next(iter(items))
            self.remove(item)
            if peer in self._peers:
                self._peers.move_to_end(peer)
            return item
        return None

    def count(self, peer: bytes) -> int:
        """Return the number of items of a client that wait."""
        return len(self._peers.get(peer, ()))

    def longest(self) -> bytes:
        """Return the client with the most waiting items; with equal numbers, the one whose turn comes last.

        Raises:
            ValueError: No item waits.
        """
        return max(reversed(self._peers), key=self.count)

    def newest(self, peer: bytes) -> Item:
        """Return the newest item of a client that has waiting items.

        Raises:
            KeyError: No item of this client waits.
        """
        return next(reversed(self._peers[peer]))

    def remove(self, item: Item) -> bool:
        """Remove ``item``; return whether it waited."""
        peer = self._peer_of.pop(item, None)
        if peer is None:
            return False
        items = self._peers[peer]
        del items[item]
        if not items:
            del self._peers[peer]
        return True
