import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from sealserve.errors import VerificationError
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.simulated.vendor import Vendor


@pytest.fixture
def collateral(vendor: Vendor, now: datetime) -> Collateral:
    return vendor.collateral(now=now)


def test_json_keeps_everything(collateral: Collateral) -> None:
    assert Collateral.from_json(collateral.to_json()) == collateral


def _without(found: dict[str, Any]) -> dict[str, Any]:
    del found["pck_crl"]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "missing or unknown fields: pck_crl"),
        (lambda found: found | {"more": "1"}, "missing or unknown fields: more"),
        (lambda found: found | {"pck_crl": "xyz"}, "pck_crl must be hexadecimal"),
        (lambda found: found | {"pck_crl": 7}, "pck_crl must be hexadecimal"),
        (lambda found: found | {"tcb_info": {}}, "tcb_info must be text"),
        (lambda found: found | {"tcb_info_issuer_chain": "\ud800"}, "tcb_info_issuer_chain must be text"),
    ],
)
def test_json_with_other_fields_is_refused(
    collateral: Collateral, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    text = json.dumps(change(json.loads(collateral.to_json())))
    with pytest.raises(VerificationError, match=message) as caught:
        Collateral.from_json(text)
    assert caught.value.code == "collateral.malformed"


def test_a_field_twice_is_refused(collateral: Collateral) -> None:
    text = collateral.to_json().replace('"pck_crl":', '"pck_crl": "00", "pck_crl":')
    with pytest.raises(VerificationError, match="the key 'pck_crl' occurs twice") as caught:
        Collateral.from_json(text)
    assert caught.value.code == "collateral.duplicate-key"
