"""The broker's certificate in `broker status` and `status`."""

from datetime import UTC, datetime, timedelta

from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.owner import broker_certificate
from sealserve.owner.certificates import broker_certificate_files


def test_broker_status_shows_the_expiry_of_the_certificate(cli: CommandLine, site: Site) -> None:
    assert cli.json("broker", "status")["certificate"] is None
    assert "certificate            none; create it with" in cli.ok("broker", "status")
    site.certify()
    found = cli.json("broker", "status")["certificate"]
    assert found["problem"] is None
    left = datetime.fromisoformat(found["ends"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert "(89 days)" in cli.ok("broker", "status")


def test_a_certificate_that_a_running_broker_rejects_is_shown(cli: CommandLine, site: Site) -> None:
    site.certify()
    _, key = broker_certificate_files(site.workspace)
    key.write_bytes((site.workspace.owner.authorities / "broker" / "ca.key").read_bytes())
    found = cli.json("broker", "status")["certificate"]
    assert found["ends"] is None
    assert found["problem"].startswith("[certificate.key-mismatch] The private key does not match")
    assert "so a running broker keeps its former certificate" in cli.ok("broker", "status")
    (warning,) = [text for text in cli("status", "--json").json["warnings"] if "certificate" in text]
    assert warning.startswith("The broker cannot use its certificate in the workspace: [certificate.key-mismatch] ")
    assert warning.endswith("Renew it: `sealserve certs renew`.")


def test_a_changed_name_is_a_problem_before_the_broker_reads_it(site: Site) -> None:
    site.certify()
    section = site.deployment.broker.model_copy(update={"name": "other.example.org"})
    renamed = site.deployment.model_copy(update={"broker": section})
    found = broker_certificate.state_of(site.workspace, renamed, now=site.now)
    assert found is not None
    assert found.problem is not None
    assert found.problem.endswith("does not contain a name of the broker: expected other.example.org.")
