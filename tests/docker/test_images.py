"""The built images: no secret in any layer, no package installer, no root user."""

import contextlib
import json
import re
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from testbed.docker.base_image import BASE
from tests.docker.conftest import docker_json
from tests.harness.container_images import build_images
from tests.harness.running import run
from tests.harness.tiny_model import WEIGHTS
from tests.harness.workspaces import Site

from sealserve import terms
from sealserve.cli.demo.exposure import Exposure
from sealserve.cluster import ports
from sealserve.cluster.local.processes import wait_until
from sealserve.containers.engine import Engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

# A private key in PEM, not a mere mention: its first line is followed by a base64 line.
PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\r?\n(?:[A-Za-z-]+: .*\r?\n)*\r?\n?[A-Za-z0-9+/=]{20}"
)
TEXT = 1 << 20


def layers(reference: str) -> Iterator[tuple[str, str, IO[bytes]]]:
    """Yield layer, path and content of every regular file in every layer of an image, including hidden files."""
    with TemporaryDirectory(prefix="sealserve-") as folder:
        saved = Path(folder) / "image.tar"
        subprocess.run(["docker", "save", "--output", str(saved), reference], check=True)
        with tarfile.open(saved) as image:
            manifest = image.extractfile("manifest.json")
            assert manifest is not None
            for name in json.load(manifest)[0]["Layers"]:
                stream = image.extractfile(name)
                assert stream is not None
                with tarfile.open(fileobj=stream) as layer:
                    for member in layer:
                        if member.isreg() and (content := layer.extractfile(member)) is not None:
                            yield name, member.name, content


def own_part(pem: bytes) -> bytes:
    """Return a key without the prefix and suffix that all keys of its type share: libraries contain test keys."""
    key = load_pem_private_key(pem, None)
    other: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    match key:
        case ed25519.Ed25519PrivateKey():
            other = ed25519.Ed25519PrivateKey.generate()
        case ec.EllipticCurvePrivateKey():
            other = ec.generate_private_key(key.curve)
        case rsa.RSAPrivateKey():
            other = rsa.generate_private_key(key.public_key().public_numbers().e, key.key_size)
        case _:
            raise TypeError(type(key))
    form = PrivateFormat.PKCS8 if b"BEGIN PRIVATE" in pem else PrivateFormat.TraditionalOpenSSL
    pairs = zip(pem, other.private_bytes(Encoding.PEM, form, NoEncryption()), strict=False)
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if isinstance(key, rsa.RSAPrivateKey):  # its first line names the algorithm, after lengths that differ
        start = pem.index(b"\n", start)
    return pem[start : pem.index(b"-----END")].rstrip(b"=\n")


@pytest.fixture(scope="module")
def secrets(site: Site) -> list[tuple[str, bytes]]:
    """Secrets of the owner before the images are built: keys of every type, and the model's weights."""
    site.build_enclave(site.build_release().folder)
    found = [("the model", WEIGHTS)]
    for folder in (site.workspace.owner.root, site.workspace.user.root, site.workspace.vendor.root):
        private = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077 == 0)
        found += [(str(path), path.read_bytes()) for path in private if path.suffix in {".key", ".pem"}]
    found = [(name, content) for name, content in found if name == "the model" or b"PRIVATE KEY" in content]
    assert len(found) > 5
    return found


def test_no_layer_holds_a_secret_or_an_installer(
    secrets: list[tuple[str, bytes]], images: list[dict[str, Any]]
) -> None:
    search = Exposure([(name, own_part(key) if b"PRIVATE KEY" in key else key) for name, key in secrets])
    seen: set[str] = set()
    for image in images:
        for layer, path, content in layers(image["reference"]):
            where = f"{image['name']}: {path}"
            assert not path.startswith(("build/", "workspace/")), where
            assert "/site-packages/pip/" not in path, where
            assert not path.endswith(("pip.conf", ".netrc", "id_rsa", "id_ed25519")), where
            if f"{layer} {path}" in seen or "tensorflow/lib" in path:  # TensorFlow's own library is a gigabyte
                continue
            seen.add(f"{layer} {path}")
            data = content.read()
            assert PRIVATE_KEY.search(data[:TEXT]) is None, where
            assert search.search_bytes(data, Path(path)) is None, where
    assert len(seen) > 1000


def test_the_search_finds_a_planted_secret(secrets: list[tuple[str, bytes]]) -> None:
    """A search that cannot find anything would prove nothing."""
    for name, content in secrets[1:]:
        if b"PRIVATE KEY" in content:
            assert PRIVATE_KEY.search(content) is not None, name
    assert Exposure(secrets).search_bytes(b"x" * 100 + secrets[0][1][:64], Path("layer")) is not None


def test_images_run_without_root_and_have_labels(images: list[dict[str, Any]]) -> None:
    assert [image["name"] for image in images] == ["broker", "client", "front", "server-simulated"]
    for image in images:
        config = docker_json("image", "inspect", image["reference"])[0]["Config"]
        assert config["User"] == "65532:65532"
        assert config["Labels"]["org.opencontainers.image.base.name"] == BASE
        assert not any("PASSWORD" in value or "TOKEN" in value or "PIP" in value for value in config["Env"])
        bill = json.loads(Path(image["sbom"]).read_text())
        names = {item["name"] for item in bill["components"]}
        assert {"libc6", "sealserve-test-base"} <= names
        assert ("grpcio" in names) == (image["name"] != "front")
        assert ("tensorflow_cpu" in names) == (image["name"] == "server-simulated")
        assert f"BASE:{docker_json('image', 'inspect', BASE)[0]['Id']}" in {
            item["bom-ref"] for item in bill["components"]
        }


@pytest.mark.parametrize("user", ["65532:65532", "1000680000:0"])
def test_an_image_starts_without_network_or_writable_files_as_any_user(user: str, images: list[dict[str, Any]]) -> None:
    confined = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    confined += ["--user", user]  # the second is how OpenShift chooses: a number of the namespace's, in the group root
    for image in images:
        arguments = ["-v"] if image["name"] == "front" else ["--version"]
        done = subprocess.run(
            ["docker", "run", *confined, image["reference"], *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("nginx version" if image["name"] == "front" else "sealserve ") in done.stdout + done.stderr


def test_the_recipe_for_gramine_builds(site: Site, images: list[dict[str, Any]], engine: Engine) -> None:
    """Gramine's image is not available here. A plain base replaces it, so this tests only the recipe."""
    del images, engine
    # TensorFlow Serving's binary does not support TLS for REST.
    text = site.workspace.deployment_file.read_text().replace("rest = true", "rest = false")
    with TemporaryDirectory(prefix="sealserve-") as folder:
        binary = Path(folder) / "context" / "tensorflow_model_server"
        binary.parent.mkdir()
        binary.write_bytes(b"\x7fELF: a stand-in")
        (binary.parent / "Dockerfile").write_text("FROM scratch\nCOPY tensorflow_model_server /usr/bin/\n")
        subprocess.run(["docker", "build", "--tag", "sealserve-test-serving:1", str(binary.parent)], check=True,
                       capture_output=True)  # fmt: skip
        for kind in terms.ServerKind:
            there = Path(folder) / kind.value
            there.mkdir()
            (there / "sealserve.toml").write_text(text.replace('kind = "embedded"', f'kind = "{kind.value}"'))
            (built,) = build_images(
                "server-gramine", "--platform", "sgx", "--gramine", BASE, "--tensorflow-serving",
                "sealserve-test-serving:1", "--directory", there,
            )  # fmt: skip
            inventory = json.loads(Path(built["inventory"]).read_text())
            assert inventory["server"] == kind.value
            assert inventory["gramine"] is None


@contextlib.contextmanager
def registry() -> Iterator[int]:
    """A real registry on this machine, from its Debian package."""
    port = ports.find_free()
    with TemporaryDirectory(prefix="sealserve-") as folder:
        config = Path(folder) / "config.yml"
        config.write_text(
            f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
            f"http:\n  addr: 127.0.0.1:{port}\nlog:\n  level: error\n"
        )
        with subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:  # fmt: skip
            try:
                assert wait_until(lambda: _listens(port), seconds=30)
                yield port
            finally:
                process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_images_are_pushed_to_a_registry(site: Site, images: list[dict[str, Any]]) -> None:
    front = next(image for image in images if image["name"] == "front")
    with TemporaryDirectory(prefix="sealserve-") as folder, registry() as port:
        there = Path(folder)
        text = site.workspace.deployment_file.read_text()
        prefix = f"127.0.0.1:{port}/team/sealserve"
        (there / "sealserve.toml").write_text(text.replace('prefix = "sealserve"', f'prefix = "{prefix}"'))
        missing = run("image", "push", "front", "--json", "--directory", there)
        assert missing.json["error"]["code"] == "image.missing"
        subprocess.run(["docker", "tag", front["reference"], f"{prefix}-front:{front['reference'].rpartition(':')[2]}"],
                       check=True)  # fmt: skip
        done = run("image", "push", "front", "--json", "--directory", there)
        assert done.status == 0, done.out + done.err
        digest = done.json[0]["digest"]
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
        subprocess.run(["docker", "pull", "--quiet", f"{prefix}-front@{digest}"], check=True, capture_output=True)
        assert docker_json("image", "inspect", f"{prefix}-front@{digest}")[0]["Id"] == front["id"]
