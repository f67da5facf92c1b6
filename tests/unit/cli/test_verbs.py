import json
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from sealserve.cli.application import VERBS
from sealserve.cli.context import Context
from sealserve.cli.output import Output, Table
from sealserve.cli.verbs import Verbs

ROOT = Path(__file__).parents[3]


def test_the_shared_options_of_a_verb_arrive_as_one_parameter() -> None:
    app = Verbs()
    seen: list[tuple[str, Context]] = []

    @app.command()
    def verb(context: Context, name: str = "none") -> None:
        """Do something."""
        seen.append((name, context))

    command = get_command(app)
    assert [parameter.name for parameter in command.params] == ["name", "directory", "as_json"]
    command(["--name", "a", "-C", "b", "--json"], standalone_mode=False)
    command([], standalone_mode=False)
    assert seen == [("a", Context(directory=Path("b"), as_json=True)), ("none", Context())]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_result_is_json_for_programs_or_text_for_people(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    output = Output(as_json=as_json)
    output.show({"a": 1}, "Done.", {"name": "x", "length": 2}, Table(("A", "B"), [(1, 2)]), Table(("C",), []))
    output.say("Next: something.")
    shown = capsys.readouterr()
    if as_json:
        assert (json.loads(shown.out), shown.err) == ({"a": 1}, "")
    else:
        assert shown.out == "Done.\nname    x\nlength  2\n\nA  B\n1  2\nNo entries.\n"
        assert shown.err == "Next: something.\n"


def test_the_contract_of_verbs_names_each() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (independent,) = [contract["modules"] for contract in contracts if contract["type"] == "independence"]
    assert sorted(independent) == sorted(f"sealserve.cli.{verb.module}" for verb in VERBS.values())
