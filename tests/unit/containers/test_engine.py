"""Conversion of the Docker engine's answers."""

from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.fake_docker import IMAGE, FakeDocker

from sealserve.containers.codes import ContainersCode
from sealserve.containers.engine import Engine, EngineAbsentError, EngineRefusedError, Image


def test_no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises(ContainersCode.DOCKER_MISSING, match="program `docker` is not installed") as caught:
        Engine()
    assert caught.value.code == "docker.missing"
    assert "apt-get install docker.io" in str(caught.value.hint)


@pytest.mark.parametrize(
    "error",
    [
        "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
        "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
    ],
)
def test_an_engine_out_of_reach(docker: FakeDocker, engine: Engine, error: str) -> None:
    docker.answer("version", err=f"{error}\n", status=1)
    with raises(ContainersCode.DOCKER_UNREACHABLE, match="does not answer") as caught:
        engine.require()
    assert caught.value.code == "docker.unreachable"
    assert error in caught.value.message


def test_an_engine_that_refuses(docker: FakeDocker, engine: Engine) -> None:
    docker.answer("network create", err="Error response from daemon: Pool overlaps\n\nRun 'docker x'\n", status=1)
    with pytest.raises(EngineRefusedError, match=r"^`docker network create` failed: Pool overlaps$") as caught:
        engine.run("network", "create", "--subnet", "10.0.0.0/8", "x")
    assert caught.value.code == "docker.refused"


def test_a_reason_of_several_lines_is_told_whole(docker: FakeDocker, engine: Engine) -> None:
    told = "Error response from daemon: Failed to Setup IP tables: No chain by that name.\n (exit status 1))\n"
    docker.answer("network create", err=f"warning: x\n{told}", status=1)
    with pytest.raises(EngineRefusedError, match=r"failed: Failed to .* No chain by that name\. \(exit status 1\)\)$"):
        engine.run("network", "create", "x")


def test_missing_objects_are_skipped(docker: FakeDocker, engine: Engine) -> None:
    docker.answer("image inspect here", [IMAGE])
    docker.answer("image inspect", err="Error: No such image: x\n", status=1)
    assert engine.image("gone") is None
    assert engine.image("here") == Image(
        reference="here", id="sha256:aa", digests=("r/x@sha256:bb",), size=7, created=IMAGE["Created"],  # type: ignore[arg-type]
        layers=("sha256:cc",),
    )  # fmt: skip
    with pytest.raises(EngineAbsentError) as caught:
        engine.run("image", "inspect", "gone")
    assert caught.value.code == "docker.absent"


def test_lines_are_passed_on(docker: FakeDocker, engine: Engine) -> None:
    docker.answer("build ok", "Step 1\nStep 2\n")
    docker.answer("build bad", "Step 1\n", err="The command returned a non-zero code: 1\n", status=1)
    seen: list[str] = []
    engine.watch("build", "ok", on_line=seen.append)
    assert seen == ["Step 1", "Step 2"]
    with pytest.raises(EngineRefusedError, match="returned a non-zero code: 1"):
        engine.watch("build", "bad", on_line=seen.append)


def test_unpacking_leaves_no_container(docker: FakeDocker, engine: Engine, tmp_path: Path) -> None:
    docker.answer("container create", "c1\n")
    docker.answer("container export", "this is no tar archive" * 100)
    docker.answer("container rm --force --volumes c1")
    folder = tmp_path / "root"
    folder.mkdir()
    with pytest.raises(EngineRefusedError, match="cannot be unpacked"), engine.unpacked("x", folder):
        pass
    assert docker.asked[-1] == ["container", "rm", "--force", "--volumes", "c1"]
