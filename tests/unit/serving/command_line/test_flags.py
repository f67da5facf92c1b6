import pytest
from tests.harness.errors import raises

from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line import flags
from sealserve.serving.command_line.flags import describe, parse
from sealserve.serving_flags import Flag

TABLE = (
    Flag(name="port", default=8500, maximum=65535, help="the port"),
    Flag(name="name", default="default"),
    Flag(name="verbose", default=False),
    Flag(name="later", default=0, harmless=(0,), refused="not built yet"),
    Flag(name="never", default="", refused="it makes no sense"),
)


def test_what_is_not_given_has_its_default() -> None:
    values = parse([], TABLE)
    assert (values["port"], values["name"], values["verbose"]) == (8500, "default", False)
    with pytest.raises(KeyError):
        values["later"]


@pytest.mark.parametrize("arguments", [["--port=1", "--name=x"], ["--port", "1", "--name", "x"]])
def test_both_spellings(arguments: list[str]) -> None:
    values = parse(arguments, TABLE)
    assert (values["port"], values["name"]) == (1, "x")


def test_a_value_may_hold_an_equals_sign_or_be_empty() -> None:
    assert parse(["--name=a=b,c=d"], TABLE)["name"] == "a=b,c=d"
    assert parse(["--name="], TABLE)["name"] == ""


def test_the_last_one_counts() -> None:
    assert parse(["--port=1", "--port=2"], TABLE)["port"] == 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [("--verbose", True), ("--verbose=true", True), ("--verbose=1", True), ("--verbose=False", False)],
)
def test_booleans(argument: str, value: bool) -> None:
    assert parse([argument, "--port=1"], TABLE)["verbose"] is value


def test_an_unknown_flag_names_the_nearest_one() -> None:
    with raises(ServingCode.FLAGS_UNKNOWN, match="The flag --prot is unknown") as caught:
        parse(["--prot=1"], TABLE)
    assert (caught.value.code, caught.value.exit_status) == ("flags.unknown", 2)
    assert caught.value.hint == "Did you mean --port?"
    with raises(ServingCode.FLAGS_UNKNOWN) as caught:
        parse(["--zzzzzzzzzz"], TABLE)
    assert caught.value.hint is not None
    assert "--help" in caught.value.hint


def test_a_refused_flag_says_why_and_takes_the_value_that_changes_nothing() -> None:
    parse(["--later=0"], TABLE)
    with raises(ServingCode.FLAGS_REFUSED, match="--later is not supported by this server: not built yet") as caught:
        parse(["--later=1"], TABLE)
    assert (caught.value.code, caught.value.hint) == ("flags.refused", "Omit it, or give --later=0.")
    with raises(ServingCode.FLAGS_REFUSED) as caught:
        parse(["--never=-1"], TABLE)
    assert caught.value.hint == "Omit it."


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--port=x", "--port is invalid: expected an integer, got 'x'"),
        ("--port=65536", "--port is invalid: expected an integer from 0 to 65535, got 65536"),
        ("--port=-1", "--port is invalid: expected an integer from 0 to 65535, got -1"),
        ("--port", "--port is missing a value"),
        ("--verbose=maybe", "--verbose is invalid: expected true or false, got 'maybe'"),
    ],
)
def test_a_value_of_another_kind(argument: str, message: str) -> None:
    with raises(ServingCode.FLAGS_INVALID_VALUE, match=message) as caught:
        parse([argument, "--verbose"], TABLE)
    assert caught.value.code == "flags.invalid-value"


@pytest.mark.parametrize("argument", ["port", "-port=1", "--"])
def test_what_is_no_flag(argument: str) -> None:
    with raises(ServingCode.FLAGS_UNEXPECTED_ARGUMENT, match=f"The argument '{argument}' is not a flag") as caught:
        parse([argument], TABLE)
    assert caught.value.code == "flags.unexpected-argument"


def test_the_help_lists_what_is_honoured_and_what_is_refused() -> None:
    text = describe(TABLE)
    assert "  --port\n      the port (default: 8500)\n" in text
    assert "  --never: it makes no sense\n" in text


def test_a_flag_is_rendered_as_it_is_typed() -> None:
    assert flags._render(value=True) == "true"
    assert flags._render(3) == "3"
