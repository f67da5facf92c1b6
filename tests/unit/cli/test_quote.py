from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.owner import simulation
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.quoting import quote

VECTORS = Path(__file__).parents[2] / "conformance" / "quotes"
QUOTE = VECTORS / "sgx_quote"
COLLATERAL = VECTORS / "sgx_quote_collateral.json"


def test_a_real_quote_is_shown(cli: CommandLine) -> None:
    shown = cli.bare("quote", "show", QUOTE)
    fields = dict(line.split(maxsplit=1) for line in shown.out.replace("report data", "report-data").splitlines())
    as_json = cli.bare("quote", "show", QUOTE, "--json").json
    assert as_json["mrenclave"] == fields["MRENCLAVE"]
    assert len(as_json["report_data"]) == 128
    assert as_json["debug"] in (True, False)


def test_a_real_quote_verifies_at_its_time(cli: CommandLine) -> None:
    result = cli.bare("quote", "verify", QUOTE, "--collateral", COLLATERAL, "--at", "2025-06-20", "--json")
    verified = result.json
    assert result.status == 0
    assert verified["simulated"] is False
    assert verified["tcb_status"]
    assert len(verified["fmspc"]) == 12
    text = cli.bare("quote", "verify", QUOTE, "--collateral", COLLATERAL, "--at", "2025-06-20 00:00:00").out
    assert "TCB status" in text


def test_a_real_quote_does_not_verify_at_another_time(cli: CommandLine) -> None:
    result = cli.bare("quote", "verify", QUOTE, "--collateral", COLLATERAL, "--at", "2035-06-20", "--json")
    assert result.status == 3
    assert result.error["code"].startswith("collateral.")


def test_a_simulated_quote_verifies_with_its_own_root_only(site: Site, cli: CommandLine, tmp_path: Path) -> None:
    platform = simulation.open_platform(site.workspace, now=site.now)
    report = EnclaveReport(attributes=Attributes(flags=0x5, xfrm=0xE7), mr_enclave=MrEnclave(bytes(32)),
                           mr_signer=MrSigner(bytes(32)), isv_prod_id=0, isv_svn=0, report_data=bytes(64))  # fmt: skip
    (tmp_path / "quote").write_bytes(quote(platform, report))
    root = site.workspace.owner.trust / simulation.ROOT_FILE
    with PcsServer(simulation.open_vendor(site.workspace, now=site.now)) as server:
        verified = cli.bare("quote", "verify", "quote", "--pcs", server.url, "--simulated-root", root, "--json")
        stranger = cli.bare("quote", "verify", "quote", "--pcs", server.url, "--json")
    assert verified.json["simulated"] is True
    assert verified.json["tcb_status"] == "UpToDate"
    assert verified.json["platform_id"] == platform.platform_id
    assert stranger.status == 3
    assert "simulated" in stranger.error["message"] or "root" in stranger.error["message"]
    down = cli.bare("quote", "verify", "quote", "--pcs", server.url, "--simulated-root", root, "--json")
    assert (down.error["code"], down.status) == ("pcs.unreachable", 4)


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_files_that_are_no_quotes(cli: CommandLine, tmp_path: Path, verb: str) -> None:
    missing = cli.bare("quote", verb, "nowhere", "--json")
    assert (missing.error["code"], missing.status) == ("input-file.missing", 2)
    assert missing.error["message"] == "The file nowhere does not exist."
    (tmp_path / "short").write_bytes(QUOTE.read_bytes()[:100])
    short = cli.bare("quote", verb, "short", "--json")
    assert (short.error["code"], short.status) == ("quote.truncated", 3)


def test_collateral_that_is_none(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(b"\xff{}")
    result = cli.bare("quote", "verify", QUOTE, "--collateral", "c.json", "--json")
    assert result.status in (2, 3)
    assert result.error["code"].startswith("collateral.")
