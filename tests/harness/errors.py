"""Expect an error by its code, as `pytest.raises` expects an exception by its class."""

import re
from typing import overload

import pytest

from sealserve.errors import ErrorCode, SealserveError
from sealserve.serving.request_errors import RequestCode, RequestError

Expected = ErrorCode | type[SealserveError]
Match = str | re.Pattern[str] | None


@overload
def raises(*expected: RequestCode, match: Match = None) -> pytest.RaisesExc[RequestError]: ...
@overload
def raises(*expected: Expected, match: Match = None) -> pytest.RaisesExc[SealserveError]: ...
def raises(*expected: Expected, match: Match = None) -> pytest.RaisesExc[SealserveError]:
    """Fail unless the block raises an error with one of the codes, of exactly the code's family.

    Args:
        expected: The codes. A class stands for itself, for tests with a list of both.
        match: A regular expression that occurs in the message and the hint.
    """

    def check(error: SealserveError) -> bool:
        if any(_fits(error, one) for one in expected):
            return True
        raise AssertionError(f"expected {' or '.join(map(str, expected))}, got {error!r}") from error

    kinds = tuple({one.family if isinstance(one, ErrorCode) else one for one in expected})
    return pytest.raises(kinds, match=match, check=check)


def _fits(error: SealserveError, expected: Expected) -> bool:
    if isinstance(expected, ErrorCode):
        return (error.code, type(error)) == (expected.value, expected.family)
    return isinstance(error, expected)
