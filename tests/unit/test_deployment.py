from pathlib import Path

import pytest

from sealserve import deployment

MINIMAL = '[model]\nname = "resnet50"\n'


def test_defaults() -> None:
    parsed = deployment.parse(MINIMAL)
    assert parsed.service.name == "grpc.tf-serving.service.com"
    assert parsed.service.tls is deployment.TlsMode.TWO_WAY
    assert parsed.broker.port == 4433
    assert parsed.tcb.preset == "strict"


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("[model]\nname = 'm'\npaht = 'x'\n", "model.paht", "path"),
        (MINIMAL + "[servce]\nport = 1\n", "servce", "service"),
        (MINIMAL + "[service]\ntlss = 'two-way'\n", "service.tlss", "tls"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(text: str, key: str, near: str) -> None:
    with pytest.raises(deployment.DeploymentKeyError, match="unknown key") as caught:
        deployment.parse(text)
    assert caught.value.code == "deployment.unknown-key"
    assert repr(key) in caught.value.message
    assert caught.value.hint == f"Did you mean {near!r}?"


def test_a_key_like_none_lists_the_known_ones() -> None:
    with pytest.raises(deployment.DeploymentKeyError, match="Known here: kind, replicas"):
        deployment.parse(MINIMAL + "[target]\nzzz = 1\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'model' is missing"),
        ("[model]\n", "'model.name' is missing"),
        (MINIMAL + "[service]\nport = 70000\n", "service.port"),
        (MINIMAL + "[service]\nname = 'a.b'\nclient_name = 'a.b'\n", "must differ"),
        (MINIMAL + "[target]\nreplicas = 0\n", "target.replicas"),
        ("[model]\nname = '../evil'\n", "model.name"),
        (MINIMAL + "[service]\nname = 'x;y'\n", "service.name"),
    ],
)
def test_values_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(deployment.DeploymentValueError) as caught:
        deployment.parse(text)
    assert caught.value.code == "deployment.invalid-value"
    assert message in caught.value.message


def test_no_toml() -> None:
    with pytest.raises(deployment.DeploymentSyntaxError, match="not valid TOML") as caught:
        deployment.parse("model = [")
    assert caught.value.code == "deployment.syntax"


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(deployment.DeploymentMissingError, match="sealserve init") as caught:
        deployment.read(tmp_path / "sealserve.toml")
    assert caught.value.code == "deployment.missing"
    (tmp_path / "sealserve.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(deployment.DeploymentSyntaxError, match="not UTF-8"):
        deployment.read(tmp_path / "sealserve.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "sealserve.toml").write_text('[model]\nname = "m"\npath = "models/m.pb"\n')
    assert deployment.read(tmp_path / "sealserve.toml").model.path == tmp_path / "models/m.pb"


def test_the_example_says_what_the_defaults_say() -> None:
    parsed = deployment.parse(deployment.write_example({"model": {"name": "resnet50", "path": "resnet50.pb"}}))
    model = deployment.ModelSection(name="resnet50", path=Path("resnet50.pb"))
    assert parsed == deployment.Deployment(model=model)


def test_the_example_takes_settings() -> None:
    settings = {"model": {"name": "m"}, "service": {"tls": "one-way"}, "broker": {"port": 9001}}
    parsed = deployment.parse(deployment.write_example(settings, heading="For a test."))
    assert parsed.service.tls is deployment.TlsMode.ONE_WAY
    assert parsed.broker.port == 9001
    assert parsed.model.path is None
