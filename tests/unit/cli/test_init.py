from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine

from sealserve import deployment, terms
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    """The command line in an empty folder."""
    return CommandLine(capsys, tmp_path / "new")


def test_a_commented_file_with_every_key(bare: CommandLine) -> None:
    result = bare("init")
    file = bare.directory / "sealserve.toml"
    assert result.out == f"Wrote {file}: look at [model], then `sealserve doctor`.\n"
    assert "model make-example" in result.err
    assert deployment.parse(file.read_text()).model.name == "resnet50-v15-fp32"
    assert "# " in file.read_text()
    assert Workspace(bare.directory).root.is_dir()


def test_the_owners_signing_keys_are_created_and_stay(bare: CommandLine) -> None:
    bare.ok("init")
    workspace = Workspace(bare.directory)
    owner = Owner.open(workspace)
    first = owner.index_signer().private_bytes_raw(), owner.audit_signer().private_bytes_raw()
    assert owner.public_key() == owner.index_signer().public_key()
    bare.ok("init", "--force")
    assert (owner.index_signer().private_bytes_raw(), owner.audit_signer().private_bytes_raw()) == first
    assert not workspace.owner.master_key.exists()  # sealserve.toml, which is edited next, says where it is


def test_the_name_comes_from_the_models_file(bare: CommandLine) -> None:
    bare.directory.mkdir()
    (bare.directory / "My Net.pb").touch()
    result = bare("init", "--model", "My Net.pb", "--platform", "sgx")
    assert (result.status, result.err) == (0, "")
    described = deployment.read(bare.directory / "sealserve.toml")
    assert described.model.name == "My-Net"
    assert described.model.path == bare.directory / "My Net.pb"
    assert described.platform is terms.PlatformKind.SGX


def test_a_file_that_is_there_stays(bare: CommandLine) -> None:
    bare.ok("init")
    file = bare.directory / "sealserve.toml"
    file.write_text("[model]\nname = 'mine'\n")
    result = bare("init")
    assert result.status == 2
    assert result.err.startswith(f"error[file.exists]: {file} exists already.\n")
    assert "mine" in file.read_text()
    bare.ok("init", "--force")
    assert "mine" not in file.read_text()


def test_a_name_that_no_servable_can_have_writes_nothing(bare: CommandLine) -> None:
    result = bare("init", "--name", "../evil")
    assert result.status == 2
    assert "error[deployment.invalid-value]" in result.err
    assert "model.name" in result.err
    assert not bare.directory.exists()


def test_a_preset_describes_a_clouds_machines(bare: CommandLine) -> None:
    result = bare("init", "--preset", "alibaba-g7t", "--broker", "broker.example.com")
    assert result.status == 0
    described = deployment.read(bare.directory / "sealserve.toml")
    assert described.platform is terms.PlatformKind.SGX
    assert described.target.cloud is terms.Cloud.ALIBABA_G7T
    assert described.broker.address == "broker.example.com"
    assert described.broker.listen == described.service.listen != "127.0.0.1"


def test_a_preset_says_what_it_cannot_know(bare: CommandLine) -> None:
    result = bare("init", "--preset", "azure-dcsv3", "--platform", "simulated")
    assert "no new subscription gets it" in result.err
    assert "broker.address is this machine's own" in result.err
    assert deployment.read(bare.directory / "sealserve.toml").platform is terms.PlatformKind.SIMULATED
