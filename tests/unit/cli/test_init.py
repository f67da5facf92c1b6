import contextlib
import os
import pty
import sys
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine

from sealserve import deployment, terms
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    """The command line in an empty folder."""
    (tmp_path / "new").mkdir()
    return CommandLine(capsys, tmp_path / "new")


def saved_model(folder: Path) -> Path:
    """Make a folder that looks like a SavedModel: `init` does not read the model itself."""
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    return folder


def test_a_commented_file_and_the_next_steps(bare: CommandLine) -> None:
    result = bare("init")
    file = bare.directory / "sealserve.toml"
    assert result.out == f"Wrote {file}.\n"
    assert result.err == "Next: `sealserve model make-example resnet50-v15-fp32.pb`, then `sealserve up`.\n"
    assert deployment.parse(file.read_text()).model.name == "resnet50-v15-fp32"
    assert "# " in file.read_text()
    assert Workspace(bare.directory).root.is_dir()


@pytest.mark.parametrize("target", terms.TargetKind)
@pytest.mark.parametrize("platform", terms.RuntimeKind)
def test_the_short_file_describes_the_same_as_the_full_one(
    bare: CommandLine, target: terms.TargetKind, platform: terms.RuntimeKind
) -> None:
    saved_model(bare.directory / "flowers")
    file = bare.directory / "sealserve.toml"
    chosen = ["init", "--force", "--model", "flowers", "--target", target, "--platform", platform]
    bare.ok(*chosen, "--full")
    full, every_line = deployment.read(file), file.read_text().splitlines()
    bare.ok(*chosen)
    assert deployment.read(file) == full
    lines = file.read_text().splitlines()
    assert len(lines) < (65 if target is terms.TargetKind.KUBERNETES else 40) < len(every_line)
    assert any(line.startswith("[kubernetes") for line in lines) == (target is terms.TargetKind.KUBERNETES)
    assert any(line.startswith("inputs") for line in every_line)
    assert not any(line.startswith("inputs") for line in lines)  # a SavedModel has signatures


def test_options_instead_of_questions(bare: CommandLine) -> None:
    saved_model(bare.directory / "flowers/7")
    shown = bare.json("init", "--model", "flowers/7", "--target", "docker", "--replicas", "3", "--tls", "one-way",
                      "--listen", "192.0.2.7")  # fmt: skip
    assert shown == {
        "file": str(bare.directory / "sealserve.toml"),
        "model": {"name": "flowers", "version": 7, "path": "flowers/7"},
        "platform": "simulated",
        "target": "docker",
        "replicas": 3,
        "tls": "one-way",
        "listen": "192.0.2.7",
        "next": ["sealserve image build", "sealserve up"],
    }
    described = deployment.read(bare.directory / "sealserve.toml")
    assert (described.target.kind, described.target.replicas) == (terms.TargetKind.DOCKER, 3)
    assert (described.service.tls, described.service.listen) == (terms.TlsMode.ONE_WAY, "192.0.2.7")
    assert described.model.path == bare.directory / "flowers/7"


def test_the_only_model_in_the_folder_is_the_default(bare: CommandLine) -> None:
    saved_model(bare.directory / "flowers")
    assert bare.json("init")["model"] == {"name": "flowers", "version": 1, "path": "flowers"}
    saved_model(bare.directory / "trees")
    assert bare.json("init", "--force")["model"]["path"] == "resnet50-v15-fp32.pb"


@pytest.mark.parametrize("given", ["flowers", "flowers/2", "flowers/2/saved_model.pb"])
def test_a_folder_of_versions_means_its_newest_version(bare: CommandLine, given: str) -> None:
    for number in ("1", "2", "2x"):
        saved_model(bare.directory / "flowers" / number)
    result = bare("init", "--model", given)
    assert deployment.read(bare.directory / "sealserve.toml").model.version == 2
    assert ("The service will serve version 2 of the model, but not: 1." in result.err) == (given == "flowers")


@pytest.mark.parametrize(
    ("given", "code", "message", "hint"),
    [
        ("flowrs", "model.missing", "The model {} does not exist.", "Did you mean {folder}/flowers?"),
        ("net", "model.missing", "The model {} does not exist.", "Did you mean {folder}/net.pb?"),
        ("zzz", "model.missing", "The model {} does not exist.", "Choose a model in {folder}: flowers, net.pb."),
        (
            "a/b/c",
            "model.missing",
            "The model {} does not exist.",
            "Give a SavedModel folder or a frozen graph (.pb). Create",
        ),
        (
            "empty",
            "model.not-a-saved-model",
            "{} is not a SavedModel: it does not contain saved_model.pb.",
            "Give a Saved",
        ),
        ("m.keras", "model.not-a-graph", "{} is a Keras model: expected", "Export it as a SavedModel in Python"),
        ("m.H5", "model.not-a-graph", "{} is a Keras model: expected", "Export it as a SavedModel in Python"),
        ("m.onnx", "model.not-a-graph", "{} is an ONNX model: expected", "Convert it to a TensorFlow SavedModel first"),
    ],
)
def test_a_path_without_a_usable_model_writes_nothing(
    bare: CommandLine, given: str, code: str, message: str, hint: str
) -> None:
    saved_model(bare.directory / "flowers")
    for file in ("net.pb", "m.keras", "m.H5", "m.onnx", "notes.txt"):
        (bare.directory / file).touch()
    (bare.directory / "empty").mkdir()
    error = bare.error("init", "--model", given)
    assert (error["status"], error["code"]) == (2, code)
    assert error["message"].startswith(message.format(bare.directory / given))
    assert error["hint"].startswith(hint.format(folder=bare.directory))
    assert not (bare.directory / "sealserve.toml").exists()
    assert not (bare.directory / ".sealserve").exists()


def test_a_path_that_the_file_cannot_name(bare: CommandLine) -> None:
    saved_model(Path(os.fsdecode(os.fsencode(bare.directory) + b"/m\xff")))
    error = bare.error("init", "--model", os.fsdecode(b"m\xff"))
    assert (error["code"], error["hint"]) == ("deployment.invalid-value", "Rename the model's file or folder.")
    assert not (bare.directory / "sealserve.toml").exists()


def test_a_folder_that_does_not_exist_is_not_created(bare: CommandLine, tmp_path: Path) -> None:
    missing = tmp_path / "no/such"
    error = bare.bare("init", "--directory", missing, "--json").error
    assert error["code"] == "init.folder"
    assert error["message"] == f"The workspace cannot be created: {missing} does not exist."
    assert not missing.parent.exists()
    (tmp_path / "file").touch()
    assert "is not a folder" in bare.bare("init", "--directory", tmp_path / "file").err


def test_a_workspace_is_not_inside_its_model(bare: CommandLine) -> None:
    saved_model(bare.directory / "flowers")
    error = bare.bare("init", "--directory", bare.directory / "flowers", "--model", ".", "--json").error
    assert (error["code"], error["hint"]) == ("init.folder", "Run `sealserve init` in another folder.")


def on_a_terminal(folder: Path, *options: str, answers: str = "") -> tuple[int, str]:
    """Run `init` on a separate terminal; return its exit status and the terminal's content."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "sealserve", "init", *options])  # noqa: S606
    os.write(terminal, answers.encode())
    shown = bytearray()
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while chunk := os.read(terminal, 4096):
            shown += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode().replace("\r\n", "\n")


# pty.fork warns of threads, which other tests of this process may have left; the child replaces itself at once
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_person_is_asked(tmp_path: Path) -> None:
    saved_model(tmp_path / "flowers")
    status, shown = on_a_terminal(tmp_path, answers="flowrs\n\nDockr\ndocker\n0\n3\none-way\n")
    assert status == 0
    assert "SavedModel folder or frozen graph [flowers]: " in shown
    assert "Error: The model flowrs does not exist. Did you mean flowers?" in shown
    assert (
        "Error: The answer is invalid: expected local or docker or kubernetes, got 'Dockr'. Did you mean docker?"
        in shown
    )
    assert "Error: The answer is invalid: expected a number of at least 1, got '0'." in shown
    described = deployment.read(tmp_path / "sealserve.toml")
    assert (described.model.name, described.target.kind, described.target.replicas, described.service.tls) == (
        "flowers", "docker", 3, "one-way",
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [("--yes",), ("--json",), ("--model", "flowers", "--target", "local", "--replicas", "2", "--tls", "two-way")],
)
def test_what_is_given_is_not_asked(tmp_path: Path, options: tuple[str, ...]) -> None:
    saved_model(tmp_path / "flowers")
    status, shown = on_a_terminal(tmp_path, *options)
    assert status == 0
    assert "[flowers]" not in shown
    assert deployment.read(tmp_path / "sealserve.toml").model.name == "flowers"


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
    (bare.directory / "My Net.pb").touch()
    result = bare("init", "--model", "My Net.pb", "--platform", "sgx")
    assert (result.status, result.err.startswith("broker.address is 127.0.0.1. Set it to")) == (0, True)
    described = deployment.read(bare.directory / "sealserve.toml")
    assert described.model.name == "My-Net"
    assert described.model.path == bare.directory / "My Net.pb"
    assert described.platform is terms.PlatformKind.SGX


def test_a_file_that_is_there_stays(bare: CommandLine) -> None:
    bare.ok("init")
    file = bare.directory / "sealserve.toml"
    file.write_text("[model]\nname = 'my-own-model'\n")
    result = bare("init")
    assert result.status == 2
    assert result.err.startswith(f"error[file.exists]: {file} already exists.\n")
    assert "my-own-model" in file.read_text()
    bare.ok("init", "--force")
    assert "my-own-model" not in file.read_text()


def test_a_name_that_no_servable_can_have_writes_nothing(bare: CommandLine) -> None:
    result = bare("init", "--name", "../evil")
    assert result.status == 2
    assert "error[deployment.invalid-value]" in result.err
    assert "model.name" in result.err
    assert list(bare.directory.iterdir()) == []


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
    assert "New subscriptions cannot use it" in result.err
    assert deployment.read(bare.directory / "sealserve.toml").platform is terms.PlatformKind.SIMULATED
