import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.canonical_document import canonical_json
from sealserve.terms import LARGEST_VERSION

KEYS = st.from_regex(r"[a-z_0-9]{1,9}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, LARGEST_VERSION) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=10,
)


@given(VALUES)
def test_the_same_value_is_read_again(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 8785, section 3.2.2 (strings) and 3.2.3 (order), for what sealserve writes.
        ('\u20ac$\u000f\u000aA\'B"\\"/', '"\u20ac$\\u000f\\nA\'B\\"\\\\\\"/"'),
        ({"b": [True, False, None], "a": 1, "a1": ""}, '{"a":1,"a1":"","b":[true,false,null]}'),
        ("\b\t\f\r\x7f\U0001f600", '"\\b\\t\\f\\r\x7f\U0001f600"'),
        # Above RFC 8785: a version of 63 bits keeps all its digits.
        ({"version": LARGEST_VERSION}, '{"version":9223372036854775807}'),
    ],
)
def test_the_form_is_that_of_rfc_8785(value: object, expected: str) -> None:
    assert canonical_json(value) == expected.encode()


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "not JSON compliant"), (float("inf"), "not JSON compliant"), ("\ud800", "surrogates not allowed")],
)
def test_what_has_no_canonical_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical_json(value)
