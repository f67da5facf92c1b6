import pytest

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.trustworthiness import Tier, tier_of, vector_of, worst_tier


@pytest.mark.parametrize(
    ("tier", "values"),
    [
        (Tier.NONE, [-1, 0, 1]),
        (Tier.AFFIRMING, [2, 31, -2, -32]),
        (Tier.WARNING, [32, 95, -33, -96]),
        (Tier.CONTRAINDICATED, [96, 127, -97, -128]),
    ],
)
def test_tiers_have_the_limits_of_ar4si(tier: Tier, values: list[int]) -> None:
    assert {tier_of(value) for value in values} == {tier}


def test_every_value_has_a_tier() -> None:
    assert [tier_of(value) for value in range(-128, 128)].count(Tier.NONE) == 3


@pytest.mark.parametrize(
    ("status", "tier"),
    [
        (TcbStatus.UP_TO_DATE, Tier.AFFIRMING),
        (TcbStatus.SW_HARDENING_NEEDED, Tier.WARNING),
        (TcbStatus.CONFIGURATION_NEEDED, Tier.WARNING),
        (TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, Tier.WARNING),
        (TcbStatus.OUT_OF_DATE, Tier.WARNING),
        (TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, Tier.WARNING),
        (TcbStatus.REVOKED, Tier.CONTRAINDICATED),
    ],
)
def test_the_status_follows_the_tcb_status(status: TcbStatus, tier: Tier) -> None:
    assert worst_tier(vector_of(tcb_status=status, enrolled=True, simulated=False)) is tier
    assert worst_tier(vector_of(tcb_status=status, enrolled=False, simulated=True)) is Tier.CONTRAINDICATED


def test_the_machine_is_recognized_only_if_the_policy_requires_it() -> None:
    with_enrolment = vector_of(tcb_status=TcbStatus.UP_TO_DATE, enrolled=True, simulated=False)
    without = vector_of(tcb_status=TcbStatus.UP_TO_DATE, enrolled=False, simulated=False)
    assert with_enrolment["instance-identity"] == 2
    assert "instance-identity" not in without


def test_an_empty_vector_is_no_statement() -> None:
    assert worst_tier({}) is Tier.NONE
