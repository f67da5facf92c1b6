import tomllib

import tomli_w
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.deployment import reader
from sealserve.owner import simulation
from sealserve.owner.attestation import open_client, trust_anchors
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.terms import PlatformKind


def _download(site: Site, url: str) -> None:
    """Store collateral as a broker does."""
    platform = simulation.open_platform(site.workspace, now=site.now)
    report = EnclaveReport(
        attributes=Attributes(flags=0x5, xfrm=0xE7),
        mr_enclave=MrEnclave(bytes(32)),
        mr_signer=MrSigner(bytes(32)),
        isv_prod_id=0,
        isv_svn=0,
        report_data=bytes(64),
    )
    pck = PckChain.parse(Quote.parse(quote(platform, report)).pck_chain_pem)
    anchor = trust_anchors(site.workspace)[PlatformKind.SIMULATED]
    _set_url(site, url)
    with open_client(
        site.workspace, reader.read(site.workspace.deployment_file), PlatformKind.SIMULATED, anchor
    ) as client:
        client.collateral_for(pck)


def _set_url(site: Site, url: str) -> None:
    described = tomllib.loads(site.workspace.deployment_file.read_text())
    described.setdefault("broker", {})["collateral_url"] = url
    site.workspace.deployment_file.write_text(tomli_w.dumps(described))


def test_the_list_is_empty_at_first(cli: CommandLine) -> None:
    assert "No collateral yet" in cli.ok("broker", "collateral")
    assert cli.json("broker", "collateral") == []


def test_stored_collateral_is_listed_and_refreshed(site: Site, cli: CommandLine) -> None:
    vendor = simulation.open_vendor(site.workspace, now=site.now)
    with PcsServer(vendor) as server:
        _download(site, server.url)
        listed = cli.json("broker", "collateral")
        assert [(row["document"], row["subject"], row["evaluation_number"], row["state"]) for row in listed] == [
            ("PCK CRL", listed[0]["subject"], None, "valid"),
            ("QE identity", None, 17, "valid"),
            ("Root CRL", None, None, "valid"),
            ("TCB info", "5EA15E000000", 17, "valid"),
        ]
        assert {row["platform"] for row in listed} == {"simulated"}
        assert "5EA15E000000" in cli.ok("broker", "collateral")
        vendor.recover_tcb()
        refreshed = cli.json("broker", "collateral", "--refresh")
        assert [row["evaluation_number"] for row in refreshed] == [None, 18, None, 18]
        assert all(new["fetched"] > old["fetched"] for new, old in zip(refreshed, listed, strict=True))
    # The service is down: the list remains, and the refresh reports the error.
    assert cli.error("broker", "collateral", "--refresh")["code"] == "pcs.unreachable"
    assert len(cli.json("broker", "collateral")) == 4
