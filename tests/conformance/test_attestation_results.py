"""The vectors of attestation results verify, and this version still writes the same bytes."""

import json
from pathlib import Path
from typing import Final

from tests.harness.attestation_results import KEY, KEYS, make_result, verify
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.attestation.result_token import sign_result

ROOT: Final = Path(__file__).resolve().parent.parent.parent
VECTORS: Final = Path(__file__).parent / "attestation-results"
PAGE: Final = ROOT / "docs" / "reference" / "attestation-result.md"


def test_the_vectors_verify() -> None:
    keys = JsonWebKeySet.parse((VECTORS / "keys.json").read_bytes())
    result = verify((VECTORS / "result.jwt").read_text().strip(), keys=keys)
    assert result.to_claims() == json.loads((VECTORS / "result.json").read_text())
    with raises(AttestationCode.TOKEN_SIMULATED):
        verify((VECTORS / "simulated.jwt").read_text().strip(), keys=keys)


def test_this_version_writes_the_vectors() -> None:
    assert sign_result(make_result(), KEY) + "\n" == (VECTORS / "result.jwt").read_text()
    assert sign_result(make_result(simulated=True), KEY) + "\n" == (VECTORS / "simulated.jwt").read_text()
    assert KEYS.to_bytes() == (VECTORS / "keys.json").read_bytes()


def test_the_page_shows_the_vectors() -> None:
    page = PAGE.read_text()
    for name in ("result.jwt", "result.json", "keys.json"):
        assert (VECTORS / name).read_text().strip() in page
