"""PCK certificate chains that verified before, so that an enclave's restart on the same platform parses nothing again.

A chain enters the cache only after its names and signatures verified up to a trusted root. A client can therefore add
only chains that the vendor issued, and the number of entries is bounded. Validity and revocation are not part of this
check: dcap-qvl checks them for each quote.
"""

import threading
from collections import OrderedDict
from typing import Final

from sealserve.sgx.pck import PckChain
from sealserve.sgx.trust_anchor import TrustAnchor

_MAXIMUM: Final = 256


class KnownChains:
    """A cache of verified chains. Several threads may use it.

    Args:
        maximum: The maximum number of chains. The least recently used chain is removed first.
    """

    def __init__(self, maximum: int = _MAXIMUM) -> None:
        self._maximum = maximum
        self._chains: OrderedDict[bytes, tuple[PckChain, bytes]] = OrderedDict()  # with the root that they end at
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chains)

    def parse(self, pem: bytes) -> PckChain:
        """Return the parsed chain. The caller must still call `check`.

        Raises:
            VerificationError: The errors of `PckChain.parse`.
        """
        with self._lock:
            known = self._chains.get(pem)
        return PckChain.parse(pem) if known is None else known[0]

    def check(self, chain: PckChain, anchor: TrustAnchor) -> None:
        """Check the chain like `PckChain.check`, unless exactly this chain has already verified with this root.

        Args:
            chain: The result of `parse`. Its whole text is the key, so that different chains never share an entry.
            anchor: The trusted root.

        Raises:
            VerificationError: The errors of `PckChain.check`. Nothing is cached.
        """
        with self._lock:
            known = self._chains.get(chain.pem)
            if known is not None and known[0] is chain and known[1] == anchor.root_der:
                self._chains.move_to_end(chain.pem)
                return
        chain.check(anchor)
        with self._lock:
            self._chains[chain.pem] = chain, anchor.root_der
            self._chains.move_to_end(chain.pem)
            while len(self._chains) > self._maximum:
                self._chains.popitem(last=False)


KNOWN_CHAINS: Final = KnownChains()
"""The cache of this process."""
