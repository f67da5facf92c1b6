"""systemd units, as text and as systemd parses them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.part_commands import role_of
from sealserve.cluster.systemd.units import MARKER, render_unit, unit_name
from sealserve.terms import SystemdService
from sealserve.workspace import Workspace

ANALYZE = shutil.which("systemd-analyze")
NAMES = [
    "model", "with space", "100%h", "$HOME ${HOME}", "'single' and \"double\"", r"back\slash \n", "ünïcode 模型",
    "-@:+!;#",
    "[Install]", "a=b", "tab-less,comma; semicolon",
]  # fmt: skip


def rendered(directory: Path, service: SystemdService, *, for_user_manager: bool = False, port: int = 4433) -> str:
    unit = render_unit(
        service, Workspace(directory), user="alice", for_user_manager=for_user_manager, broker_port=port
    )  # fmt: skip
    assert unit.name == unit_name(service, Workspace(directory))
    return unit.content


@pytest.mark.parametrize("service", SystemdService)
@pytest.mark.parametrize("for_user_manager", [False, True])
def test_a_path_cannot_add_a_line_to_a_unit(service: SystemdService, for_user_manager: bool) -> None:
    plain = rendered(Path("/srv/model"), service, for_user_manager=for_user_manager).splitlines()
    assert plain[0] == MARKER
    for name in NAMES:
        other = rendered(Path("/srv") / name, service, for_user_manager=for_user_manager).splitlines()
        assert len(other) == len(plain)
        assert [line.partition("=")[0] for line in other] == [line.partition("=")[0] for line in plain]


def test_content_of_the_units() -> None:
    broker = rendered(Path("/srv/a b%"), SystemdService.BROKER)
    command = f':"{sys.executable}" "-P" "-m" "sealserve" "broker" "run" "--directory" "/srv/a b%%"'
    assert f"\nExecStart={command}\n" in broker
    assert "\nWorkingDirectory=/srv/a b%%\n" in broker
    assert '\nReadWritePaths="/srv/a b%%/.sealserve"\n' in broker
    assert "\nRestart=always\n" in broker
    assert "\nUser=alice\n" in broker
    assert "\nCapabilityBoundingSet=\n" in broker
    assert "\nWantedBy=multi-user.target\n" in broker
    deployment = rendered(Path("/srv/model"), SystemdService.DEPLOYMENT)
    assert '"up" "--keep-release" "--role" "all" "--directory" "/srv/model"\n' in deployment
    assert "\nExecStop=:" in deployment
    assert "\nType=oneshot\nRemainAfterExit=yes\n" in deployment
    # Simulated enclaves have their own mount namespaces.
    assert "RestrictNamespaces" not in deployment
    assert "ProtectSystem" not in deployment
    mine = rendered(Path("/srv/model"), SystemdService.BROKER, for_user_manager=True)
    assert "User=" not in mine
    assert "ProtectSystem" not in mine
    assert "\nWantedBy=default.target\n" in mine
    assert "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in rendered(
        Path("/srv/model"), SystemdService.BROKER, port=443
    )


def test_down_leaves_the_broker_of_a_unit_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "sealserve", "broker", "run", "--directory", str(tmp_path)]
    assert role_of(command, Workspace(tmp_path)) is None


@pytest.mark.parametrize(
    "name", ["new\nline", "car\rriage", "nul\0", "tab\t", "end ", "\udcff", "back\\", "\x85", "\u2028"]
)
@pytest.mark.parametrize("service", SystemdService)
def test_a_path_that_systemd_could_not_read_is_refused(name: str, service: SystemdService) -> None:
    with raises(
        ClusterCode.SERVICE_PATH, match="cannot be written in a systemd unit: expected printable UTF-8"
    ) as caught:
        rendered(Path("/srv") / name, service)
    assert caught.value.code == "service.path"


@pytest.mark.parametrize("folder", ["it's", 'a"b', "a\\b"])
def test_a_program_that_systemd_would_not_start_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", f"/opt/{folder}/bin/python")
    with raises(ClusterCode.SERVICE_PATH, match="in a program's path neither quotes nor backslashes"):
        rendered(Path("/srv/model"), SystemdService.BROKER)


def test_names_differ_for_folders_of_the_same_name() -> None:
    names = {unit_name(SystemdService.BROKER, Workspace(Path(folder) / "model %x")) for folder in ("/a", "/b")}
    assert len(names) == 2
    assert all(name.startswith("sealserve-broker-model-x-") and name.endswith(".service") for name in names)
    assert len(unit_name(SystemdService.BROKER, Workspace(Path("/") / ("ü" * 300)))) < 100


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is missing: `apt-get install systemd`")
@pytest.mark.parametrize("service", SystemdService)
@pytest.mark.parametrize("for_user_manager", [False, True])
def test_systemd_reads_the_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: SystemdService, for_user_manager: bool
) -> None:
    """systemd checks that the program exists, so a path that it parses differently is an error."""
    units = tmp_path / "units"
    units.mkdir()
    written = []
    for index, name in enumerate(NAMES):
        folder = tmp_path / f"{index}{name}"
        folder.mkdir()
        # A program's path may have neither quotes nor backslashes.
        program = (tmp_path if set(name) & set("'\"\\") else folder) / "python3"
        program.unlink(missing_ok=True)
        program.symlink_to("/bin/true")
        monkeypatch.setattr(sys, "executable", str(program))
        written.append(units / f"sealserve-{index}.service")
        content = rendered(folder, service, for_user_manager=for_user_manager)
        written[-1].write_text(content.replace("User=alice\n", ""), encoding="utf-8")
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    line = [str(ANALYZE), "verify", "--man=no", *(["--user"] if for_user_manager else []), *map(str, written)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, env=environment)
    ours = [text for text in done.stderr.splitlines() if "sealserve-" in text]
    assert (done.returncode, ours) == (0, []), done.stderr
