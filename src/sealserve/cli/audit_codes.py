"""The codes that rows of the audit log can have, and warnings about codes that do not exist."""

import difflib
from collections.abc import Iterator, Sequence

from sealserve.attestation.codes import AttestationCode
from sealserve.broker.codes import BrokerCode
from sealserve.broker.decision_records import SEVERAL
from sealserve.errors import ErrorCode, SealserveError
from sealserve.sgx.codes import SgxCode


def known_codes() -> Sequence[str]:
    """Return the codes, sorted."""
    enumerations: tuple[type[ErrorCode], ...] = (AttestationCode, BrokerCode, SgxCode)
    codes = {str(code.value) for enumeration in enumerations for code in enumeration}
    return sorted({"ok", SEVERAL, *codes, *_codes_of_classes(SealserveError)})


def unknown_codes(asked: Sequence[str]) -> Iterator[str]:
    """Yield a warning for each code that does not exist in this version, with the nearest code that exists."""
    known = known_codes()
    for code in asked:
        if code not in known:
            near = difflib.get_close_matches(code, known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else "The page docs/reference/errors.md lists the codes."
            yield f"The code {code[:80]!r} does not exist in this version of sealserve. {hint}"


def _codes_of_classes(root: type[SealserveError]) -> Iterator[str]:
    """Yield the codes of the errors that have a separate class."""
    for kind in root.__subclasses__():
        if isinstance(code := vars(kind).get("code"), str):
            yield code
        yield from _codes_of_classes(kind)
