import contextlib
import json
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.harness.administration import EXPIRED, RemoteSite, register, remote_site
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.broker.administration.log_reader import selected_rows
from sealserve.broker.administration.server import AdministrationServer, Limits
from sealserve.broker.audit_selection import LogPage, Selection
from sealserve.broker.codes import BrokerCode
from sealserve.broker.policy_trials import Trial
from sealserve.owner import administrators
from sealserve.owner.administration import LocalAdministration
from sealserve.owner.administration_server import administration_server
from sealserve.owner.certificates import broker_certificate
from sealserve.owner.codes import OwnerCode
from sealserve.pki.administrators import AdministratorAuthority
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.terms import AdministratorRole

VIEWER, OPERATOR = AdministratorRole.VIEWER, AdministratorRole.OPERATOR
SECONDS = 20
HOST = b"Host: x\r\n"
JSON = {"Content-Type": "application/json"}
Answer = tuple[int, dict[str, Any], bytes]


@contextlib.contextmanager
def connected(remote: RemoteSite, identity: CertifiedKey | None, **settings: Any) -> Iterator[ssl.SSLSocket]:
    """Connect as a general TLS client. In TLS 1.3, the client learns of a rejection when it reads."""
    context = remote.context(identity)
    for name, value in settings.items():
        setattr(context, name, value)
    name = remote.site.deployment.broker.name
    with (
        socket.create_connection(remote.server.address, timeout=SECONDS) as stream,
        context.wrap_socket(stream, server_hostname=name) as tls,
    ):
        yield tls


def said(remote: RemoteSite, request: bytes, *, role: AdministratorRole = OPERATOR) -> Answer:
    """Send bytes, and return the status and the document of the answer, and what follows the answer."""
    with connected(remote, remote.credentials(role).identity) as tls:
        tls.sendall(request)
        return answered(tls)


def answered(tls: ssl.SSLSocket) -> Answer:
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := tls.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    length = int(headers["content-length"])
    assert headers["connection"] == "close"
    assert headers["server"] == "sealserve"
    assert headers["cache-control"] == "no-store"
    return int(lines[0].split(" ")[1]), json.loads(body[:length]), body[length:]


def rejected(remote: RemoteSite, identity: CertifiedKey | None, **settings: Any) -> str:
    """Return the reason of TLS. No request must be answered."""
    try:
        with connected(remote, identity, **settings) as tls:
            tls.sendall(b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n")
            assert tls.recv(1) == b""
    except (ssl.SSLError, ConnectionError) as error:
        return str(error).upper()
    return "CLOSED"


def test_only_certificates_of_the_administrators_authority_are_accepted(shared: RemoteSite) -> None:
    now = shared.site.now
    names = ("client.tf-serving.service.com",)
    users = Authority.load(shared.site.workspace.owner.authorities / AuthorityKind.USERS)
    other = AdministratorAuthority.create(simulated=True, now=now)
    assert said(shared, b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n")[0] == 200
    assert "CERTIFICATE_REQUIRED" in rejected(shared, None)
    for identity in (
        users.issue_client(names[0], now=now),  # a user of the service
        broker_certificate(shared.site.workspace),  # the broker itself
        other.issue("a-operator", OPERATOR, now=now, days=1),  # another authority with the same names
        AdministratorFile.read(shared.site.directory / EXPIRED).identity,
    ):
        assert "ALERT" in rejected(shared, identity)


def test_tls_1_2_is_refused_and_no_session_is_resumed(shared: RemoteSite) -> None:
    identity = shared.credentials(VIEWER).identity
    assert "VERSION" in rejected(shared, identity, maximum_version=ssl.TLSVersion.TLSv1_2)
    with connected(shared, identity) as tls:
        tls.sendall(b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n")
        assert answered(tls)[0] == 200
        assert tls.session is None or not tls.session.has_ticket
        assert tls.selected_alpn_protocol() in {None, "http/1.1"}


def test_a_revoked_administrator_is_refused_on_the_next_request_of_an_open_connection(
    remote: RemoteSite, caplog: pytest.LogCaptureFixture
) -> None:
    identity = remote.credentials(OPERATOR).identity
    with connected(remote, identity) as tls:
        administrators.revoke(remote.site.workspace, "a-operator", now=remote.site.now)
        tls.sendall(b"POST /v1/releases/resnet50/revoke HTTP/1.1\r\n" + HOST + b"\r\n")
        status, problem, _ = answered(tls)
    assert (status, problem["code"]) == (403, "administrator.revoked")
    assert "refused the certificate of 127.0.0.1:" in caplog.text
    assert [row.entry.decision for row in remote.rows()] == ["issuing-rotated", "allowed"]


def test_the_api_is_closed_while_the_revocation_list_is_missing(remote: RemoteSite) -> None:
    path = remote.site.workspace.owner.administrators / "revoked.pem"
    path.rename(path.with_suffix(".away"))
    assert rejected(remote, remote.credentials(OPERATOR).identity)
    path.with_suffix(".away").rename(path)
    assert said(remote, b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n")[0] == 200


def test_each_change_is_an_audit_row_with_the_administrators_name(remote: RemoteSite) -> None:
    with remote.client(OPERATOR) as client:
        client.drain("resnet50", minutes=5)
        client.enrol_platform("0" * 32, None, label="rack 3")
        client.enrol_platform("0" * 32, None, label="rack 4")
        client.withdraw_platform("0" * 32, None)
        client.revoke("aaaaaa")
    issuing, first, *changes = [row.entry for row in remote.rows()]
    assert (issuing.actor, issuing.peer, issuing.decision) == (None, "owner", "issuing-rotated")
    assert (first.actor, first.peer, first.detail) == (None, "owner", "replica-0")
    assert {(entry.actor, entry.peer.rpartition(":")[0]) for entry in changes} == {("a-operator", "127.0.0.1")}
    assert [entry.decision for entry in changes] == ["draining", "enrolled", "enrolled", "withdrawn", "revoked"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (b"/v1/releases/../status", 404, "administration.path"),
        (b"/v1/releases/..", 404, "administration.path"),
        (b"/v1/releases/%2e%2e", 404, "administration.path"),
        (b"/v1/releases/..%2f..%2fetc%2fpasswd", 404, "administration.path"),
        (b"/v1/releases/resnet50%00", 404, "administration.path"),
        (b"/v1/releases/%72esnet50", 404, "administration.path"),
        (b"//v1/status", 404, "administration.path"),
        (b"/v1/status/", 404, "administration.path"),
        (b"/V1/status", 404, "administration.path"),
        (b"/v1/status%20", 404, "administration.path"),
        (b"https://x/v1/status", 404, "administration.path"),
        (b"*", 400, "administration.request"),
        (b"/v1/releases/" + b"a" * 129, 404, "administration.path"),
        (b"/v1/releases/nowhere", 404, "broker.release-unknown"),
        (b"/v1/status?x=1", 400, "administration.request"),
        (b"/v1/log?last=0", 400, "administration.request"),
        (b"/v1/log?last=1001", 400, "administration.request"),
        (b"/v1/log?last=1&last=2", 400, "administration.request"),
        (b"/v1/log?last=1;limit=2", 400, "administration.request"),
        (b"/v1/log?limit=-1", 400, "administration.request"),
        (b"/v1/log?after=99999999999999999999", 400, "administration.request"),
        (b"/v1/log?other=1", 400, "administration.request"),
        (b"/v1/log?last=%ff", 400, "administration.request"),
        (b"/v1/log?" + b"&".join(b"a%d=1" % number for number in range(99)), 400, "administration.request"),
        (b"/" + b"a" * 5000, 400, "administration.request"),
    ],
)  # fmt: skip
def test_a_path_or_query_outside_of_the_description_is_refused(
    shared: RemoteSite, path: bytes, status: int, code: str
) -> None:
    found, problem, rest = said(shared, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (found, problem["code"], problem["status"], rest) == (status, code, status, b"")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"platform_id": "x"}', "administration.request"),
        (b'{"platform_id": "%s", "platform_id": "%s"}' % (b"0" * 32, b"1" * 32), "administration.request"),
        (b'{"platform_id": "%s", "actor": "owner"}' % (b"0" * 32), "administration.request"),
        (b'{"platform_id": "%s", "label": 1}' % (b"0" * 32), "administration.request"),
        (b'{"platform_id": "%s", "label": "%s"}' % (b"0" * 32, b"a" * 65), "administration.request"),
        (b'{"platform_id": "%s", "platform": "tdx"}' % (b"0" * 32), "administration.request"),
        (b"[]", "administration.request"),
        (b"null", "administration.request"),
        (b"NaN", "administration.request"),
        (b"{", "administration.request"),
        (b"\xff\xfe", "administration.request"),
        (b"[" * 16000, "administration.request"),
        (b"", "administration.request"),
        (b"9" * 5000, "administration.request"),
        (b" " * (16 * 1024 + 1), "administration.size"),
    ],
)
def test_a_body_outside_of_the_description_is_refused(shared: RemoteSite, content: bytes, code: str) -> None:
    before = len(shared.rows())
    head = b"POST /v1/platforms/enrol HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(content)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + (b"%x\r\n%s\r\n" % (len(content), content) if content else b"")
    for request in (head + length + content, head + chunked + b"0\r\n\r\n"):
        status, problem, _ = said(shared, request)
        assert (problem["code"], status) == (code, 413 if code.endswith("size") else 400)
        assert "platform_id" not in problem["detail"] or "the body, platform_id" in problem["detail"]
    assert len(shared.rows()) == before


@pytest.mark.parametrize("header", [b"Origin: https://other.example", b"Origin: null", b"Sec-Fetch-Site: cross-site"])
def test_another_site_cannot_use_an_administrators_browser(shared: RemoteSite, header: bytes) -> None:
    before = len(shared.rows())
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n"
    request = b"POST /v1/releases/resnet50/revoke HTTP/1.1\r\n" + HOST + form + header + b"\r\n\r\n"
    status, problem, _ = said(shared, request)
    assert (status, problem["code"]) == (400, "administration.request")
    assert len(shared.rows()) == before


@pytest.mark.parametrize("label", ["a\n", "\0", "\x1b[2J", "\x9b", "\u202egnp", "\ufeff", "\ud800"])
def test_a_label_cannot_change_a_terminal(shared: RemoteSite, label: str) -> None:
    with shared.http(OPERATOR) as http:
        content = json.dumps({"platform_id": "0" * 32, "label": label})
        answer = http.post("/v1/platforms/enrol", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "administration.request")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 2\r\n\r\n{}",
        b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Type: application/json\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Content-Type: application/json\r\nContent-Length: -1\r\n\r\n",
        b"Content-Type: application/json\r\nContent-Length: 0x2\r\n\r\n{}",
        b"X: " + b"a" * 9000 + b"\r\n\r\n",
        b"X : a\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_ambiguous_headers_are_refused(shared: RemoteSite, headers: bytes) -> None:
    before = len(shared.rows())
    status, problem, _ = said(shared, b"POST /v1/releases/resnet50/drain HTTP/1.1\r\n" + HOST + headers)
    assert (status, problem["code"]) == (400, "administration.request")
    assert len(shared.rows()) == before


def test_bytes_that_are_not_http_are_answered_without_quoting_them(shared: RemoteSite) -> None:
    for request in (b"secret\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"GET /v1/status HTTP/9.9\r\n\r\n"):
        status, problem, _ = said(shared, request)
        assert status == 400
        assert "secret" not in json.dumps(problem)


def test_an_integer_may_have_the_form_that_json_schema_permits(remote: RemoteSite) -> None:
    with remote.http(OPERATOR) as http:
        for minutes, status in ((5.0, 200), (5.5, 400), ("5", 400), (True, 400), (1e300, 400), (None, 400), (0, 400)):
            answer = http.post("/v1/releases/resnet50/drain", json={"minutes": minutes})
            assert answer.status_code == status, (minutes, answer.text)


def test_a_second_request_on_a_connection_is_never_answered(remote: RemoteSite) -> None:
    """One request per connection: nothing can be smuggled behind the first request."""
    request = b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n"
    change = b"POST /v1/releases/resnet50/revoke HTTP/1.1\r\n" + HOST + b"\r\n"
    status, document, rest = said(remote, request + change)
    assert (status, rest) == (200, b"")
    assert document["releases"] == {"active": 1}
    assert [row.entry.decision for row in remote.rows()] == ["issuing-rotated", "allowed"]


def test_other_methods_are_refused(shared: RemoteSite) -> None:
    for method in (b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"):
        status, problem, _ = said(shared, method + b" /v1/releases HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (status, problem["code"]) == (405, "administration.method")
    with shared.http(VIEWER) as http:
        assert http.delete("/v1/releases").headers["Allow"] == "GET, POST"


def test_a_slow_header_ends_the_connection_and_a_slow_body_is_answered(shared: RemoteSite) -> None:
    identity = shared.credentials(OPERATOR).identity
    with connected(shared, identity) as tls:
        tls.sendall(b"GET /v1/sta")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert tls.recv(1) == b""
    head = b"POST /v1/releases/resnet50/drain HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    status, problem, _ = said(shared, head + b"Content-Length: 20\r\n\r\n{")
    assert (status, problem["code"], problem["family"]) == (408, "administration.slow", "unavailable")


def test_silent_connections_do_not_keep_administrators_out(shared: RemoteSite) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(30):
            opened.enter_context(socket.create_connection(shared.server.address, timeout=SECONDS))
        assert said(shared, b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n")[0] == 200


def test_the_rate_of_an_administrator_is_limited(tmp_path: Path) -> None:
    with remote_site(make_site(tmp_path / "site"), burst=2, rate=0.001) as remote:
        request = b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n"
        answers = [said(remote, request) for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        assert answers[2][1]["code"] == "administration.busy"
        assert said(remote, request, role=VIEWER)[0] == 200  # the others are not limited by it


def test_a_locked_database_is_an_error_that_names_it(remote: RemoteSite, monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    locker = sqlite3.connect(remote.site.workspace.owner.database, isolation_level=None)
    with remote.database.write() as connection:  # requests wait 0.1 s instead of 15 s
        connection.exec_driver_sql("PRAGMA busy_timeout = 100")
    try:
        locker.execute("BEGIN EXCLUSIVE")
        status, problem, _ = said(remote, b"POST /v1/releases/resnet50/revoke HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (status, problem["code"], problem["family"]) == (503, "broker.database", "unavailable")
    finally:
        locker.close()
    assert said(remote, b"POST /v1/releases/resnet50/revoke HTTP/1.1\r\n" + HOST + b"\r\n")[0] == 200


def test_an_unexpected_error_is_not_described_to_the_client(
    remote: RemoteSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a detail")

    monkeypatch.setattr("sealserve.broker.admin.status", fail)
    status, problem, _ = said(remote, b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (status, problem["code"], problem["family"]) == (500, "internal", "internal")
    assert "a detail" not in json.dumps(problem)
    assert "a detail" in caplog.text


def test_a_taken_port_and_a_missing_authority_are_errors_of_the_start(site: Site) -> None:
    site.certify()
    with raises(OwnerCode.ADMINISTRATOR_AUTHORITY, match="broker admin issue"):
        administration_server(site.workspace, site.deployment, None, identity=None)  # type: ignore[arg-type]  # not reached
    administrators.issue(
        site.workspace, site.deployment, "alice", VIEWER, site.directory / "alice.json", now=site.now, days=1
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {"identity": lambda: broker_certificate(site.workspace), "listen": "127.0.0.1"}
        with raises(BrokerCode.ADMINISTRATION_PORT, match="broker.admin_port"):
            AdministrationServer(
                lambda _: None,  # type: ignore[arg-type, return-value]  # not reached
                trust=site.workspace.owner.administrators, port=taken.getsockname()[1], **settings,  # type: ignore[arg-type]
            )  # fmt: skip


def test_the_server_stops_while_clients_are_connected(tmp_path: Path) -> None:
    before = threading.enumerate()
    with contextlib.ExitStack() as opened:
        with remote_site(make_site(tmp_path / "site")) as remote:
            assert threading.enumerate() != before
            for _ in range(3):
                opened.enter_context(connected(remote, remote.credentials(VIEWER).identity))
            opened.enter_context(socket.create_connection(remote.server.address))
        assert threading.enumerate() == before


def test_pages_of_the_log(remote: RemoteSite) -> None:
    for digit in "bcdef":
        register(remote.database, remote.site, digit=digit, name=f"model-{digit}")
    with remote.client(VIEWER) as client:
        everything = Selection()
        assert list(selected_rows(client, everything)[0]) == remote.rows()
        assert [row.seq for row in selected_rows(client, Selection(last=2))[0]] == [6, 7]
        page = client.log_page(everything, after=2, limit=2)
        assert ([row.seq for row in page.rows], page.next, page.end) == ([3, 4], 4, 7)
        assert client.log_page(everything, after=7, limit=2) == LogPage(rows=[], next=7, end=7)


def test_limits_have_sensible_defaults() -> None:
    limits = Limits()
    assert limits.body <= 64 * 1024
    assert limits.receive <= 30


def test_a_slow_operation_does_not_delay_a_revocation(remote: RemoteSite, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, finish = threading.Event(), threading.Event()

    def slowly(*_: object, **__: object) -> list[Trial]:
        entered.set()
        assert finish.wait(SECONDS)
        return []

    monkeypatch.setattr(LocalAdministration, "try_policy", slowly)
    with ThreadPoolExecutor(1) as pool, remote.client(VIEWER) as first, remote.client(OPERATOR) as second:
        trial = pool.submit(lambda: first.try_policy(None, since=None, early=False))
        assert entered.wait(SECONDS)
        for call in (lambda: second.try_policy(None, since=None, early=False), second.test_notification):
            with raises(BrokerCode.ADMINISTRATION_BUSY, match="is already running a long operation"):
                call()
        assert second.revoke("resnet50").release.state == "revoked"
        finish.set()
        assert trial.result(SECONDS) == []
        assert second.try_policy(None, since=None, early=False) == []


@pytest.mark.parametrize(
    "file",
    ["[" * 30000, "a." * 16000, "a = " + "[" * 30000, "a = '" + "x" * 30000, "\0", "\ud800", "= 1", "version = 2"],
    ids=range(8),
)
def test_a_hostile_policy_file_is_an_error_of_the_file(shared: RemoteSite, file: str) -> None:
    with shared.http(VIEWER) as http:
        answer = http.post("/v1/policy/try", content=json.dumps({"file": file}), headers=JSON)
    assert (answer.status_code, answer.json()["code"] in {"policy.file", "administration.request"}) == (400, True)


@pytest.mark.parametrize(
    "query",
    [
        "since=0", "since=1764000000", "since=2026-01-31", "since=2026-13-31T12:00:00Z", "since=2026-01-31T12:00:00",
        "since=2026-01-31T12:00:00+00:00", "since=", "code=", "code=a,,b", "code=A", "code=" + ",".join(["ok"] * 21),
        "release=..", "release=..%2f..", "release=%2e%2e", "release=" + "a" * 129, "platform=", "platform=%0a",
        "platform=" + "x" * 65, "after=-1", "limit=1001", "last=0", "code=ok&code=ok", "nope=1", "platform=%ff",
    ],
)  # fmt: skip
def test_an_invalid_condition_is_refused(shared: RemoteSite, query: str) -> None:
    with shared.http(VIEWER) as http:
        answer = http.get(f"/v1/log?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "administration.request"), answer.text


@pytest.mark.parametrize(
    "since",
    ["0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "2026-01-31t12:00:60z", "2026-01-31T12:00:00.123456789Z"],
)
def test_each_time_of_the_format_is_a_condition(shared: RemoteSite, since: str) -> None:
    with shared.http(VIEWER) as http:
        assert len(http.get("/v1/log", params={"since": since}).json()["rows"]) >= 1
        assert http.get("/v1/log", params={"since": "9999-12-31T23:59:59-23:59"}).json()["rows"] == []


def test_the_limit_of_a_policy_file_is_larger_than_the_limit_of_other_bodies(shared: RemoteSite) -> None:
    comment = "#" * 30000
    policy = f"version = 2\nname = 'x'\n[tcb.accept]\nUpToDate = []\n{comment}"
    with shared.http(OPERATOR) as http:
        tried = http.post("/v1/policy/try", json={"file": policy})
        other = http.post("/v1/platforms/enrol", json={"platform_id": "0" * 32, "label": comment})
        larger = http.post("/v1/policy/try", json={"file": "#" * 300000})
    assert tried.status_code == 200, tried.text
    assert (other.json()["code"], larger.json()["code"]) == ("administration.size", "administration.size")
