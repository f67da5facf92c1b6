import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness.administration import EXPIRED, RemoteSite
from tests.harness.errors import raises

from sealserve.broker import admin, approval_requests, audit
from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.broker.administration.client import RemoteAdministration
from sealserve.broker.administration.problem import ProblemReply
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.releases import ReleaseUnknownError
from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.memory_file import memory_file
from sealserve.owner import administrators
from sealserve.owner.certificates import broker_certificate
from sealserve.pki.codes import PkiCode
from sealserve.private_file import PrivateFileExposedError
from sealserve.sgx.reference_values import parse_reference
from sealserve.terms import AdministratorRole

VIEWER, OPERATOR = AdministratorRole.VIEWER, AdministratorRole.OPERATOR


def client(remote: RemoteSite, url: str, role: AdministratorRole = VIEWER) -> RemoteAdministration:
    return RemoteAdministration(url, remote.credentials(role), now=datetime.now(UTC))


def test_the_client_returns_the_values_of_the_local_administration(remote: RemoteSite) -> None:
    with remote.client(OPERATOR) as administered:
        assert administered.releases() == [remote.registered]
        assert administered.release("aaaaaa") == remote.registered
        drained = administered.drain("resnet50", minutes=7)
        assert drained.release.deadline is not None
        enrolled = administered.enrol_platform("0" * 32, None, label="Rack 3, Gebäude Ü")
        assert (enrolled.platform, enrolled.label) == ("simulated", "Rack 3, Gebäude Ü")
        assert administered.platforms() == [enrolled]
        assert administered.withdraw_platform("0" * 32, enrolled.platform) == enrolled
        assert administered.status().releases == {"draining": 1}


def test_an_approver_approves_platforms_over_the_network(remote: RemoteSite) -> None:
    registered = remote.registered.release
    manual = replace(registered, policy=replace(registered.policy, manual_approval=True))
    references = remote.registered.enclaves
    values = {item.label: parse_reference(item.values) for item in references}
    admin.allow(remote.database, manual, values, now=remote.site.now, reactivate=True)
    refusal = Entry(
        time=remote.site.now, peer="[2001:db8::7]:40000", decision=Decision.REFUSED, code="policy.approval-pending",
        release_id=registered.release_id, platform=registered.platform, platform_id="0" * 32, tcb_status="UpToDate",
    )  # fmt: skip
    with remote.database.write() as connection:
        audit.append(connection, refusal)
    with remote.client(AdministratorRole.APPROVER) as approver:
        (waiting,) = approver.pending()
        assert waiting == approval_requests.pending(remote.database, now=remote.site.now)[0]
        assert (waiting.release, waiting.network, waiting.count) == ("resnet50", "2001:db8::/64", 1)
        approved = approver.approve("resnet50", "0" * 32, minutes=90)
        assert (approved.required, approved.until - approved.approved) == (True, timedelta(minutes=90))
        assert approver.pending() == []
        assert approver.withdraw_approval("aaaaaa", "0" * 32) == approved
        with raises(BrokerCode.NOT_APPROVED):
            approver.withdraw_approval("resnet50", "0" * 32)
        with raises(BrokerCode.ADMINISTRATION_REQUEST, match="platform_id"):
            approver.approve("resnet50", "0" * 31, minutes=90)
    rows = remote.rows()[-2:]
    assert [row.entry.decision for row in rows] == [Decision.APPROVED, Decision.APPROVAL_REMOVED]
    assert {row.entry.actor for row in rows} == {"a-approver"}
    with remote.client(OPERATOR) as operator, raises(BrokerCode.ADMINISTRATION_ROLE, match="the role approver"):
        operator.approve("resnet50", "0" * 32, minutes=90)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?x=1", "a#b", "a b", "ä", "a" * 200, "a\r\nHost: x"])
def test_a_name_that_no_release_can_have_is_never_sent(shared: RemoteSite, name: str) -> None:
    with client(shared, "https://127.0.0.1:1") as administered, raises(ReleaseUnknownError, match="not registered"):
        administered.drain(name, minutes=1)


def test_the_errors_of_the_broker_keep_code_hint_and_family(remote: RemoteSite) -> None:
    with remote.client(OPERATOR) as administered:
        administered.revoke("resnet50")
        with pytest.raises(InputError) as final:
            administered.drain("resnet50", minutes=5)
    assert (final.value.code, final.value.exit_status) == ("broker.release-final", 2)
    assert final.value.hint == "Run `sealserve release build` to build a new release with its own key."
    with (
        remote.client(VIEWER) as administered,
        raises(BrokerCode.ADMINISTRATION_ROLE, match="got viewer.* broker admin issue"),
    ):
        administered.revoke("resnet50")


@pytest.mark.parametrize("family", [InputError, VerificationError, UnavailableError, SealserveError])
def test_an_error_becomes_a_problem_and_the_same_error_again(family: type[SealserveError]) -> None:
    error = family("It failed.", hint="Try again.", code="some.code")
    again = ProblemReply.model_validate_json(ProblemReply.of(error).model_dump_json()).error()
    assert (type(again), again.code, again.message, again.hint) == (family, "some.code", "It failed.", "Try again.")


def test_an_expired_certificate_is_reported_before_the_connection(shared: RemoteSite) -> None:
    credentials = AdministratorFile.read(shared.site.directory / EXPIRED)
    with raises(PkiCode.CERTIFICATE_EXPIRED, match="administrator's certificate") as caught:
        RemoteAdministration("https://127.0.0.1:1", credentials, now=datetime.now(UTC))
    assert "broker admin issue" in (caught.value.hint or "")


def test_a_broker_that_rejects_the_certificate_is_named(shared: RemoteSite) -> None:
    """The clock of the administrator's machine is slow, so only the broker sees the expiry."""
    credentials = AdministratorFile.read(shared.site.directory / EXPIRED)
    slow = datetime.now(UTC) - timedelta(days=35)
    with (
        RemoteAdministration(shared.url, credentials, now=slow) as administered,
        raises(BrokerCode.ADMINISTRATION_REFUSED, match="rejected the administrator's certificate.*EXPIRED"),
    ):
        administered.status()


def test_a_revoked_administrator_learns_why(remote: RemoteSite) -> None:
    administrators.revoke(remote.site.workspace, "a-viewer", now=remote.site.now)
    with remote.client(VIEWER) as administered, raises(PkiCode.ADMINISTRATOR_REVOKED, match="a-viewer is revoked"):
        administered.status()


def test_a_server_of_another_authority_or_name_is_not_trusted(shared: RemoteSite, remote: RemoteSite) -> None:
    with (
        client(remote, shared.url) as administered,
        raises(BrokerCode.ADMINISTRATION_UNTRUSTED, match="does not verify"),
    ):
        administered.status()
    document = json.loads(shared.files[VIEWER].read_text())
    path = shared.site.directory / "renamed.json"
    path.touch(0o600)
    path.write_text(json.dumps(document | {"server_name": "other.example"}))
    with (
        RemoteAdministration(shared.url, AdministratorFile.read(path), now=datetime.now(UTC)) as administered,
        raises(BrokerCode.ADMINISTRATION_UNTRUSTED, match="does not match.*other.example"),
    ):
        administered.status()


def test_an_unreachable_broker_and_an_unused_proxy(shared: RemoteSite, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"https://127.0.0.1:{free.getsockname()[1]}"
    with client(shared, url) as administered:
        with raises(BrokerCode.ADMINISTRATION_UNREACHABLE, match="broker.admin_port"):
            administered.status()
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        with raises(BrokerCode.ADMINISTRATION_UNREACHABLE, match="does not use the proxy"):
            administered.status()
    with shared.client(VIEWER) as administered:  # the proxy of the environment is not used
        assert administered.status().keys == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://x:1",
        "https://",
        "x:4434",
        "https://u:p@x",
        "https://x/path",
        "https://x?a=1",
        "https://x:99999",
        "",
        "\0",
    ],
)
def test_an_invalid_address_is_rejected(shared: RemoteSite, url: str) -> None:
    with raises(BrokerCode.ADMINISTRATION_URL, match="https://HOST:PORT"):
        client(shared, url)


@pytest.fixture
def answering(shared: RemoteSite) -> Iterator[Callable[[bytes], str]]:
    """Start a server with the broker's certificate that gives one answer to each client; return its address."""
    identity = broker_certificate(shared.site.workspace)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with memory_file(identity.chain_pem) as chain, memory_file(identity.key_pem.reveal()) as key:
        context.load_cert_chain(chain, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(answer: bytes) -> None:
            stream, _ = listener.accept()
            with stream, context.wrap_socket(stream, server_side=True) as tls:
                tls.recv(65536)
                tls.sendall(answer)

        def start(answer: bytes) -> str:
            threading.Thread(target=serve, args=(answer,), daemon=True).start()
            return f"https://127.0.0.1:{listener.getsockname()[1]}"

        yield start


def http(status: int, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, headers, len(body)) + body


PROBLEM: dict[str, Any] = {"title": "x", "status": 400, "detail": "d", "hint": None, "code": "a.b", "family": "input"}


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b""),
        http(200, b"{}"),
        http(200, b"[" * 100000),
        http(200, b"<html>"),
        http(500, b"oops"),
        http(302, b"", b"Location: https://other.example/\r\n"),
        http(400, json.dumps(PROBLEM | {"code": "not a code"}).encode()),
        http(400, json.dumps(PROBLEM | {"family": "owner"}).encode()),
        http(400, json.dumps(PROBLEM | {"detail": "x" * 5000}).encode()),
        http(200, b"\x1f\x8b", b"Content-Encoding: gzip\r\n"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    ],
)
def test_a_reply_outside_of_the_description_is_an_error(
    shared: RemoteSite, answering: Callable[[bytes], str], answer: bytes
) -> None:
    with client(shared, answering(answer)) as administered, raises(BrokerCode.ADMINISTRATION_REPLY, match="reply"):
        administered.status()


def test_control_characters_of_an_error_do_not_reach_the_terminal(
    shared: RemoteSite, answering: Callable[[bytes], str]
) -> None:
    answer = http(400, json.dumps(PROBLEM | {"detail": "a\x1b[2Jb", "hint": "c\x07"}).encode())
    with client(shared, answering(answer)) as administered, pytest.raises(InputError) as found:
        administered.status()
    assert found.value.message == "a\N{REPLACEMENT CHARACTER}[2Jb"
    assert found.value.hint == "c\N{REPLACEMENT CHARACTER}"


def test_the_key_is_not_in_any_representation(shared: RemoteSite) -> None:
    credentials = shared.credentials(VIEWER)
    assert "PRIVATE" not in repr(credentials)
    assert shared.files[VIEWER].stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"extra": 1},
        {"private_key": "SECRET"},
        {"certificate": "none"},
        {"broker_ca": ""},
        {"name": 1},
    ],
)
def test_an_invalid_file_is_rejected_without_quoting_it(
    shared: RemoteSite, tmp_path: Path, change: dict[str, Any]
) -> None:
    document = json.loads(shared.files[VIEWER].read_text())
    path = tmp_path / "administrator.json"
    path.touch(0o600)
    path.write_text(json.dumps(document | change))
    with raises(BrokerCode.ADMINISTRATION_FILE, match="administrator.json is not a valid administrator file") as found:
        AdministratorFile.read(path)
    assert "SECRET" not in str(found.value)
    assert document["private_key"][30:60] not in str(found.value)


def test_a_key_of_another_certificate_and_other_files_are_rejected(shared: RemoteSite, tmp_path: Path) -> None:
    mine, other = (json.loads(shared.files[role].read_text()) for role in (VIEWER, OPERATOR))
    path = tmp_path / "administrator.json"
    path.touch(0o600)
    path.write_text(json.dumps(mine | {"private_key": other["private_key"]}))
    with raises(BrokerCode.ADMINISTRATION_FILE, match="private key does not match"):
        AdministratorFile.read(path)
    for content in (b"", b"[]", b"\xff", b"[" * 60000, b'{"format": 1, "format": 2}'):
        path.write_bytes(content or b" ")
        with raises(BrokerCode.ADMINISTRATION_FILE, match="administrator.json"):
            AdministratorFile.read(path)
    path.chmod(0o644)
    with pytest.raises(PrivateFileExposedError):
        AdministratorFile.read(path)


def test_a_general_client_needs_only_the_description(shared: RemoteSite) -> None:
    with shared.http(VIEWER) as general:
        answer = general.get("/v1/releases/resnet50")
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["release_id"] == "a" * 64
    assert answer.headers["content-type"] == "application/json"
    with shared.http(VIEWER) as general:
        assert general.get("/v1/nothing").headers["content-type"] == "application/problem+json"
