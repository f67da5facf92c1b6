"""Facts that packages need which do not import each other: a copy in another module fails here."""

import ast
from functools import cache
from pathlib import Path

import pytest

import sealserve

SOURCE = Path(sealserve.__file__).parent
FACTS = {
    "/var/run/aesmd": "host/facts.py",
    "/dev/sgx_provision": "host/facts.py",
    "/usr/lib/nginx/modules/ngx_stream_module.so": "ingress/nginx_config.py",
    "/monitoring/prometheus/metrics": "serving_interface.py",
    "serving_default": "serving_interface.py",
    "x-sealserve-instance": "serving_interface.py",
    "vault:v": "broker/transit.py",
    "tls/ssl.cfg": "pki/ssl_config.py",
    "https://gramine.readthedocs.io/en/stable/installation.html": "enclave/gramine_tools.py",
}


@cache
def literals() -> dict[str, set[str]]:
    """Return the texts in the code of each module: docstrings and comments are not among them."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
            tree = ast.parse(path.read_bytes())
            prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            values = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose)
            texts = (node.value for node in values if isinstance(node.value, str | bytes))
            found[path.relative_to(SOURCE).as_posix()] = {
                text if isinstance(text, str) else text.decode("latin-1") for text in texts
            }
    return found


@pytest.mark.parametrize(("fact", "module"), FACTS.items())
def test_a_fact_has_one_module(fact: str, module: str) -> None:
    exact = fact.startswith(("serving_default", "tls/"))  # words that texts for people may hold
    holders = {
        name for name, texts in literals().items() if any(fact == text if exact else fact in text for text in texts)
    }
    assert holders == {module}


@pytest.mark.parametrize("module", ["addresses.py", "broker/transit.py", "model/fetch.py", "sgx/pcs.py"])
def test_loopback_addresses_are_recognised_in_one_module(module: str) -> None:
    assert ("localhost" in literals()[module]) is (module == "addresses.py")
