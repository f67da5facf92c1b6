"""Clusters that cannot be talked to, each said in one error."""

import json
import sys
from pathlib import Path

import pytest
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from sealserve.cluster.kubernetes.cluster_client import (
    ClientMissingError,
    ClusterClient,
    ClusterUnreachableError,
    KindUnknownError,
    tidy,
)


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterUnreachableError, match="no usable kubeconfig") as caught:
        ClusterClient(str(tmp_path / "none"))
    assert caught.value.code == "kubernetes.unreachable"


def test_the_environments_kubeconfig_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        path = tmp_path / f"kubeconfig-{number}"
        path.write_text("{")
        monkeypatch.setenv("KUBECONFIG", str(path))
        with pytest.raises(ClusterUnreachableError, match="ParserError"):  # and not: there is no such file
            ClusterClient()
        path.unlink()


@pytest.mark.parametrize("text", ["{", "[]", "text", "\0", "clusters: 1\ncurrent-context: c\n", "{a: secret-token"])
def test_a_file_that_is_no_kubeconfig_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ClusterUnreachableError, match="no usable kubeconfig") as caught:
        ClusterClient(str(path))
    assert "secret-token" not in str(caught.value)


def test_nobody_answers(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }))  # fmt: skip
    with pytest.raises(ClusterUnreachableError, match="does not answer"):
        ClusterClient(str(path))


def test_the_client_library_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(ClientMissingError, match="not installed") as caught:
        ClusterClient()
    assert caught.value.code == "kubernetes.client-missing"
    assert "sealserve[kubernetes]" in str(caught.value)


def test_what_the_server_alone_keeps_is_left_out_of_a_diff() -> None:
    made = {"kind": "X", "status": {"a": 1}, "metadata": {"name": "x", "uid": "1", "managedFields": []}}
    assert tidy(made) == {"kind": "X", "metadata": {"name": "x"}}


def test_a_kind_that_the_cluster_does_not_have() -> None:
    client = object.__new__(ClusterClient)
    client._errors = ()  # type: ignore[assignment]  # there is no API here that could refuse anything
    with (
        pytest.raises(KindUnknownError, match="listing TLSRoute: the cluster does not know") as caught,
        client._explained("listing TLSRoute"),
    ):
        raise ResourceNotFoundError
    assert caught.value.code == "kubernetes.unknown-kind"
