"""Hostile deployment files: each causes a sealserve error, without delay."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve import deployment
from sealserve.deployment.codes import DeploymentCode
from sealserve.errors import InputError

MINIMAL = '[model]\nname = "m"\n'
DEEP = 5000
LIMIT = sys.getrecursionlimit()


def shortened(value: str) -> str:
    """Return a short name for a case, because some texts have a megabyte."""
    return value[:60]


@pytest.mark.parametrize(
    "text",
    [
        f"kubernetes.{'a.' * DEEP}a = 1",
        f"[kubernetes.{'a.' * DEEP}a]",
        f"[kubernetes.resources]\ncpu = {'[' * 150}{']' * 150}",
        f"[kubernetes]\n{'a.' * 250}a = 1",
        f"x = {'{x = ' * DEEP}1{'}' * DEEP}",
        # Nesting that the parser accepts and the encoder does not.
        *(f"[kubernetes.{'a.' * depth}a]" for depth in range(LIMIT - 80, LIMIT + 10)),
    ],
    ids=shortened,
)
def test_tables_and_lists_in_each_other(text: str) -> None:
    with raises(DeploymentCode.SYNTAX, match="are nested too deeply") as caught:
        deployment.parse(f"{text}\n{MINIMAL}" if text.startswith(("x", "kubernetes.")) else f"{MINIMAL}{text}\n")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[kubernetes.ingress]\nreplicas = {'9' * 4000}", "line 4: kubernetes.ingress.replicas: "),
        (
            "[kubernetes.ingress]\nreplicas = -1",
            "line 4: kubernetes.ingress.replicas: expected a number of at least 1, got -1",
        ),
        ("[kubernetes.ingress]\nreplicas = inf", "line 4: kubernetes.ingress.replicas: "),
        ("[kubernetes.ingress]\nreplicas = nan", "line 4: kubernetes.ingress.replicas: "),
        ("[kubernetes.ingress]\nreplicas = 1e400", "line 4: kubernetes.ingress.replicas: "),
        ("[kubernetes.ingress]\nreplicas = true", "line 4: kubernetes.ingress.replicas: "),
        ("[kubernetes.ingress]\nreplicas = {}", "line 4: kubernetes.ingress.replicas: "),
        ("[kubernetes.ingress]\nreplicas = [2]", "line 4: kubernetes.ingress.replicas: "),
        ("[kubernetes.resources]\nmemory = 4", "line 4: kubernetes.resources.memory: "),
        (f"[kubernetes.resources]\nmemory = '{'9' * 10**6}x'", "line 4: kubernetes.resources.memory: "),
        ("[kubernetes.store]\nfolder = ['a']", "line 4: kubernetes.store.folder: "),
        ('[kubernetes.store]\nfolder = "a\\u0000b"', "line 4: kubernetes.store.folder: "),
        ("[kubernetes.store]\naddresses = '10.0.0.0/8'", "line 4: kubernetes.store.addresses: "),
        ("[kubernetes.store]\naddresses = [[]]", "line 4: kubernetes.store.addresses"),
        ("[kubernetes.dns]\nlabels = ['a']", "line 4: kubernetes.dns.labels: "),
        ("[kubernetes.dns.labels]\n'a b' = 'x'", "line 4: kubernetes.dns.labels.a b"),
        ("[kubernetes.service]\nannotations.'a.b/c' = 1", "line 4: kubernetes.service.annotations.a.b/c: "),
        ("[kubernetes.service.annotations]\n'a.b/c' = 1", "line 4: kubernetes.service.annotations.a.b/c: "),
        ("[kubernetes.service.annotations.a]\nb = 'x'", "line 3: kubernetes.service.annotations.a: "),
        ("[[kubernetes]]\nnamespace = 'a'", "line 3: kubernetes: expected a table"),
        ("[[kubernetes.store]]\n[[kubernetes.store]]", "line 3: kubernetes.store: expected a table"),
        ("[[service]]\nport = 1", "line 3: service: expected a table"),
        ("[kubernetes]\nresources = 3", "line 4: kubernetes.resources: expected a table, got 3."),
        ("[kubernetes]\nresources = []", "line 4: kubernetes.resources: expected a table, got []."),
        ("[kubernetes]\nresources.cpu = false", "line 4: kubernetes.resources.cpu: "),
        ("[kubernetes]\nresources = {cpu = false}", "line 4: kubernetes.resources.cpu: "),
        # Dates: the error names the line and the key at any position.
        (
            "[kubernetes.resources]\ncpu = 2026-11-28",
            "line 4: kubernetes.resources.cpu: dates are not supported, got 2026-11-28",
        ),
        (
            "[kubernetes.store]\naddresses = [07:32:00]",
            "line 4: kubernetes.store.addresses: dates are not supported, got 07:32:00",
        ),
        (
            "[kubernetes.dns.labels]\na = 1979-05-27T07:32:00Z",
            "line 4: kubernetes.dns.labels.a: dates are not supported, got 1979-",
        ),
        ("[kubernetes]\nunknown = 2026-11-28", "line 4: kubernetes.unknown: dates are not supported, got 2026-11-28"),
    ],
    ids=shortened,
)
def test_wrong_types_in_nested_tables(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "sealserve.toml"
    file.write_text(f"{MINIMAL}{text}\n")
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.read(file)
    assert caught.value.message.startswith(f"{file}, {message}")
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("text", ["kubernetes = 3", "kubernetes = []", "kubernetes = 'store'"])
def test_a_value_where_a_section_is_expected(text: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=r"line 1: kubernetes: expected a table"):
        deployment.parse(f"{text}\n{MINIMAL}")


def test_a_table_twice() -> None:
    with raises(DeploymentCode.SYNTAX, match="not valid TOML"):
        deployment.parse(f"{MINIMAL}[kubernetes.store]\n[kubernetes.store]\n")


def test_only_newlines_end_a_line_in_toml() -> None:
    text = f'{MINIMAL}[kubernetes.service]\nannotations = {{ a = "x\u2028y\u0085z" }}\nnode_port = 0\n'
    with raises(DeploymentCode.INVALID_VALUE, match=r"^sealserve\.toml, line 5: "):
        deployment.parse(text)


def test_a_long_line_that_looks_like_a_heading_takes_no_time() -> None:
    text = f'{MINIMAL}[kubernetes.service]\nannotations = {{ a = """\n[{" " * 200_000}x\n""" }}\nnode_port = 0\n'
    with raises(DeploymentCode.INVALID_VALUE, match=r"kubernetes\.service\.node_port"):
        deployment.parse(text)


KEYS = st.sampled_from(
    ["kubernetes", "store", "source", "monitoring", "enabled", "cpu", "resources", "broker", "ip", "broker_ip", "model",
     "name", "service", "a b", ""]
)  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(["1", "-1", "1.5", "nan", "true", "'x'", "''", "2026-11-28", "07:32:00", "[]", "{}"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"'{key}' = {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=6,
)
LINES = st.one_of(
    st.tuples(st.lists(KEYS, min_size=1, max_size=3), VALUES).map(
        lambda line: f"{'.'.join(repr(key) for key in line[0])} = {line[1]}"
    ),
    st.lists(KEYS, min_size=1, max_size=3).map(lambda keys: f"[{'.'.join(repr(key) for key in keys)}]"),
    st.lists(KEYS, min_size=1, max_size=3).map(lambda keys: f"[[{'.'.join(repr(key) for key in keys)}]]"),
)


@pytest.mark.filterwarnings("ignore::sealserve.deprecation.DeprecatedKeyWarning")
@given(st.lists(LINES, max_size=8))
def test_any_tables_in_any_order_are_read_or_refused(lines: list[str]) -> None:
    try:
        deployment.parse("\n".join(lines))
    except InputError as error:
        assert error.code.startswith("deployment.")  # noqa: PT017  # most texts are rejected, but some are valid
