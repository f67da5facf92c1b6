"""Receipts on request: which requests ask for one, which version it names, and that others cost nothing."""

import json
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness.attested_identity import AttestedService
from tests.harness.errors import raises
from tests.harness.served import LONG, served

from sealserve.attested.receipt import verify_receipt
from sealserve.model_digest import model_digest
from sealserve.serving.file_list import FileList
from sealserve.serving.receipts import Receipts
from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.protos import ModelSpec
from sealserve.serving.servables import Servable, Servables
from sealserve.serving.wire.lanes import Lane
from sealserve.serving.wire.rpc import Route, handlers
from sealserve.serving_interface import RECEIPT_HEADER

PATH = "/s/Method"
DIGESTS = {1: "11" * 32, 2: "22" * 32}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> AttestedService:
    return AttestedService(tmp_path_factory.mktemp("service"))


def make_servable(version: int, digest: str | None, name: str = "m") -> Servable:
    session: Any = None
    return Servable(name=name, version=version, session=session, definitions={}, signatures={}, digest=digest)


@pytest.fixture
def servables() -> Servables:
    table = Servables()
    for version, digest in DIGESTS.items():
        table.publish(make_servable(version, digest))
    return table


def route(servables: Servables, receipts: Receipts | None) -> Route:
    """Return a method whose request is the number of the version; a request of 0 does not use a version."""

    def method(content: bytes, _deadline: float | None) -> bytes:
        if content == b"0":
            return b"none"
        spec = ModelSpec(name="m")
        spec.version.value = int(content)
        with servables.use(spec) as servable:
            return b"version %d" % servable.version

    return Route(method=method, lane=Lane(running=1, waiting=8), receipts=receipts)


def call(there: Any, content: bytes, *metadata: tuple[str, str]) -> Any:
    return there.call(PATH).future(content, timeout=LONG, metadata=metadata)


WANTED = (RECEIPT_HEADER, "1")


@pytest.mark.usefixtures("transport")
def test_a_receipt_names_the_version_that_answered(servables: Servables, service: AttestedService) -> None:
    receipts = Receipts(service.identity, servables)
    with served(handlers({PATH: route(servables, receipts)})) as there:
        for version in (2, 1, 2):
            content = b"%d" % version
            answered = call(there, content, WANTED)
            claims = verify_receipt(
                dict(answered.trailing_metadata())[RECEIPT_HEADER],
                request=content,
                response=answered.result(),
                keyset=service.example.keyset,
                statement=None,
            )
            assert (claims.model, claims.model_version) == ("m", str(version))
            assert claims.model_sha256 == DIGESTS[version]
            assert RECEIPT_HEADER not in dict(call(there, content).trailing_metadata())


@pytest.mark.usefixtures("transport")
def test_an_error_or_an_answer_without_a_model_has_no_receipt(servables: Servables, service: AttestedService) -> None:
    receipts = Receipts(service.identity, servables)
    with served(handlers({PATH: route(servables, receipts)})) as there:
        assert call(there, b"1", WANTED).code() is grpc.StatusCode.OK
        for content, code in ((b"7", grpc.StatusCode.NOT_FOUND), (b"0", grpc.StatusCode.FAILED_PRECONDITION)):
            failed = call(there, content, WANTED)
            assert failed.code() is code
            assert RECEIPT_HEADER not in dict(failed.trailing_metadata())
        # The version of the earlier request is not carried over to the next one on the same thread.
        assert call(there, b"0").result() == b"none"


@pytest.mark.usefixtures("transport")
def test_a_version_without_a_digest_has_no_receipt(servables: Servables, service: AttestedService) -> None:
    servables.publish(make_servable(3, None))
    with served(handlers({PATH: route(servables, Receipts(service.identity, servables))})) as there:
        failed = call(there, b"3", WANTED)
        assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "does not come from a model of a sealed release" in failed.details()


@pytest.mark.usefixtures("transport")
def test_a_server_without_an_identity_refuses_before_it_computes(servables: Servables) -> None:
    calls = []
    plain = route(servables, Receipts(None, servables))

    def method(content: bytes, deadline: float | None) -> bytes:
        calls.append(content)
        return plain.method(content, deadline)

    counted = Route(method=method, lane=plain.lane, receipts=plain.receipts)
    with served(handlers({PATH: counted})) as there:
        failed = call(there, b"1", WANTED)
        assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert failed.details() == "The server is not attested, so it has no receipts."
        assert not calls
        assert call(there, b"1").result() == b"version 1"


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(
    "metadata",
    [
        [(RECEIPT_HEADER, "")],
        [(RECEIPT_HEADER, "true")],
        [(RECEIPT_HEADER, "1,1")],
        [(RECEIPT_HEADER, "1"), (RECEIPT_HEADER, "0")],
        [(RECEIPT_HEADER, "x" * 4000)],
    ],
)
def test_another_value_is_rejected(
    servables: Servables, service: AttestedService, metadata: list[tuple[str, str]]
) -> None:
    with served(handlers({PATH: route(servables, Receipts(service.identity, servables))})) as there:
        failed = call(there, b"1", *metadata)
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert failed.details() == "The value of sealserve-receipt is invalid: expected 1."
        assert call(there, b"1", WANTED, WANTED).code() is grpc.StatusCode.OK


@pytest.mark.usefixtures("transport")
def test_metadata_that_is_too_large_is_refused_by_grpc(servables: Servables, service: AttestedService) -> None:
    with served(handlers({PATH: route(servables, Receipts(service.identity, servables))})) as there:
        assert call(there, b"1", (RECEIPT_HEADER, "1" * 100_000)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        many = [(f"x-{number}", "y" * 1000) for number in range(100)]
        assert call(there, b"1", *many).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call(there, b"1", WANTED).code() is grpc.StatusCode.OK


def test_a_method_without_receipts_ignores_the_request(servables: Servables) -> None:
    with served(handlers({PATH: route(servables, None)})) as there:
        answered = call(there, b"1", WANTED)
        assert answered.result() == b"version 1"
        assert RECEIPT_HEADER not in dict(answered.trailing_metadata())


def test_codes(servables: Servables, service: AttestedService) -> None:
    with raises(RequestCode.RECEIPT_UNAVAILABLE, match="not attested"):
        Receipts(None, servables).wanted([WANTED])
    receipts = Receipts(service.identity, servables)
    with raises(RequestCode.RECEIPT_FORM, match="expected 1"):
        receipts.wanted([("a", "b"), (RECEIPT_HEADER, b"1")])
    assert not receipts.wanted([("x-other", "1"), ("sealserve-receipts", "1")])
    with raises(RequestCode.RECEIPT_UNAVAILABLE, match="no receipt for this response"):
        receipts.sign(receipts.begin(b"request"), b"response")
    servables.publish(make_servable(1, DIGESTS[1], 'a"b'))
    digest = receipts.begin(b"request")
    with servables.use(ModelSpec(name='a"b')):
        pass
    with raises(RequestCode.RECEIPT_UNAVAILABLE, match="cannot contain the name of the model"):
        receipts.sign(digest, b"response")


def test_requests_on_other_threads_do_not_change_the_version(servables: Servables, service: AttestedService) -> None:
    receipts = Receipts(service.identity, servables)
    digest = receipts.begin(b"1")
    with servables.use(ModelSpec(name="m")):
        pass

    def other() -> None:
        spec = ModelSpec(name="m")
        spec.version.value = 1
        with servables.use(spec):
            pass

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    receipt = receipts.sign(digest, b"response")
    claims = verify_receipt(receipt, request=b"1", response=b"response", keyset=service.example.keyset, statement=None)
    assert claims.model_version == "2"


def test_the_digest_of_a_model_is_the_statements(tmp_path: Path) -> None:
    def row(path: str, content: bytes) -> dict[str, Any]:
        return {"path": path, "size": len(content), "sha256": sha256(content).hexdigest()}

    rows = [row("m/1/b", b"2"), row("m/1/a/c", b""), row("m/10/b", b"3"), row("tls/clients.cfg", b"4")]
    files = FileList.parse(json.dumps({"version": 1, "files": rows}).encode(), folder=tmp_path)
    expected = model_digest({"b": (1, sha256(b"2").hexdigest()), "a/c": (0, sha256(b"").hexdigest())})
    assert files.model_digest(tmp_path / "m" / "1") == expected
    rows.append(row("m/2/new\nline", b""))
    files = FileList.parse(json.dumps({"version": 1, "files": rows}).encode(), folder=tmp_path)
    assert files.model_digest(tmp_path / "m" / "2") is None
