"""The page that compares this server with TensorFlow Serving is complete, and a test proves each of its lines."""

import ast
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from sealserve.serving.command_line.parameters_pb2 import BatchingParameters, PrometheusConfig
from sealserve.serving.metrics import Metrics
from sealserve.serving.runtime.protos import ModelConfig
from sealserve.serving_flags import FLAGS

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/reference/tensorflow-serving.md"
VERDICTS = {"same", "different", "refused"}

RPCS = ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
ROUTES = (":predict", ":classify", ":regress", "/metadata", "/monitoring/prometheus/metrics")


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[-1] != "shown by"]


def row_of(name: str) -> list[str]:
    found = [row for row in rows() if row[0] == name]
    assert len(found) == 1, name
    return found[0]


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_each_line_has_a_verdict_with_its_reason_and_names_a_test_that_is_there() -> None:
    for row in rows():
        if len(row) == 4:
            what, verdict, how, _ = row
            assert verdict in VERDICTS, what
            assert how or verdict == "same", what
        file, _, function = row[-1].strip("`").partition("::")
        assert function in functions_of(ROOT / "tests" / file), row


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_each_flag_has_a_line_that_says_what_the_server_does(flag: object) -> None:
    (found,) = [known for known in FLAGS if known is flag]
    row = row_of(f"`--{found.name}`")
    if found.ours:
        assert len(row) == 2
    elif found.refused is None:
        assert row[1] in {"same", "different"}
    else:
        assert row[1:3] == ["different" if found.harmless == (True, False) else "refused", found.refused]


@pytest.mark.parametrize("name", RPCS)
def test_each_rpc_has_a_line(name: str) -> None:
    row_of(f"`PredictionService.{name}`")


def test_each_rpc_of_the_other_services_has_a_line() -> None:
    for name in ("ModelService.GetModelStatus", "ModelService.HandleReloadConfigRequest", "SessionService.SessionRun"):
        row_of(f"`{name}`")


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_has_a_line(route: str) -> None:
    assert [row for row in rows() if row[0].startswith(("`POST /", "`GET /")) and row[0].endswith(f"{route}`")]


def test_each_field_of_the_configuration_files_has_a_line() -> None:
    first = {re.split(r"[ ,]", row[0])[0].strip("`") for row in rows()}
    expected = {
        *(f"ModelConfig.{field.name}" for field in ModelConfig.DESCRIPTOR.fields),
        *(f"BatchingParameters.{field.name}" for field in BatchingParameters.DESCRIPTOR.fields),
        *(f"MonitoringConfig.prometheus_config.{field.name}" for field in PrometheusConfig.DESCRIPTOR.fields),
    }
    assert expected <= first


def test_each_metric_has_a_line() -> None:
    first = {row[0].strip("`") for row in rows()}
    ours = set(re.findall(r"`(sealserve_server_\w+)`", PAGE.read_text(encoding="utf-8")))
    metrics = Metrics()
    metrics.certificate_ends(datetime(2026, 11, 25, tzinfo=UTC))
    shown = set(re.findall(r"^# TYPE (\S+)", metrics.page(), re.MULTILINE))
    assert len(ours) == 4
    assert ours <= shown <= first | ours


def test_metrics_that_are_refused_are_not_there() -> None:
    refused = [row[0].strip("`") for row in rows() if row[0].startswith("`:tensorflow:") and row[1] == "refused"]
    assert len(refused) == 3
    for name in (*refused, ":tensorflow:core:", ":tensorflow:data:"):
        assert name not in Metrics().page()
