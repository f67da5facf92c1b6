"""Contents of an image's build context, and of its records."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.harness.errors import raises
from tests.harness.fake_docker import IMAGE, FakeDocker

from sealserve import __version__
from sealserve.containers.build import BuiltImage, build_image, push_image, read_record, record_image
from sealserve.containers.codes import ContainersCode
from sealserve.containers.contents import Ecosystem, Package, read_packages
from sealserve.containers.context import build_context
from sealserve.containers.engine import Engine, EngineRefusedError, Image
from sealserve.containers.recipes import Bases, ImageName, Packages, images_for, recipe, reference
from sealserve.containers.requirements import fetch_wheels, locked_versions, requirements
from sealserve.containers.sbom import bill_of_materials
from sealserve.terms import RuntimeKind, ServerKind

EMPTY_TAR = "\0" * 10_240
BASES = Bases(debian="base:1", gramine="gramine:2", tensorflow_serving="serving@sha256:33")


def quietly(_text: str) -> None:
    pass


def needed_by(package: str) -> set[str]:
    """Return the packages that a package needs for its import, including indirect ones, on this machine."""
    needed: set[str] = set()
    for text in metadata.requires(package) or ():
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and name not in needed:
            needed |= {name} | needed_by(name)
    return needed


def test_each_image_has_a_dockerfile_that_takes_its_bases(tmp_path: Path) -> None:
    for name in ImageName:
        for server in ServerKind:
            made = recipe(name, bases=BASES, server=server)
            with build_context(made, tmp_path) as context:
                dockerfile = (context / "Dockerfile").read_text()
            arguments = {line.split("=")[0].removeprefix("ARG ") for line in dockerfile.splitlines() if "ARG " in line}
            assert arguments == set(made.bases), made
            assert "USER 65532:65532" in dockerfile
            assert "--mount" not in dockerfile  # the classic builder does not support RUN --mount
            assert ("pip" in dockerfile) == (made.packages is not Packages.NONE)
            assert dockerfile.count("--no-index") == dockerfile.count("--require-hashes")


def test_a_deployment_needs_four_images() -> None:
    assert images_for(RuntimeKind.SGX)[-1] is ImageName.SERVER_GRAMINE
    assert images_for(RuntimeKind.GRAMINE_DIRECT)[-1] is ImageName.SERVER_GRAMINE
    assert images_for(RuntimeKind.SIMULATED)[-1] is ImageName.SERVER_SIMULATED
    assert reference("r.example:5000/a/b", ImageName.FRONT, "1") == "r.example:5000/a/b-front:1"


def test_the_servers_image_gets_no_more_of_tensorflow_than_it_needs() -> None:
    assert requirements(Packages.NONE) == ""
    base, server = locked_versions(Packages.BASE), locked_versions(Packages.SERVER)
    broker = locked_versions(Packages.BROKER)
    assert (
        broker.keys() - base.keys() == {"asn1crypto", "python-pkcs11"} == needed_by("python-pkcs11") | {"python-pkcs11"}
    )
    assert {name: broker[name] for name in base} == base
    assert recipe(ImageName.BROKER, bases=BASES).packages is Packages.BROKER
    assert recipe(ImageName.CLIENT, bases=BASES).packages is Packages.BASE
    http = {"aiohttp", *needed_by("aiohttp")} - set(base)
    assert set(server) - set(base) == {"tensorflow-cpu", "tensorflow-serving-api"} | http
    assert "grpcio" in base
    assert all("--hash=sha256:" in entry for entry in requirements(Packages.SERVER).split("\n\n"))


def test_a_context_has_sealserve_and_the_locked_wheels_and_nothing_else(tmp_path: Path) -> None:
    version = locked_versions(Packages.BASE)["grpcio"]
    wanted = f"grpcio-{version}-cp311-cp311-manylinux2014_x86_64.whl"
    for name in (wanted, "grpcio-1.0-cp311-cp311-any.whl", "evil-1.0-py3-none-any.whl", "notes.txt"):
        (tmp_path / name).write_bytes(b"wheel")
    with build_context(recipe(ImageName.BROKER, bases=BASES), tmp_path) as context:
        assert sorted(path.name for path in context.iterdir()) == [
            "Dockerfile",
            "package",
            "requirements.txt",
            "wheels",
        ]
        assert [path.name for path in (context / "wheels").iterdir()] == [wanted]
        files = {str(path.relative_to(context / "package")) for path in (context / "package").rglob("*")}
        assert f"sealserve-{__version__}.dist-info/METADATA" in files
        assert "sealserve/broker/server.py" in files
        assert not any("__pycache__" in name for name in files)
    assert not context.exists()


def test_wheels_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sealserve.containers.requirements._lock", lambda _: "no-such-thing==1 \\\n    --hash=sha256:00\n"
    )
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with raises(ContainersCode.IMAGE_WHEELS, match=r"cannot be downloaded: .*no-such-thing==1") as caught:
        fetch_wheels(Packages.BASE, tmp_path / "wheels", python="3.11")
    assert caught.value.code == "image.wheels"
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_pip_in_this_folder_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.py").write_text("open('started', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sealserve.containers.requirements._lock", lambda _: "no-such-thing==1 --hash=sha256:00\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with raises(ContainersCode.IMAGE_WHEELS):
        fetch_wheels(Packages.BASE, tmp_path / "wheels", python="3.11")
    assert not (tmp_path / "started").exists()


def test_pip_asks_no_questions_and_its_reason_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$@" >"$0.asked"\ncat\necho "$0: No module named pip" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with raises(ContainersCode.IMAGE_WHEELS, match=r"cannot be downloaded: .*No module named pip") as caught:
        fetch_wheels(Packages.BASE, tmp_path / "wheels", python="3.11")
    assert "Install pip" in str(caught.value.hint)
    assert "--no-input" in (tmp_path / "python.asked").read_text().split()


def test_an_interrupted_pip_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(KeyboardInterrupt):
        fetch_wheels(Packages.BASE, tmp_path, python="3.11")
    assert list(tmp_path.iterdir()) == []


def image_root(folder: Path) -> Path:
    (folder / "var/lib/dpkg").mkdir(parents=True)
    (folder / "var/lib/dpkg/status").write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    (folder / "usr/lib").mkdir(parents=True)
    (folder / "usr/lib/os-release").write_text('NAME="x"\nID=ubuntu\nVERSION_ID="24.04"\n')
    records = folder / "opt/sealserve/lib/python3.11/site-packages/Some_Thing-2.0.dist-info"
    records.mkdir(parents=True)
    (records / "METADATA").write_text("Metadata-Version: 2.1\nName: Some_Thing\nVersion: 2.0\n\nText: no field\n")
    return folder


def test_what_is_installed_is_read_from_the_files(tmp_path: Path) -> None:
    found = read_packages(image_root(tmp_path))
    assert found == (
        Package(Ecosystem.DEB, "libc6", "2.36-9+deb12u9", "ubuntu", "amd64"),
        Package(Ecosystem.PYPI, "Some_Thing", "2.0"),
    )
    assert [package.purl for package in found] == [
        "pkg:deb/ubuntu/libc6@2.36-9%2Bdeb12u9?arch=amd64",
        "pkg:pypi/some-thing@2.0",
    ]
    assert read_packages(tmp_path / "elsewhere") == ()


def test_no_link_of_an_image_leads_out_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "lib/python3.11/site-packages/Own-1.dist-info").mkdir(parents=True)
    (outside / "lib/python3.11/site-packages/Own-1.dist-info/METADATA").write_text("Name: Own\nVersion: 1\n")
    (outside / "status").write_text("Package: own\nStatus: install ok installed\nVersion: 1\n")
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").symlink_to(outside / "status")
    (root / "opt").mkdir()
    (root / "opt/own").symlink_to(outside)
    assert read_packages(root) == ()


def test_invalid_package_records_are_skipped(tmp_path: Path) -> None:
    root = image_root(tmp_path)
    whole = read_packages(root)
    packages = root / "opt/sealserve/lib/python3.11/site-packages"
    for name in ("nameless", "waits"):
        (packages / f"{name}.dist-info").mkdir()
    (packages / "nameless.dist-info/METADATA").write_text("Version: 1\n")
    os.mkfifo(packages / "waits.dist-info/METADATA")
    with (root / "var/lib/dpkg/status").open("a") as stream:
        stream.write("\nPackage: x\nStatus: install ok installed\n")
    with (root / "usr/lib/os-release").open("ab") as stream:
        stream.write(b"NAME=\xff\n")
    assert read_packages(root) == whole


def test_a_bill_of_materials(tmp_path: Path) -> None:
    image = Image(reference="r.example:5000/x-front:1", id="sha256:aa", digests=(), created="2026-01-02T03:04:05.6Z",
                  size=1, layers=())  # fmt: skip
    base = Image(reference="debian:12", id="sha256:bb", digests=("debian@sha256:cc",), size=1, created="", layers=())
    bill = json.loads(bill_of_materials(image, {"BASE": base}, read_packages(image_root(tmp_path))))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    datetime.fromisoformat(bill["metadata"]["timestamp"])
    assert bill["metadata"]["component"]["name"] == "r.example:5000/x-front"
    assert bill["metadata"]["component"]["version"] == "1"
    (on,) = [item for item in bill["components"] if item["type"] == "container"]
    assert (on["name"], on["version"], on["purl"]) == ("debian", "12", "pkg:oci/debian@sha256%3Acc")
    assert {"name": "sealserve:repository-digest", "value": "debian@sha256:cc"} in on["properties"]
    references = [item["bom-ref"] for item in bill["components"]]
    assert len(set(references)) == len(references) == 3
    assert bill["dependencies"][0]["dependsOn"] == sorted(references)
    assert bill_of_materials(image, {"BASE": base}, ()) == bill_of_materials(image, {"BASE": base}, ())


@pytest.mark.parametrize(
    ("created", "told"),
    [
        ("2026-01-02T03:04:05.678901234Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
        (None, None),
    ],
)
def test_when_an_image_was_made(docker: FakeDocker, engine: Engine, created: str | None, told: str | None) -> None:
    docker.answer("image inspect", [{name: value for name, value in (IMAGE | {"Created": created}).items() if value}])
    image = engine.image("x:1")
    assert image is not None
    assert json.loads(bill_of_materials(image, {}, ()))["metadata"].get("timestamp") == told


def test_a_base_that_cannot_be_pulled(docker: FakeDocker, engine: Engine, tmp_path: Path) -> None:
    docker.answer("image inspect", err="Error: No such image\n", status=1)
    docker.answer("pull", err="Error response from daemon: Get https://r/v2/: no route to host\n", status=1)
    made = recipe(ImageName.FRONT, bases=BASES)
    with pytest.raises(EngineRefusedError, match=r"base:1 is missing and cannot be pulled.*no route to host") as caught:
        build_image(engine, made, "x-front:1", wheels=tmp_path, records=tmp_path, tell=quietly)
    assert "--base" in str(caught.value.hint)


def test_a_base_of_another_distribution(docker: FakeDocker, engine: Engine, tmp_path: Path) -> None:
    docker.answer("image inspect", [IMAGE])
    docker.answer("run --rm --network none --entrypoint cat base:1", 'ID=alpine\nPRETTY_NAME="Alpine Linux v3.20"\n')
    made = recipe(ImageName.BROKER, bases=BASES)
    with raises(ContainersCode.IMAGE_BASE_PYTHON, match=r"base:1 is not supported: got Alpine Linux v3.20") as caught:
        build_image(engine, made, "x-broker:1", wheels=tmp_path, records=tmp_path, tell=quietly)
    assert caught.value.code == "image.base-python"


def test_a_missing_image_is_not_pushed(docker: FakeDocker, engine: Engine) -> None:
    docker.answer("image inspect", err="Error: No such image\n", status=1)
    with raises(ContainersCode.IMAGE_MISSING, match="no image x-front:1") as caught:
        push_image(engine, "x-front:1", tell=quietly)
    assert caught.value.code == "image.missing"


def recorded(docker: FakeDocker, engine: Engine, reference: str, records: Path) -> BuiltImage:
    """Write a record of the image `front` as if it had been built here. The image has no files."""
    docker.answer("container create", "c1\n")
    docker.answer("container export", EMPTY_TAR)
    docker.answer("container rm")
    return record_image(engine, ImageName.FRONT, reference, bases={}, records=records, tell=quietly)


@pytest.mark.parametrize(
    ("reference", "digest"),
    [
        ("r.example:5000/x:1", "sha256:02"),
        ("r.example:5000/x@sha256:02", "sha256:02"),
        ("docker.io/library/x:1", "sha256:03"),
        ("elsewhere.example/x", None),
    ],
)
def test_the_digest_is_that_of_the_registry_it_is_named_after(
    docker: FakeDocker, engine: Engine, tmp_path: Path, reference: str, digest: str | None
) -> None:
    names = ["other.example/x@sha256:01", "r.example:5000/x@sha256:02", "x@sha256:03"]
    docker.answer("image inspect", [IMAGE | {"RepoDigests": names}])
    assert recorded(docker, engine, reference, tmp_path).digest == digest


def test_the_image_that_is_measured_is_the_one_that_is_written_down(
    docker: FakeDocker, engine: Engine, tmp_path: Path
) -> None:
    docker.answer("image inspect", [IMAGE])
    assert recorded(docker, engine, "x:1", tmp_path).id == "sha256:aa"
    (created,) = (command for command in docker.asked if command[:2] == ["container", "create"])
    assert created[-2:] == ["sha256:aa", "-"]  # the name may refer to a different image by now


def test_records_move_with_their_folder(docker: FakeDocker, engine: Engine, tmp_path: Path) -> None:
    docker.answer("image inspect", [IMAGE])
    recorded(docker, engine, "x:1", tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    known = read_record(ImageName.FRONT, tmp_path / "after")
    assert known is not None
    assert known.sbom == tmp_path / "after/front.cdx.json"
    known.sbom.unlink()
    assert read_record(ImageName.FRONT, tmp_path / "after") is None


def test_a_record_is_removed_before_its_files_change(
    docker: FakeDocker, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.answer("image inspect", [IMAGE])
    recorded(docker, engine, "x:1", tmp_path)

    def interrupted(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        raise KeyboardInterrupt

    monkeypatch.setattr("sealserve.containers.build.write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorded(docker, engine, "x:1", tmp_path)
    assert read_record(ImageName.FRONT, tmp_path) is None


def test_unreadable_records_count_as_missing(tmp_path: Path) -> None:
    assert read_record(ImageName.FRONT, tmp_path) is None
    for content in (b"", b"[]", b'{"name": "front"}', b"\xff"):
        (tmp_path / "front.json").write_bytes(content)
        assert read_record(ImageName.FRONT, tmp_path) is None


def test_the_servers_image_has_each_package_that_an_attested_enclave_imports() -> None:
    """The server opens TensorFlow's library only when it loads a model, so TensorFlow is not imported here."""
    imports = "import sealserve.attester.program, sealserve.serving.server"
    script = f"import sys; before = set(sys.modules); {imports}; print(*sys.modules.keys() - before)"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    modules = {module.partition(".")[0] for module in done.stdout.split()}
    assert {"OpenSSL", "cryptography", "grpc", "sealserve"} <= modules
    locked, owners = locked_versions(Packages.SERVER).keys(), metadata.packages_distributions()
    for module in (modules & owners.keys()) - {"grpc_tools"}:  # gRPC imports it only if it is installed
        # Several packages can share the name of a module, as the packages of Google do.
        names = {re.sub(r"[-_.]+", "-", name).lower() for name in owners[module]}
        assert names & {*locked, "sealserve"}, module
