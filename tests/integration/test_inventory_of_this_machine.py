"""An inventory has each file that a running server maps, and not the rest of the machine."""

import sys
from pathlib import Path

import grpc
import pytest
from tests.harness.model_server import Start, free_port, predict

from sealserve.enclave.image_root import ImageRoot
from sealserve.enclave.server_files import LIBRARY_FOLDER, list_server
from sealserve.terms import ServerKind

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


def test_what_a_server_maps_is_in_the_inventory(model: Path, start: Start, tmp_path: Path) -> None:
    monitoring = tmp_path / "monitoring.cfg"
    monitoring.write_text("prometheus_config { enable: true }")
    process = start(
        f"--model_base_path={model}",
        "--dangerous_plaintext",
        "--dangerous_plaintext_rest",
        f"--rest_api_port={free_port()}",
        f"--monitoring_config_file={monitoring}",
    )
    with grpc.insecure_channel(f"127.0.0.1:{process.port()}") as channel:
        assert list(predict(channel, x=[1.0]).outputs["y"].float_val) == [2.5]
    fields = (line.split(maxsplit=5) for line in Path(f"/proc/{process.process.pid}/maps").read_text().splitlines())
    mapped = {found[5] for found in fields if len(found) == 6 and found[5].startswith("/")}

    listed = list_server(ImageRoot(Path("/")), ServerKind.EMBEDDED, program=sys.executable, gramine=None)
    real = {str(Path(path).resolve()) for path in listed}
    opened = {path for path in mapped if ".so" in path}
    assert any("libtensorflow" in path for path in opened)
    assert {str(Path(path).resolve()) for path in opened} <= real
    there = [path for path in Path(LIBRARY_FOLDER).glob("*.so*") if path.is_file()]
    systems = [path for path in listed if path.startswith(f"{LIBRARY_FOLDER}/")]
    assert len(systems) < 100 or len(systems) < len(there) / 2
