"""Number of connections that NGINX has forwarded, from its connection log.

NGINX forwards TLS that it cannot decrypt. So it counts connections, not requests, and logs a connection when it ends.
"""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from sealserve.log_line import parse
from sealserve.regular_file import InputFileError, read_tail

_MOST_READ: Final = 32 * 2**20
# A client controls only the server name, in which NGINX escapes quotation marks.
_REPLICA: Final = re.compile(r'"replica":"(?:[^"]*, )?([^", ]+)","status":200,')


def count_connections(lines: str, since: Mapping[str, datetime]) -> Mapping[str, int]:
    """Return the number of connections of each replica, by the replica's address as NGINX writes it.

    Args:
        lines: The content of the log.
        since: The start of each replica, by its address. Earlier connections belong to a previous replica.
    """
    counts: Counter[str] = Counter(dict.fromkeys(since, 0))
    for line in lines.splitlines():
        if (found := _REPLICA.search(line)) is not None and (start := since.get(found[1])) is not None:
            moment = parse(line).time
            if moment is not None and moment >= start.replace(microsecond=0):
                counts[found[1]] += 1
    return counts


def read_connections(log: Path, since: Mapping[str, datetime]) -> Mapping[str, int] | None:
    """Return the counts from a log file, or None if the file is too large to count all connections."""
    try:
        content = read_tail(log, limit=_MOST_READ + 1)
    except InputFileError:
        return dict.fromkeys(since, 0)
    return None if len(content) > _MOST_READ else count_connections(content.decode(errors="replace"), since)
