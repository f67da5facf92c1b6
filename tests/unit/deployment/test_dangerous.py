"""Every setting that weakens security is found, on every target."""

import json

import pytest
from tests.harness.errors import raises

from sealserve import deployment
from sealserve.deployment.codes import DeploymentCode
from sealserve.deployment.dangerous import dangerous_settings

MODELS = '[[model]]\nname = "a"\n[[model]]\nname = "b"\ndangerous_operations = ["Print", "ReadFile"]\n'
BROKER = "[kubernetes.broker]\ndangerous_inside = true\n"


def test_the_defaults_are_not_dangerous() -> None:
    assert dangerous_settings(deployment.parse(deployment.write_example({"model": {"name": "a"}}))) == ()


@pytest.mark.parametrize("target", ["local", "docker", "kubernetes"])
def test_each_dangerous_setting_is_found_with_its_value(target: str) -> None:
    parsed = deployment.parse(f'{MODELS}{BROKER}[target]\nkind = "{target}"\n')
    assert [(found.key, found.value, found.model) for found in dangerous_settings(parsed)] == [
        ("model.dangerous_operations", "Print, ReadFile", "b"),
        ("kubernetes.broker.dangerous_inside", "true", ""),
    ]


def test_the_warning_names_the_key_the_value_and_the_meaning() -> None:
    operations, broker = map(str, dangerous_settings(deployment.parse(MODELS + BROKER)))
    assert operations == (
        "sealserve.toml weakens security: model.dangerous_operations = Print, ReadFile (model 'b'). "
        "Meaning: operations that `sealserve model lint` rejects and that this model may still contain."
    )
    assert broker == (
        "sealserve.toml weakens security: kubernetes.broker.dangerous_inside = true. "
        "Meaning: whether the broker runs in the cluster, so that its hosts hold the keys; simulated enclaves only."
    )


@pytest.mark.parametrize("names", [["a b"], [""], [f"Op{number}" for number in range(33)]])
def test_operations_that_no_release_statement_can_name_are_refused(names: list[str]) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match="dangerous_operations"):
        deployment.parse(f'[[model]]\nname = "a"\ndangerous_operations = {json.dumps(names)}\n')
