"""The notifications of a workspace's broker, and the command that tries them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.errors import raises
from tests.harness.webhook_receiver import WebhookReceiver, status, write_secret
from tests.harness.workspaces import Site, make_site

from sealserve import deployment
from sealserve.broker.codes import BrokerCode
from sealserve.broker.tls import HandshakeError
from sealserve.owner import provisioning
from sealserve.owner.administration import LocalAdministration
from sealserve.owner.notifications import open_receiver


def make(directory: Path, url: str, **settings: Any) -> Site:
    secret = write_secret(directory.parent / "webhook.secret")
    return make_site(
        directory, broker={"port": 4711, "notifications": {"url": url, "secret_file": str(secret), **settings}}
    )


def test_the_owners_broker_reports_its_refusals(tmp_path: Path) -> None:
    with WebhookReceiver() as server:
        site = make(tmp_path / "site", server.url)
        site.certify()
        with provisioning.open_broker(site.workspace, site.deployment) as broker:
            broker._broker.turn_away(HandshakeError("no \x1b[2J certificate."), peer="192.0.2.1:5")
        request = server.next()
    assert request.verifies()
    document = request.document
    assert document["type"] == "key.refused"
    assert document["data"]["peer"] == "192.0.2.1:5"
    assert document["data"]["detail"] == "no \N{REPLACEMENT CHARACTER}[2J certificate."


def test_a_setting_selects_the_events(tmp_path: Path) -> None:
    with WebhookReceiver() as server:
        site = make(tmp_path / "site", server.url, events=["released"])
        site.certify()
        with provisioning.open_broker(site.workspace, site.deployment) as broker:
            broker._broker.turn_away(HandshakeError("no certificate."), peer="192.0.2.1:5")
        assert server.received.empty()


def test_changes_by_the_owner_and_new_secrets_reach_the_receiver(tmp_path: Path) -> None:
    with WebhookReceiver() as server:
        site = make(tmp_path / "site", server.url, events=["changed"])
        site.certify()
        with provisioning.open_broker(site.workspace, site.deployment) as broker:
            broker._broker.turn_away(HandshakeError("no certificate."), peer="192.0.2.1:5")  # not selected
            # The owner's command has its own connection to the database.
            administered = LocalAdministration(site.workspace, lambda: site.deployment)
            administered.enrol_platform("0" * 32, None, label="rack 3")
            administered.rotate_token_key(compromised=False)
            first, second = server.next(), server.next()
            assert {value.what for value in broker._reloaded} >= {"signing secret", "token signing key"}
        assert first.verifies()
        assert (first.document["type"], first.document["data"]["detail"]) == ("platform.enrolled", "rack 3")
        assert second.document["type"] == "token-key.rotated"
        assert server.received.empty()


def test_the_broker_does_not_start_with_an_invalid_secret(tmp_path: Path) -> None:
    site = make(tmp_path / "site", "https://siem.example.org/hook")
    site.certify()
    (tmp_path / "webhook.secret").write_text("hunter2")
    with (
        raises(BrokerCode.NOTIFICATION_SETTINGS, match="The signing secret in "),
        provisioning.open_broker(site.workspace, site.deployment),
    ):
        pytest.fail("the broker has started")


def test_without_a_url_nothing_is_reported(site: Site) -> None:
    with raises(BrokerCode.NOTIFICATION_SETTINGS, match="No receiver of notifications is configured"):
        open_receiver(site.deployment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('url = "https://siem.example.org"', "a URL requires secret_file"),
        ("events = []", "at least 1 item"),
        ('events = ["revoked"]', "changed"),
    ],
)
def test_invalid_settings_are_rejected(text: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        deployment.parse(f'[model]\nname = "m"\npath = "m"\n[broker.notifications]\n{text}\n')


def test_the_command_sends_a_signed_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with WebhookReceiver() as server:
        site = make(tmp_path / "site", f"{server.url}/hunter2")
        cli = CommandLine(capsys, site.directory)
        answer = cli.json("broker", "notify-test")
        assert answer == {"receiver": server.url.removesuffix("/hook"), "status": 204}
        request = server.next()
        assert request.verifies()
        assert json.loads(request.body)["type"] == "notification.test"
        assert request.path == "/hook/hunter2"
        server.answers.append(status(401))
        error = cli.error("broker", "notify-test")
    assert (error["code"], error["status"]) == ("broker.notification-not-delivered", 4)
    assert "got 401" in error["message"]
    assert "hunter2" not in json.dumps(error)
    assert "hunter2" not in caplog.text
