"""``sealserve broker policy``, on a workspace whose broker released keys to simulated platforms."""

import json
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.attestation.ra_tls import make_certificate
from sealserve.broker import admin, audit
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.decision import Broker
from sealserve.deployment import reader
from sealserve.owner import provisioning, simulation
from sealserve.owner.attestation import open_verifier
from sealserve.owner.owner import Owner
from sealserve.sealing.release import VerifiedRelease
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import AttributeFlags, Attributes, EnclaveReport
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor

GRACE = """
version = 2
name = "graceful"
[tcb.accept]
UpToDate = []
[tcb.grace]
days = 30
[tcb.grace.accept]
OutOfDate = ["SIMULATED-SA-00002"]
"""
HERE = {"fmspc": "5EA15E000000", "cpu_svn": "00" * 16}


def _set(site: Site, section: str, **values: object) -> None:
    described = tomllib.loads(site.workspace.deployment_file.read_text())
    described.setdefault(section, {}).update(values)
    site.workspace.deployment_file.write_text(tomli_w.dumps(described))


def _release_key(site: Site, platform: SimulatedPlatform) -> None:
    """Release the key of the registered release to its first enclave, on a platform."""
    with Owner.open(site.workspace).vault() as vault:
        ((known,), now) = admin.every_release(vault.database), datetime.now(UTC)
        expected = ReferenceValues.from_json(known.enclaves[0].values)
        report = EnclaveReport(
            attributes=Attributes(flags=expected.attribute_flags | AttributeFlags.INIT, xfrm=expected.xfrm),
            mr_enclave=expected.mr_enclave,
            mr_signer=expected.mr_signer,
            isv_prod_id=expected.isv_prod_id,
            isv_svn=expected.isv_svn,
            report_data=bytes(64),
        )
        certificate = make_certificate(lambda data: quote(platform, replace(report, report_data=data)), now)
        with open_verifier(site.workspace, reader.read(site.workspace.deployment_file)) as (verifier, _):
            broker = Broker(database=vault.database, keystore=vault.keystore, verifier=verifier)
            broker.release_key(certificate.certificate, peer="192.0.2.1:1").wipe()


@pytest.fixture
def vendor(site: Site, released: VerifiedRelease) -> Iterator[Vendor]:
    """The vendor of a workspace with a registered release, while its service runs."""
    vendor = simulation.open_vendor(site.workspace, now=site.now)
    with PcsServer(vendor) as server:
        _set(site, "broker", collateral_url=server.url)
        deployment = reader.read(site.workspace.deployment_file)
        provisioning.allow(site.workspace, deployment, released.folder, now=site.now)
        yield vendor


@pytest.fixture
def platform(site: Site, vendor: Vendor) -> SimulatedPlatform:
    """A platform that received the key."""
    assert vendor
    platform = simulation.open_platform(site.workspace, now=site.now)
    _release_key(site, platform)
    return platform


def test_a_preset_is_shown_as_a_policy_file(site: Site, cli: CommandLine, tmp_path: Path) -> None:
    shown = cli.ok("broker", "policy", "show", "cloud-smt")
    assert tomllib.loads(shown)["tcb"]["accept"]["SWHardeningNeeded"] == ["INTEL-SA-00289", "INTEL-SA-00615"]
    assert cli.json("broker", "policy", "show", "cloud-smt") == tomllib.loads(shown)
    assert tomllib.loads(cli.ok("broker", "policy", "show"))["name"] == "strict"
    file = tmp_path / "mine.toml"
    file.write_text(shown)
    assert cli.ok("broker", "policy", "show", file) == shown
    _set(site, "tcb", policy_file=str(file))
    assert cli.error("broker", "policy", "show")["code"] == "deployment.invalid-value"  # the preset is set, too


def test_a_policy_file_is_checked_and_described(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GRACE)
    result = cli("broker", "policy", "check", file)
    assert "The TCB status UpToDate is accepted if it has no advisories." in result.out
    assert "until 30 days after the date of the TCB level" in result.out.replace("\n", " ")
    assert "set tcb.policy_file in sealserve.toml" in result.err.replace("\n", " ")
    assert cli.json("broker", "policy", "check", file)["name"] == "graceful"
    file.write_text(GRACE.replace("UpToDate", "Revoked"))
    error = cli.error("broker", "policy", "check", file)
    assert (error["code"], "tcb.accept: 'Revoked'" in error["message"]) == ("policy.file", True)
    assert cli.error("broker", "policy", "check", tmp_path / "other.toml")["code"] == "input-file.missing"


def test_a_policy_that_does_not_exist(vendor: Vendor, cli: CommandLine) -> None:
    assert vendor
    error = cli.error("broker", "policy", "show", "fast")
    assert error["code"] == "policy.unknown"
    assert "expected a preset (strict, cloud-smt), a policy file, or a registered release" in error["message"]


def test_a_policy_file_is_stored_with_a_release(site: Site, released: VerifiedRelease, cli: CommandLine) -> None:
    described = tomllib.loads(site.workspace.deployment_file.read_text())
    described.pop("tcb", None)
    (site.directory / "mine.toml").write_text(GRACE)
    site.workspace.deployment_file.write_text(tomli_w.dumps({**described, "tcb": {"policy_file": "mine.toml"}}))
    assert cli.json("broker", "allow")["tcb_policy"] == "graceful"
    assert cli.json("broker", "policy", "show", released.folder.name) == tomllib.loads(GRACE)
    # The database has its own copy of the policy. A change of the file needs --reactivate.
    (site.directory / "mine.toml").write_text(GRACE.replace("30", "60"))
    assert cli.error("broker", "allow")["code"] == "broker.release-policy"
    cli.ok("broker", "allow", "--reactivate")
    assert cli.json("broker", "policy", "show", released.folder.name)["tcb"]["grace"]["days"] == 60
    (site.directory / "mine.toml").unlink()
    error = cli.error("broker", "allow", "--reactivate")
    assert (error["code"], "tcb.policy_file does not exist" in error["message"]) == ("policy.unknown", True)


def test_a_dangerous_signer_is_registered_with_a_warning(
    site: Site, released: VerifiedRelease, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    described = tomllib.loads(site.workspace.deployment_file.read_text())
    described.pop("tcb", None)
    rule = f"dangerous_signer = {{ mr_signer = '{'02' * 32}', isv_prod_id = 1, least_isv_svn = 3 }}"
    (site.directory / "mine.toml").write_text(f"{GRACE}[sgx]\n{rule}\n")
    site.workspace.deployment_file.write_text(tomli_w.dumps({**described, "tcb": {"policy_file": "mine.toml"}}))
    assert "DANGEROUS: Each enclave" in cli.ok("broker", "policy", "check", site.directory / "mine.toml")
    for _ in range(2):
        caplog.clear()
        allowed = cli.json("broker", "allow")
        assert f"each enclave that the key with MRSIGNER {'02' * 32} signed receives the key" in caplog.text
    product = next(item for item in allowed["enclaves"] if item["label"] == "dangerous-signer")
    assert product == {"label": "dangerous-signer", "mr_enclave": None, "mr_signer": "02" * 32, "isv_prod_id": 1,
                       "isv_svn": 3}  # fmt: skip
    assert "dangerous-signer" in cli.ok("broker", "releases")
    assert released.folder.name in cli.ok("broker", "releases")
    findings = json.loads(cli("doctor", "owner", "--production", "--json").out)
    (policy,) = [item for item in findings if item["name"] == "policy"]
    assert (policy["verdict"], "dangerous_signer" in policy["found"]) == ("missing", True)
    # The policy without the rule ends the acceptance.
    (site.directory / "mine.toml").write_text(GRACE)
    allowed = cli.json("broker", "allow", "--reactivate")
    assert "dangerous-signer" not in {item["label"] for item in allowed["enclaves"]}
    findings = json.loads(cli("doctor", "owner", "--production", "--json").out)
    assert [item["verdict"] for item in findings if item["name"] == "policy"] == ["ok"]
    (site.directory / "mine.toml").write_text("version = 1")
    findings = json.loads(cli("doctor", "owner", "--production", "--json").out)
    assert [item["verdict"] for item in findings if item["name"] == "policy"] == ["missing"]


def test_no_key_was_released_yet(vendor: Vendor, cli: CommandLine) -> None:
    assert vendor
    assert cli.json("broker", "policy", "try", "strict") == []
    assert "contains no released key" in cli.ok("broker", "policy", "try", "strict")


def test_another_policy_is_tried_with_the_log(
    platform: SimulatedPlatform, released: VerifiedRelease, cli: CommandLine, tmp_path: Path
) -> None:
    (row,) = cli.json("broker", "policy", "try")
    assert (row["platform_id"], row["release"], row["policy"], row["verdict"], row["problems"]) == (
        platform.platform_id,
        released.folder.name,
        "strict",
        "accepted",
        [],
    )
    file = tmp_path / "mine.toml"
    file.write_text(
        'version = 2\nname = "mine"\n[tcb]\nleast_date = 2026-01-01\n[tcb.accept]\nSWHardeningNeeded = []\n'
        f'[platforms]\nenrolled_only = true\ndeny = ["{platform.platform_id.upper()}"]\n'
        '[collateral]\nleast_evaluation_number = 99\n[sgx]\nfmspc_deny = ["5EA15E000000"]\n'
    )
    (row,) = cli.json("broker", "policy", "try", file)
    assert row["verdict"] == "refused"
    # Each rule that refuses is listed, not only the first one.
    assert {problem["code"] for problem in row["problems"]} == {
        "policy.tcb-status", "policy.tcb-date", "policy.evaluation-number", "policy.fmspc", "policy.platform-denied",
        "policy.platform-unknown",
    }  # fmt: skip
    result = cli("broker", "policy", "try", file)
    assert "1 of 1 would be refused" in result.err
    # Only released keys since a time count, and only of releases that the broker still serves.
    assert cli.json("broker", "policy", "try", file, "--since", "2999-01-01T00:00:00Z") == []
    assert len(cli.json("broker", "policy", "try", file, "--since", "1h")) == 1
    cli.ok("broker", "revoke", released.folder.name, "--yes")
    assert cli.json("broker", "policy", "try", file) == []


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (
            "UPDATE audit SET content = CAST(replace(CAST(content AS TEXT), 'UpToDate', 'OutOfDate') AS BLOB)",
            "audit.chain",
        ),
        (
            "UPDATE audit SET content = CAST(replace(CAST(content AS TEXT), '\"simulated\"', '\"other\"') AS BLOB)",
            "audit.chain",
        ),
        ("UPDATE audit SET decision = 'refused' WHERE decision = 'released'", "audit.chain"),
        ("UPDATE audit SET tag = NULL WHERE decision = 'released'", "broker.database-authentication"),
    ],
)
def test_a_changed_log_is_not_the_base_of_a_trial(site: Site, cli: CommandLine, change: str, code: str) -> None:
    with closing(sqlite3.connect(site.workspace.owner.database)) as connection, connection:
        connection.execute(change)
    assert cli.error("broker", "policy", "try", "strict")["code"] == code


def test_an_early_warning_before_a_tcb_recovery(
    site: Site, vendor: Vendor, platform: SimulatedPlatform, cli: CommandLine, tmp_path: Path
) -> None:
    # Before the announcement, both channels agree.
    (row,) = cli.json("broker", "policy", "try", "--early")
    assert (row["verdict"], row["tcb_status"], row["evaluation_number"]) == ("accepted", "UpToDate", 17)
    announced = datetime.now(UTC) - timedelta(days=2)
    vendor.recover_tcb(tcb_date=f"{announced:%Y-%m-%d}T00:00:00Z", early=True)
    # The standard channel still accepts the platform, and so does the broker.
    (row,) = cli.json("broker", "policy", "try")
    assert (row["verdict"], row["tcb_status"], row["evaluation_number"]) == ("accepted", "UpToDate", 17)
    (row,) = cli.json("broker", "policy", "try", "--early")
    assert (row["verdict"], row["tcb_status"], row["evaluation_number"]) == ("refused", "OutOfDate", 18)
    assert row["problems"][0]["code"] == "policy.tcb-status"
    assert "SIMULATED-SA-00002" in row["problems"][0]["message"]
    _release_key(site, platform)
    # A policy with a grace period keeps the platform in service.
    file = tmp_path / "graceful.toml"
    file.write_text(GRACE)
    assert cli.json("broker", "policy", "try", file, "--early")[0]["verdict"] == "accepted"
    file.write_text(GRACE.replace("days = 30", "days = 1"))
    (row,) = cli.json("broker", "policy", "try", file, "--early")
    assert (row["verdict"], row["problems"][0]["code"]) == ("refused", "policy.tcb-grace")
    # The trial neither raised the floor of the standard channel nor stored a document.
    listed = cli.json("broker", "collateral")
    assert {(item["document"], item["evaluation_number"]) for item in listed} == {
        ("PCK CRL", None), ("QE identity", 17), ("Root CRL", None), ("TCB info", 17),
    }  # fmt: skip
    assert {item["state"] for item in listed} == {"valid"}
    assert cli.json("broker", "status")["evaluation_floor"] == {"simulated": 17}
    # Then the recovery becomes standard: the warning was right.
    vendor.recover_tcb(tcb_date=f"{announced:%Y-%m-%d}T00:00:00Z")
    cli.ok("broker", "collateral", "--refresh")
    with pytest.raises(Exception, match="TCB status is OutOfDate"):
        _release_key(site, platform)


def test_a_broker_on_the_early_channel_applies_a_recovery_at_once(
    site: Site, vendor: Vendor, platform: SimulatedPlatform, cli: CommandLine
) -> None:
    vendor.recover_tcb(early=True)
    _set(site, "broker", collateral_update="early")
    with pytest.raises(Exception, match="TCB status is OutOfDate"):
        _release_key(site, platform)
    assert cli.json("broker", "status")["evaluation_floor"] == {"simulated": 17, "simulated-early": 18}
    listed = {(item["document"], item["update"]): item for item in cli.json("broker", "collateral")}
    assert listed["TCB info", "standard"]["evaluation_number"] == listed["TCB info", "standard"]["floor"] == 17
    assert listed["TCB info", "early"]["evaluation_number"] == listed["TCB info", "early"]["floor"] == 18
    assert {item["state"] for item in listed.values()} == {"valid"}
    _set(site, "broker", collateral_update="standard")
    _release_key(site, platform)


@pytest.mark.parametrize(
    ("claims", "missing"),
    [
        ({}, "the row lacks the fact fmspc"),
        ({"fmspc": "zz"}, "the fact fmspc of the row is not hexadecimal"),
        ({"fmspc": "00"}, "the fact fmspc of the row does not have 6 bytes"),
        ({"fmspc": ["5EA15E000000"]}, "the row lacks the fact fmspc"),
        ({"fmspc": "5EA15E000000"}, "the row lacks the fact cpu_svn"),
        (
            {"fmspc": "5EA15E000000", "cpu_svn": "00" * 16, "pce_svn": "15"},
            "the fact pce_svn of the row is not a number",
        ),
        ({"fmspc": "5EA15E000000", "cpu_svn": "00" * 16, "pce_svn": 15}, "the row lacks the fact qe_svn"),
    ],
)
def test_a_row_without_the_facts_is_unknown_and_never_accepted(
    site: Site, platform: SimulatedPlatform, cli: CommandLine, claims: dict[str, object], missing: str
) -> None:
    _append(site, platform, claims)
    (row,) = cli.json("broker", "policy", "try", "--early")
    assert (row["verdict"], row["problems"]) == ("unknown", [{"code": None, "message": missing}])
    assert "1 of 1 are unknown" in cli("broker", "policy", "try", "--early").err


def test_a_row_of_an_earlier_version(site: Site, platform: SimulatedPlatform, cli: CommandLine, tmp_path: Path) -> None:
    _append(site, platform, {})
    (row,) = cli.json("broker", "policy", "try", "strict")
    assert row["problems"] == [{"code": None, "message": "the row lacks the fact isv_prod_id"}]
    _append(site, platform, identity_of(site))
    # A rule that needs no missing fact has its usual result.
    assert cli.json("broker", "policy", "try", "strict")[0]["verdict"] == "accepted"
    file = tmp_path / "mine.toml"
    for rule, fact in (
        ("[collateral]\nleast_evaluation_number = 1", "tcb_evaluation_number"),
        ("[collateral]\nmax_age_days = 1", "collateral_issued"),
        ("[sgx]\nfmspc_deny = ['00906ED50000']", "fmspc"),
        ("[sgx]\nmisc_select = 0", "misc_select"),
        ("[sgx]\nkss = false", "kss"),
        (f"[sgx]\nconfig_id = '{'0' * 128}'", "config_id"),
        ("[sgx]\nleast_config_svn = 0", "config_svn"),
    ):
        file.write_text(f"version = 2\nname = 'mine'\n[tcb.accept]\nUpToDate = []\n{rule}\n")
        (row,) = cli.json("broker", "policy", "try", file)
        assert (row["verdict"], row["problems"][0]["message"]) == ("unknown", f"the row lacks the fact {fact}")
    # A rule that is certainly not satisfied decides, whatever is missing.
    file.write_text("version = 2\nname = 'mine'\n[tcb.accept]\nSWHardeningNeeded = []\n[sgx]\nkss = false\n")
    (row,) = cli.json("broker", "policy", "try", file)
    assert (row["verdict"], len(row["problems"])) == ("refused", 2)


def test_an_enclave_that_is_not_registered_any_more_is_refused(
    site: Site, platform: SimulatedPlatform, cli: CommandLine
) -> None:
    identity = identity_of(site)
    for changes, code in (
        ({"mr_enclave": b"\7" * 32}, "policy.mr-enclave-unknown"),
        ({"mr_signer": b"\7" * 32}, "policy.mr-signer"),
        ({"claims": identity | {"isv_prod_id": 60000}}, "policy.isv-prod-id"),
        ({"claims": identity | {"isv_svn": -1}}, "policy.isv-svn"),
        ({"claims": identity | {"isv_prod_id": 10**9}}, None),
        ({"claims": identity | {"isv_prod_id": "1"}}, None),
    ):
        values: Any = {"claims": identity} | changes
        _append(site, platform, **values)
        (row,) = cli.json("broker", "policy", "try", "strict")
        assert [problem["code"] for problem in row["problems"]] == [code]
        assert row["verdict"] == ("unknown" if code is None else "refused")


def test_scripts_can_use_the_exit_status(site: Site, platform: SimulatedPlatform, cli: CommandLine) -> None:
    trial = ("broker", "policy", "try", "--fail-if-refused")
    assert cli(*trial).status == 0
    _append(site, platform, identity_of(site), mr_enclave=b"\7" * 32)
    refused = cli(*trial, "--json")
    assert (refused.status, json.loads(refused.out)[0]["verdict"]) == (3, "refused")
    assert cli("broker", "policy", "try").status == 0
    _append(site, platform, {})
    assert cli(*trial).status == 3  # unknown


def identity_of(site: Site) -> dict[str, object]:
    """Return the facts of a row about the registered enclave."""
    with Owner.open(site.workspace).database() as database:
        (known,) = admin.every_release(database)
    values = ReferenceValues.from_json(known.enclaves[0].values)
    return {"isv_prod_id": values.isv_prod_id, "isv_svn": values.isv_svn}


@pytest.mark.parametrize("status", [None, "Fine", ""])
def test_an_unknown_status_is_never_accepted(
    site: Site, platform: SimulatedPlatform, cli: CommandLine, status: str | None
) -> None:
    _append(site, platform, {}, tcb_status=status)
    (row,) = cli.json("broker", "policy", "try", "cloud-smt")
    assert (row["verdict"], row["tcb_status"]) == ("unknown", None)


def test_the_service_is_down(site: Site, platform: SimulatedPlatform, cli: CommandLine) -> None:
    assert platform
    _set(site, "broker", collateral_url="http://127.0.0.1:1")
    assert cli.error("broker", "policy", "try", "--early")["code"] == "pcs.unreachable"


def _append(
    site: Site,
    platform: SimulatedPlatform,
    claims: dict[str, object],
    *,
    tcb_status: str | None = "UpToDate",
    mr_enclave: bytes | None = None,
    mr_signer: bytes | None = None,
) -> None:
    """Append the row of a later key release with other facts."""
    with Owner.open(site.workspace).database() as database, database.write() as connection:
        (release,) = [known.release for known in admin.every_release(database)]
        values = ReferenceValues.from_json(admin.find_release(database, release.name).enclaves[0].values)
        entry = Entry(
            time=datetime.now(UTC),
            peer="192.0.2.1:1",
            decision=Decision.RELEASED,
            code="ok",
            release_id=release.release_id,
            platform="simulated",
            platform_id=platform.platform_id,
            mr_enclave=(mr_enclave or values.mr_enclave).hex(),
            mr_signer=(mr_signer or values.mr_signer).hex(),
            tcb_status=tcb_status,
            advisories="",
            claims=json.loads(json.dumps(claims)),
        )
        audit.append(connection, entry)
