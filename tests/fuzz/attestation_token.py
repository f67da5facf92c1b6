"""Attestation results, their claims, key sets and requests: each is accepted, or rejected with one printable error.

The claims are also signed with the genuine key, so that the fuzzer reaches the checks behind the signature.
"""

import json
from collections.abc import Callable, Iterator

from tests.harness.attestation_results import KEY, KEYS, header, make_result, raw_token, verify

from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.attestation.result_request import ResultRequest, ResultServer
from sealserve.attestation.result_token import sign_result
from sealserve.errors import SealserveError

_TOKEN = sign_result(make_result(), KEY)


def seeds() -> Iterator[bytes]:
    """Yield a token, its claims, a key set and a request."""
    yield _TOKEN.encode()
    yield json.dumps(make_result().to_claims()).encode()
    yield json.dumps(make_result(simulated=True).to_claims()).encode()
    yield KEYS.to_bytes()
    yield ResultRequest(audience="a", nonce=bytes(8)).to_bytes()


def fuzz(data: bytes) -> None:
    """Use ``data`` as a token, as signed claims, as a signed header, as a key set, and as a request."""
    text = data.decode("latin-1")
    accepted = _printable(lambda: verify(text))
    assert not accepted or text == _TOKEN, "a changed token verifies"
    _printable(lambda: verify(raw_token(header(), data)))
    _printable(lambda: verify(raw_token(data, b"{}")))
    _printable(lambda: JsonWebKeySet.parse(data))
    _printable(lambda: _request(data))


def _request(data: bytes) -> None:
    server = ResultServer()
    if server.receive(data):
        server.request()
    else:
        server.end()


def _printable(step: Callable[[], object]) -> bool:
    try:
        step()
    except SealserveError as error:
        message = error.message
    else:
        return True
    assert message.isprintable()
    return False
