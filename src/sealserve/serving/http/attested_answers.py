"""Evidence and receipts over HTTP: from a request to an answer with its headers."""

import math
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sealserve.serving.evidence import Evidence
from sealserve.serving.http.api import HTTP_STATUS, Answer, error_body
from sealserve.serving.receipts import Receipts
from sealserve.serving.request_errors import RequestCode, RequestError
from sealserve.serving_interface import RECEIPT_HEADER

RECEIPT_FIELD: Final = RECEIPT_HEADER.title()
"""The name of the header. HTTP ignores the case of names."""


def admit(evidence: Evidence, request: web.BaseRequest) -> Answer | None:
    """Count a request for evidence. Return the answer that rejects it, or None."""
    if request.method != "GET":
        text = f"Malformed request: {request.method}. The evidence supports only GET."
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, error_body(text), closes=True, headers={"Allow": "GET"})
    try:
        evidence.admit(_peer(request))
    except RequestError as error:
        return refused(error)
    return None


def present(evidence: Evidence, query: str) -> Answer:
    """Return the answer to a request for evidence with this query."""
    try:
        return Answer(HTTPStatus.OK, evidence.answer_query(query), headers={"Cache-Control": "no-store"})
    except RequestError as error:
        return refused(error)


def with_receipt(
    receipts: Receipts, request: web.BaseRequest, body: bytes | bytearray, ask: Callable[[], Answer]
) -> Answer:
    """Return the answer with a receipt in its headers. An error has no receipt.

    Args:
        receipts: The server's receipts.
        request: A request with the header `RECEIPT_FIELD`.
        body: The body of the request. ``ask`` may empty it.
        ask: Computes the answer.
    """
    try:
        if not receipts.wanted((RECEIPT_HEADER, value) for value in request.headers.getall(RECEIPT_FIELD)):
            return ask()
        if request.method != "POST":
            raise RequestCode.RECEIPT_UNAVAILABLE.error("Only POST requests have receipts.")
        if "Content-Encoding" in request.headers:
            raise RequestCode.RECEIPT_FORM.error(
                f"A request with {RECEIPT_FIELD} must not have a Content-Encoding, because the receipt covers the body."
            )
        request_sha256 = receipts.begin(body)
        answer = ask()
        if answer.status != HTTPStatus.OK:
            return answer
        return replace(answer, headers={**answer.headers, RECEIPT_FIELD: receipts.sign(request_sha256, answer.body)})
    except RequestError as error:
        return refused(error)


def refused(error: RequestError) -> Answer:
    """Return the answer for an error."""
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    return Answer(HTTP_STATUS[error.status], error_body(error.message), headers=headers)


def _peer(request: web.BaseRequest) -> bytes:
    """Return an identifier of the connection. Behind a load balancer, connections differ only in their ports."""
    address = request.transport.get_extra_info("peername") if request.transport is not None else None
    return repr(address).encode()
