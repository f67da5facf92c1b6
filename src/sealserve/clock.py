"""How much two clocks may differ."""

from datetime import timedelta
from typing import Final

CLOCK_SKEW: Final = timedelta(minutes=5)
"""A document or certificate that starts up to this much after ``now`` is valid already: the clock here may be slow.

Certificates that sealserve issues start as much before they are issued, for peers whose clocks are slow and strict. The
end of a document or certificate has no tolerance.
"""
