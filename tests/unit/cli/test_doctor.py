from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site, make_site

from sealserve.cli import doctor as verb
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.host import probe
from sealserve.host.facts import HostFacts
from sealserve.terms import RuntimeKind

OK = Finding(machine=Machine.HOST, name="nginx", verdict=Verdict.OK, found="/usr/sbin/[nginx]")
NOTE = Finding(machine=Machine.OWNER, name="disk", verdict=Verdict.NOTE, found="1 GB", remedy="make room")
MISSING = Finding(machine=Machine.OWNER, name="TensorFlow", verdict=Verdict.MISSING, found="no", remedy="pip install")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What `examine` was asked; it finds what stands first in the list, a list of findings."""
    calls: list[tuple[object, ...]] = [(OK, NOTE)]

    def examine(*arguments: object, runtime: RuntimeKind, host: HostFacts, production: bool) -> list[object]:
        calls.append((*arguments, production, runtime, host))
        return list(calls[0])

    monkeypatch.setattr(verb, "examine", examine)
    monkeypatch.setattr(probe, "gather", lambda ask: HostFacts(kernel="asked" if ask else "not asked"))
    return calls


def test_findings_and_presets(cli: CommandLine, asked: list[tuple[object, ...]], site: Site) -> None:
    lines = cli.ok("doctor").splitlines()
    assert lines[0].split() == ["ok", "host", "nginx", "/usr/sbin/[nginx]"]
    assert lines[1].split() == ["note", "owner", "disk", "1", "GB"]
    assert lines[2].strip() == "make room"
    assert "  strict: UpToDate; advisories: none" in lines
    assert any(line.startswith("  cloud-smt: ") and "INTEL-SA-" in line for line in lines)
    assert asked[1][:4] == (tuple(Machine), site.workspace, site.deployment, False)
    assert asked[1][4:] == (RuntimeKind.SIMULATED, HostFacts(kernel="not asked"))


def test_one_machine_for_production(cli: CommandLine, asked: list[tuple[object, ...]]) -> None:
    (row, _) = cli.json("doctor", "host", "--production")
    described = {"machine": "host", "name": "nginx", "verdict": "ok", "found": "/usr/sbin/[nginx]", "remedy": ""}
    assert row == {"code": "host.nginx", **described}
    assert asked[1][0] == (Machine.HOST,)
    assert asked[1][3] is True


def test_the_platform_can_be_said(cli: CommandLine, asked: list[tuple[object, ...]]) -> None:
    cli.ok("doctor", "host", "--platform", "sgx")
    cli.ok("doctor", "owner", "--platform", "sgx")
    assert [call[4:] for call in asked[1:]] == [
        (RuntimeKind.SGX, HostFacts(kernel="asked")),
        (RuntimeKind.SGX, HostFacts()),
    ]


def test_a_report_ends_well_whatever_is_missing(cli: CommandLine, asked: list[tuple[object, ...]]) -> None:
    asked[0] = (OK, MISSING)
    text = cli.ok("doctor", "host", "--report")
    assert "| missing | TensorFlow | no (pip install) |" in text
    assert "| kernel | asked |" in text
    assert asked[1][0] == (Machine.HOST,)
    assert asked[1][4] is RuntimeKind.SGX
    assert cli.json("doctor", "host", "--report")["facts"]["kernel"] == "asked"


def test_something_missing_has_a_status(cli: CommandLine, asked: list[tuple[object, ...]]) -> None:
    asked[0] = (OK, MISSING)
    result = cli("doctor")
    assert result.status == 4
    expected = (
        "error[doctor.not-ready]: This machine does not meet the requirements of its role. Missing: TensorFlow.\n"
    )
    assert result.err.startswith(expected)
    as_json = cli("doctor", "--json")
    assert (as_json.status, as_json.err) == (4, "")
    assert [row["verdict"] for row in as_json.json] == ["ok", "missing"]


def test_no_workspace_is_needed(cli: CommandLine, asked: list[tuple[object, ...]]) -> None:
    assert cli.bare("doctor").status == 0
    assert asked[1][1:3] == (None, None)


def test_production_refuses_simulation(capsys: pytest.CaptureFixture[str], site: Site) -> None:
    result = CommandLine(capsys, site.directory)("doctor", "user", "--production")
    assert result.status == 4
    assert "Missing: platform." in result.err
    genuine = make_site(site.directory.parent / "genuine", platform="sgx")
    assert CommandLine(capsys, genuine.directory)("doctor", "user", "--production").status == 0


def test_a_cluster_plays_the_hosts_part_alone(cli: CommandLine, site: Site) -> None:
    del site
    error = cli.error("doctor", "owner", "--target", "kubernetes")
    assert (error["code"], error["status"]) == ("doctor.cluster-is-host", 2)
    assert "can only be checked as the host: got owner" in error["message"]
    assert cli.error("doctor", "--report", "--target", "kubernetes")["code"] == "doctor.cluster-is-host"


def test_a_cluster_that_is_away(cli: CommandLine, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    del site
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    done = cli("doctor", "host", "--target", "kubernetes", "--production", "--json")
    (row,) = [row for row in done.json if row["code"] == "host.cluster-api"]
    assert (done.status, row["verdict"], row["remedy"]) == (
        4,
        "missing",
        "Set KUBECONFIG to the cluster's kubeconfig file.",
    )
    assert "Missing: cluster API." in cli("doctor", "--target", "kubernetes").err
