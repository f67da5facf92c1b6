"""The errors and the values that TensorFlow Serving's JSON reader returns for each of these documents.

Provenance: RapidJSON 1.1.0 itself (the release that tensorflow/serving 9d981c5c pins in ``workspace.bzl``), called with
the flags and the stream of ``util/json_tensor.cc`` (``ParseJson``), printed this table: the value of the member
``inputs``, or the error with its offset. Doubles have nine digits.
"""

import math
from typing import Any, Final, Self

import pytest
from tests.harness.errors import raises

from sealserve.serving.http import json_numbers
from sealserve.serving.http.json_errors import JsonFormError
from sealserve.serving.http.json_nodes import Base64, JsonObject, Numbers, shape_of
from sealserve.serving.http.json_reader import read
from sealserve.serving.request_errors import RequestCode

NAN: Final = math.nan
INF: Final = math.inf
ABSENT: Final = object()
NOT_OBJECT: Final = object()


class members(tuple[Any, ...]):  # noqa: N801, SLOT001  # it reads as a literal
    """An object's members, including repeated names."""

    def __new__(cls, *found: Any) -> Self:
        return super().__new__(cls, found)


class error(str):  # noqa: N801, SLOT000
    """A syntax error."""


CASES: Final[tuple[tuple[bytes, Any], ...]] = (
    (b'{"inputs":1}', 1),
    (b'{"inputs":-1}', -1),
    (b'{"inputs":0}', 0),
    (b'{"inputs":-0}', 0),
    (b'{"inputs":0.0}', 0.0),
    (b'{"inputs":-0.0}', -0.0),
    (b'{"inputs":1.5}', 1.5),
    (b'{"inputs":-2.25}', -2.25),
    (b'{"inputs":1e5}', 100000.0),
    (b'{"inputs":1E5}', 100000.0),
    (b'{"inputs":1e+5}', 100000.0),
    (b'{"inputs":1e-5}', 1e-05),
    (b'{"inputs":0e0}', 0.0),
    (b'{"inputs":2147483648}', 2147483648),
    (b'{"inputs":4294967296}', 4294967296),
    (b'{"inputs":9223372036854775807}', 9223372036854775807),
    (b'{"inputs":9223372036854775808}', 9223372036854775808),
    (b'{"inputs":18446744073709551615}', 18446744073709551615),
    (b'{"inputs":18446744073709551616}', 1.84467441e19),
    (b'{"inputs":-9223372036854775808}', -9223372036854775808),
    (b'{"inputs":-9223372036854775809}', -9.22337204e18),
    (b'{"inputs":' + b"1" + b"0" * 308 + b"}", 1e308),
    (b'{"inputs":1e308}', 1e308),
    (b'{"inputs":1e309}', error("Number too big to be stored in double. at offset: 10")),
    (b'{"inputs":1e400}', error("Number too big to be stored in double. at offset: 10")),
    (b'{"inputs":-1e400}', error("Number too big to be stored in double. at offset: 10")),
    (b'{"inputs":0e309}', error("Number too big to be stored in double. at offset: 10")),
    (b'{"inputs":123e307}', INF),
    (b'{"inputs":0.0000001e310}', 1e303),
    (b'{"inputs":0.1e-400}', 0.0),
    (b'{"inputs":1e-99999999999}', 0.0),
    (b'{"inputs":' + b"9" * 400 + b"}", error("Number too big to be stored in double. at offset: 10")),
    (b'{"inputs":NaN}', NAN),
    (b'{"inputs":-NaN}', NAN),
    (b'{"inputs":Inf}', INF),
    (b'{"inputs":-Inf}', -INF),
    (b'{"inputs":Infinity}', INF),
    (b'{"inputs":-Infinity}', -INF),
    (b'{"inputs":nan}', error("Invalid value. at offset: 11")),
    (b'{"inputs":inf}', error("Invalid value. at offset: 10")),
    (b'{"inputs":NAN}', error("Invalid value. at offset: 11")),
    (b'{"inputs":+Inf}', error("Invalid value. at offset: 10")),
    (b'{"inputs":+1}', error("Invalid value. at offset: 10")),
    (b'{"inputs":Infinit}', error("Invalid value. at offset: 17")),
    (b'{"inputs":Na}', error("Invalid value. at offset: 12")),
    (b'{"inputs":-}', error("Invalid value. at offset: 11")),
    (b'{"inputs":-x}', error("Invalid value. at offset: 11")),
    (b'{"inputs":01}', error("Missing a comma or '}' after an object member. at offset: 11")),
    (b'{"inputs":-01}', error("Missing a comma or '}' after an object member. at offset: 12")),
    (b'{"inputs":1.}', error("Miss fraction part in number. at offset: 12")),
    (b'{"inputs":.5}', error("Invalid value. at offset: 10")),
    (b'{"inputs":1.e5}', error("Miss fraction part in number. at offset: 12")),
    (b'{"inputs":1e}', error("Miss exponent in number. at offset: 12")),
    (b'{"inputs":1e+}', error("Miss exponent in number. at offset: 13")),
    (b'{"inputs":1_000}', error("Missing a comma or '}' after an object member. at offset: 11")),
    (b'{"inputs":0x10}', error("Missing a comma or '}' after an object member. at offset: 11")),
    (b'{"inputs":1 5}', error("Missing a comma or '}' after an object member. at offset: 12")),
    (b'{"inputs":true}', True),
    (b'{"inputs":false}', False),
    (b'{"inputs":null}', None),
    (b'{"inputs":True}', error("Invalid value. at offset: 10")),
    (b'{"inputs":tru}', error("Invalid value. at offset: 13")),
    (b'{"inputs":nulll}', error("Missing a comma or '}' after an object member. at offset: 14")),
    (b'{"inputs":none}', error("Invalid value. at offset: 11")),
    (b'{"inputs":[1,2]}', [1, 2]),
    (b'{"inputs":[1, 2.5, 3]}', [1, 2.5, 3]),
    (b'{"inputs":[[1,2],[3,4]]}', [[1, 2], [3, 4]]),
    (b'{"inputs":[[1,2],[3]]}', [[1, 2], [3]]),
    (b'{"inputs":[]}', []),
    (b'{"inputs":[[]]}', [[]]),
    (b'{"inputs":[[],[]]}', [[], []]),
    (b'{"inputs":[1,]}', error("Invalid value. at offset: 13")),
    (b'{"inputs":[,1]}', error("Invalid value. at offset: 11")),
    (b'{"inputs":[1,,2]}', error("Invalid value. at offset: 13")),
    (b'{"inputs":[1 2]}', error("Missing a comma or ']' after an array element. at offset: 13")),
    (b'{"inputs":[1}', error("Missing a comma or ']' after an array element. at offset: 12")),
    (b'{"inputs":[1,}', error("Invalid value. at offset: 13")),
    (b'{"inputs":[}', error("Invalid value. at offset: 11")),
    (b'{"inputs":]}', error("Invalid value. at offset: 10")),
    (b'{"inputs":[1}}', error("Missing a comma or ']' after an array element. at offset: 12")),
    (b'{"inputs":[[1,2],3[,4]]}', error("Missing a comma or ']' after an array element. at offset: 18")),
    (b'{"inputs":[[1,2],[3,]4]}', error("Invalid value. at offset: 20")),
    (b'{"inputs":[1]2]}', error("Missing a comma or '}' after an object member. at offset: 13")),
    (b'{"inputs":[1e400]}', error("Number too big to be stored in double. at offset: 11")),
    (b'{"inputs":[1,NaN,-Inf]}', [1, NAN, -INF]),
    (b'{"inputs":[nan]}', error("Invalid value. at offset: 12")),
    (b'{"inputs":[0,-1,18446744073709551615]}', [0, -1, 18446744073709551615]),
    (b'{"inputs":[1,"a",null,true]}', [1, b"a", None, True]),
    (b'{"inputs":["a","b"]}', [b"a", b"b"]),
    (b'{"inputs":["a,b","c"]}', [b"a,b", b"c"]),
    (b'{"inputs":["a" "b"]}', error("Missing a comma or ']' after an array element. at offset: 15")),
    (b'{"inputs":["a",]}', error("Invalid value. at offset: 15")),
    (b'{"inputs":[{}]}', [members()]),
    (b'{"inputs":{}}', members()),
    (b'{"inputs":{"a":1}}', members((b"a", 1))),
    (b'{"inputs":{"":1}}', members((b"", 1))),
    (b'{"inputs":{"a":1,"a":2}}', members((b"a", 1), (b"a", 2))),
    (b'{"inputs":{"a":1,}}', error("Missing a name for object member. at offset: 17")),
    (b'{"inputs":{"a"}}', error("Missing a colon after a name of object member. at offset: 14")),
    (b'{"inputs":{"a":}}', error("Invalid value. at offset: 15")),
    (b'{"inputs":{a:1}}', error("Missing a name for object member. at offset: 11")),
    (b"{\"inputs\":{'a':1}}", error("Missing a name for object member. at offset: 11")),
    (b'{"inputs":{"a" 1}}', error("Missing a colon after a name of object member. at offset: 15")),
    (b'{"inputs":{"a":1 "b":2}}', error("Missing a comma or '}' after an object member. at offset: 17")),
    (b'{"inputs":{"a":1}', error("Missing a comma or '}' after an object member. at offset: 17")),
    (b'{"inputs":{}', error("Missing a comma or '}' after an object member. at offset: 12")),
    (b'{"inputs":{1:2}}', error("Missing a name for object member. at offset: 11")),
    (b'{"inputs":{"\\u0061":1}}', members((b"a", 1))),
    (b'{"inputs":""}', b""),
    (b'{"inputs":"abc"}', b"abc"),
    (b'{"inputs":"caf\xe9"}', b"caf\xe9"),
    (b'{"inputs":"\xff\xfe"}', b"\xff\xfe"),
    (b'{"inputs":"\xc3\xa9"}', b"\xc3\xa9"),
    (b'{"inputs":"\xed\xa0\x80"}', b"\xed\xa0\x80"),
    (b'{"inputs":"\\u00e9"}', b"\xc3\xa9"),
    (b'{"inputs":"\\u00E9"}', b"\xc3\xa9"),
    (b'{"inputs":"\\ud83d\\ude00"}', b"\xf0\x9f\x98\x80"),
    (b'{"inputs":"\\udc00"}', b"\xed\xb0\x80"),
    (b'{"inputs":"\\udc80\xff"}', b"\xed\xb2\x80\xff"),
    (b'{"inputs":"\\ud83d"}', error("The surrogate pair in string is invalid. at offset: 11")),
    (b'{"inputs":"\\ud83dx"}', error("The surrogate pair in string is invalid. at offset: 11")),
    (b'{"inputs":"\\ud83d\\u0041"}', error("The surrogate pair in string is invalid. at offset: 11")),
    (b'{"inputs":"\\ud83d\\ud83d"}', error("The surrogate pair in string is invalid. at offset: 11")),
    (b'{"inputs":"\\u0000"}', b"\x00"),
    (b'{"inputs":"\\u12"}', error("Incorrect hex digit after \\u escape in string. at offset: 11")),
    (b'{"inputs":"\\uzzzz"}', error("Incorrect hex digit after \\u escape in string. at offset: 11")),
    (b'{"inputs":"\\\\\\/\\"\\b\\f\\n\\r\\t"}', b'\\/"\x08\x0c\n\r\t'),
    (b'{"inputs":"\\q"}', error("Invalid escape character in string. at offset: 11")),
    (b'{"inputs":"\\x41"}', error("Invalid escape character in string. at offset: 11")),
    (b'{"inputs":"\\}', error("Invalid escape character in string. at offset: 11")),
    (b'{"inputs":"abc}', error("Missing a closing quotation mark in string. at offset: 15")),
    (b'{"inputs":"a\nb"}', error("Invalid escape character in string. at offset: 12")),
    (b'{"inputs":"a\tb"}', error("Invalid escape character in string. at offset: 12")),
    (b'{"inputs":"a\x00b"}', error("Missing a closing quotation mark in string. at offset: 12")),
    (b'{"inputs":"\x7f"}', b"\x7f"),
    (b"{\"inputs\":'a'}", error("Invalid value. at offset: 10")),
    (b'{"inputs":/*x*/1}', error("Invalid value. at offset: 10")),
    (b'{"inputs":1/*x*/}', error("Missing a comma or '}' after an object member. at offset: 11")),
    (b'{"inputs"://x\n1}', error("Invalid value. at offset: 10")),
    (b'{"inputs":\x00}', error("Invalid value. at offset: 10")),
    (b'{"inputs":1\x00}', error("Missing a comma or '}' after an object member. at offset: 11")),
    (b'{"inputs":}', error("Invalid value. at offset: 10")),
    (b"", error("The document is empty")),
    (b" ", error("The document is empty. at offset: 1")),
    (b" \n\t", error("The document is empty. at offset: 3")),
    (b"\x00", error("The document is empty. at offset: 0")),
    (b"{}", ABSENT),
    (b"{} trailing", ABSENT),
    (b"{}}", ABSENT),
    (b"{}{}", ABSENT),
    (b"\xef\xbb\xbf{}", ABSENT),
    (b"\xef{}", ABSENT),
    (b"\xbb\xbf {}", ABSENT),
    (b"\xff\xfe{\x00}\x00", error("Invalid value. at offset: 0")),
    (b"[]", NOT_OBJECT),
    (b"[1]", NOT_OBJECT),
    (b"5", NOT_OBJECT),
    (b'"x"', NOT_OBJECT),
    (b"null", NOT_OBJECT),
    (b"true", NOT_OBJECT),
    (b"NaN", NOT_OBJECT),
    (b"5 5", NOT_OBJECT),
    (b"]", error("The document is empty. at offset: 0")),
    (b"}", error("The document is empty. at offset: 0")),
    (b",", error("The document is empty. at offset: 0")),
    (b":", error("The document is empty. at offset: 0")),
    (b"x", error("Invalid value. at offset: 0")),
    (b'{"inputs":1', error("Missing a comma or '}' after an object member. at offset: 11")),
    (b'{"inputs":1,', error("Missing a name for object member. at offset: 12")),
    (b'{"inputs":1,}', error("Missing a name for object member. at offset: 12")),
    (b'{"inputs":1}x', 1),
    (b'{"other":[1..2],"inputs":1}', error("Miss fraction part in number. at offset: 12")),
    (b'{"other":[[[[', error("Invalid value. at offset: 13")),
    (b'{"inputs":1,"other":{"a":[1,{"b":"\\q"}]}}', error("Invalid escape character in string. at offset: 34")),
    (b'{"inputs":1,"other":1e999}', error("Number too big to be stored in double. at offset: 20")),
    (b"\x0b{}", error("Invalid value. at offset: 0")),
    (b"{\x0c}", error("Missing a name for object member. at offset: 1")),
    (b'{"inputs"\x00:1}', error("Missing a colon after a name of object member. at offset: 9")),
)


def plain(node: Any) -> Any:
    """Return a node as Python values."""
    if isinstance(node, JsonObject):
        return members(*((name, plain(value)) for name, value in node.members))
    if isinstance(node, list):
        return [plain(value) for value in node]
    if isinstance(node, Numbers):
        found: list[Any] = list(node)
        for size in reversed(node.shape[1:]):
            found = [found[start : start + size] for start in range(0, len(found), size)]
        return found
    assert not isinstance(node, Base64)
    return node


def same(found: Any, expected: Any) -> bool:
    """Return whether two values are equal, with doubles compared in their first digits."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, float):
        close = math.isclose(found, expected, rel_tol=1e-8) or (math.isnan(found) and math.isnan(expected))
        return close and math.copysign(1, found) == math.copysign(1, expected)
    if isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize("piece", [64 * 1024, 1])
@pytest.mark.parametrize(("document", "expected"), CASES)
def test_a_document_is_read_as_rapidjson_reads_it(
    document: bytes, expected: Any, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_numbers, "_PIECE", piece)
    for body in (document, bytearray(document)):
        if isinstance(expected, error):
            with raises(RequestCode.JSON_SYNTAX) as caught:
                read(body)
            assert caught.value.message == f"JSON Parse error: {expected}"
        elif expected is NOT_OBJECT:
            with pytest.raises(JsonFormError, match=r"^JSON Value: <hidden> Is not object$"):
                read(body)
        else:
            found = read(body)
            assert (b"inputs" in found) == (expected is not ABSENT)
            if expected is not ABSENT:
                assert same(plain(found[b"inputs"]), expected), plain(found[b"inputs"])


ROWS: Final = (
    (b'{"a":1,"b":"x"}', members((b"a", 1), (b"b", b"x"))),
    (b'{ "a" : [1, 2.5] , "a" : null }', members((b"a", [1, 2.5]), (b"a", None))),
    (b'{"caf\xe9":"\xff"}', members((b"caf\xe9", b"\xff"))),
    (b'{"a":1e400}', error("Number too big to be stored in double.")),
    (b'{"a":123e307}', members((b"a", INF))),
    (b'{"a":18446744073709551616}', members((b"a", 2.0**64))),
    (b'{"a":-NaN,"b":Inf}', members((b"a", NAN), (b"b", INF))),
    (b'{"a":"\\u0041"}', members((b"a", b"A"))),
    (b'{"a":{"b":1}}', members((b"a", members((b"b", 1))))),
    (b'["a",true,{}]', [b"a", True, members()]),
    (b'["a]",[1,"}"]]', [b"a]", [1, b"}"]]),
    (b'{"a":1,}', error("Missing a name for object member.")),
    (b'{"a":01}', error("Missing a comma or '}' after an object member.")),
    (b'["\t"]', error("Invalid escape character in string.")),
)


@pytest.mark.parametrize(("row", "expected"), ROWS)
@pytest.mark.parametrize("before", [0, 1, 3000])
@pytest.mark.parametrize("after", [0, 1])
def test_a_row_means_the_same_alone_and_among_many(row: bytes, expected: Any, before: int, after: int) -> None:
    """Short rows are read many at a time."""
    good = b'{"x":[0.5,1],"y":"z"}'
    document = b'{"inputs":[' + b", ".join([good] * before + [row] + [good] * after) + b"]}"
    if isinstance(expected, error):
        with raises(RequestCode.JSON_SYNTAX) as caught:
            read(document)
        assert caught.value.message.startswith(f"JSON Parse error: {expected} at offset: ")
        place = int(caught.value.message.rpartition(" ")[2]) - document.index(row)
        assert 0 <= place < len(row)
    else:
        rows = plain(read(document)[b"inputs"])
        assert same(rows[before], expected)
        assert len(rows) == before + 1 + after
        assert rows[:before] == [members((b"x", [0.5, 1]), (b"y", b"z"))] * before


@pytest.mark.parametrize(
    ("depth", "opening", "closing"), [(500_000, b"[", b"]"), (20_000, b'{"a":', b"}"), (20_000, b'[{"":[', b"]}]")]
)
def test_nothing_is_nested_too_deeply(depth: int, opening: bytes, closing: bytes) -> None:
    nested = opening * depth + (b"1" if opening.endswith(b":") else b"") + closing * depth
    assert list(read(b'{"inputs":1,"other":' + nested + b"}").members) == [(b"inputs", 1)]
    with raises(RequestCode.JSON_SYNTAX, match=r"Missing a comma or '}' after an object member."):
        read(b'{"inputs":1,"other":' + nested + b"]}")
    read(b'{"inputs":' + nested + b"}")


def test_the_first_of_repeated_members_counts_and_each_is_checked() -> None:
    assert read(b'{"inputs":1,"inputs":2}')[b"inputs"] == 1
    assert plain(read(b'{"inputs":{"a":1,"a":2}}')[b"inputs"]) == members((b"a", 1), (b"a", 2))
    with raises(RequestCode.JSON_SYNTAX, match=r"Invalid value. at offset: 22"):
        read(b'{"inputs":1,"inputs":[}')


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b"", b""),
        (b"aGVsbG8=", b"hello"),
        (b"aGVsbG8", b"hello"),
        (b"aGVsbG8.", b"hello"),
        (b"aA==", b"h"),
        (b"aA=.", b"h"),
        (b"aA", b"h"),
        (b"aB==", b"h"),  # bits that are left over do not count
        (b" aG Vs\\nbG8\\t= ", b"hello"),
        (b"aGVs\\u000bbG8=", b"hello"),
        (b"a=GVsbG8", None),
        (b"aA=", None),
        (b"aGVsbG8==", None),
        (b"aGVs=", None),
        (b"a", None),
        (b"=", None),
        (b"aGVsbG8!", None),
        (b"-_-_", None),  # the URL-safe alphabet is different
        (b"aGVs\\u00a0bG8=", None),
        (b"\xff", None),
    ],
)
def test_base64_is_what_abseil_takes_for_it(text: bytes, content: bytes | None) -> None:
    assert read(b'{"inputs":{"b64":"' + text + b'"}}')[b"inputs"] == Base64(content)


@pytest.mark.parametrize(
    "value", [b'{"b64":1}', b'{"b64":"AA==","b64":"AA=="}', b'{"b64":"AA==","x":1}', b'{"B64":"AA=="}']
)
def test_other_objects_do_not_stand_for_bytes(value: bytes) -> None:
    assert isinstance(read(b'{"inputs":' + value + b"}")[b"inputs"], JsonObject)


@pytest.mark.parametrize("inner", [b"1", b"", b'"text"', b"[1],[1]", b"[1],[1,2]"])
def test_the_time_of_nested_lists_grows_with_their_text_alone(inner: bytes) -> None:
    """With a time that grows with the square of the depth, each of these texts took five minutes."""
    depth = 300_000
    (member,) = read(b'{"inputs":' + b"[" * depth + inner + b"]" * depth + b"}").members
    assert len(shape_of(member[1])) >= depth
