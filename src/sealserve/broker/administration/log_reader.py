"""Reads the audit log page by page: all selected rows, or each new row from then on.

A follower polls the broker, and the broker stores nothing for it between two requests. Therefore a follower that
reads slowly, or not at all, costs the broker nothing.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from sealserve.broker.admin import truncated
from sealserve.broker.administration.interface import Administration
from sealserve.broker.administration.log_documents import CODE_PATTERN, LARGEST_PAGE
from sealserve.broker.audit import AuditRow
from sealserve.broker.audit_selection import Selection

_CODE: Final = re.compile(CODE_PATTERN)


def selected_rows(broker: Administration, selection: Selection) -> tuple[Sequence[AuditRow], int]:
    """Return the rows that match ``selection``, oldest first, and the number of the last row of the whole log."""
    possible = _possible(selection)
    if possible is None:
        return [], broker.log_page(Selection(last=1), after=0, limit=1).end
    if possible.last is None or possible.last <= LARGEST_PAGE:
        if possible.last is not None:
            page = broker.log_page(possible, after=0, limit=LARGEST_PAGE)
            return page.rows, page.end
        return _after(broker, possible, 0)
    # More rows than a page holds: read all pages, and keep the newest rows.
    rows, end = _after(broker, replace(possible, last=None), 0)
    return list(deque(rows, possible.last)), end


def rows_forever(broker: Administration, selection: Selection, wait: Callable[[], object]) -> Iterator[AuditRow]:
    """Yield the rows that match ``selection``, and then each new row. ``wait`` is called before each further request.

    Raises:
        VerificationError: `audit.truncated` if the log is shorter than it was.
    """
    rows, end = selected_rows(broker, selection)
    newer = _possible(replace(selection, last=None))
    while True:
        yield from rows
        wait()
        rows, end = ([], end) if newer is None else _after(broker, newer, end)


def _after(broker: Administration, selection: Selection, after: int) -> tuple[Sequence[AuditRow], int]:
    rows: list[AuditRow] = []
    while True:
        page = broker.log_page(selection, after=after, limit=LARGEST_PAGE)
        if page.end < after:
            raise truncated(after, page.end)
        rows += page.rows
        after = page.next
        if after >= page.end:
            return rows, page.end


def _possible(selection: Selection) -> Selection | None:
    """Return the selection without codes that no row can have, or `None` if no row can match."""
    codes = tuple(code for code in selection.codes if _CODE.fullmatch(code))
    return None if selection.codes and not codes else replace(selection, codes=codes)
