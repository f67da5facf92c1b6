import pytest
from tests.harness.command_line import CommandLine

from sealserve.host import qcnl
from sealserve.terms import Cloud


def test_the_clouds_are_listed_with_what_has_to_be_known_today(cli: CommandLine) -> None:
    text = cli.bare("cloud", "list").out
    assert all(cloud in text for cloud in Cloud)
    assert "New subscriptions cannot use it since 2026-11-01" in text
    assert [row["cloud"] for row in cli.bare("cloud", "list", "--json").json] == list(Cloud)


def test_what_is_known_of_a_cloud(cli: CommandLine) -> None:
    lines = [line.strip() for line in cli.bare("cloud", "show", "tencent-m6ce").out.splitlines()]
    assert "image          UNSUPPORTED: TencentOS Server 3.1 (TK4), Linux 5.4.119" in lines
    assert "not verified: no source was found" in lines
    assert any(line.endswith("(2026-06-18), a report") for line in lines)
    assert "EPC          sgx.intel.com/epc, in units of 1 B" in lines
    assert lines[-1] == "guide          docs/how-to/tencent-m6ce.md"
    known = cli.bare("cloud", "show", "alibaba-g7t", "--json").json
    assert known["kubernetes"]["epc_resource"]["value"] == "alibabacloud.com/sgx_epc_MiB"
    assert known["kubernetes"]["epc_unit"] == 2**20
    assert known["pccs"]["source"]["dated"] == "2024-06-19"
    assert known["ports"]["4433"].endswith("the owner's broker")


def test_the_file_for_aesmd(cli: CommandLine) -> None:
    text = cli.bare("cloud", "qcnl", "alibaba-g7t", "--region", "cn-hangzhou").out
    assert qcnl.parse(text).pccs_url == "https://sgx-dcap-server-vpc.cn-hangzhou.aliyuncs.com/sgx/certification/v4/"
    refused = cli.bare("cloud", "qcnl", "tencent-m6ce", "--region", "mars")
    assert refused.status == 2
    assert refused.err.splitlines()[0] == "error[cloud.region]: The cloud has no attestation service in region 'mars'."
    assert refused.err.splitlines()[1].strip() == "Set --region to one of bj, sh, gz."


@pytest.mark.parametrize("verb", ["show", "qcnl"])
def test_an_unknown_cloud_is_a_usage_error(cli: CommandLine, verb: str) -> None:
    assert cli.bare("cloud", verb, "nimbus").status == 2
