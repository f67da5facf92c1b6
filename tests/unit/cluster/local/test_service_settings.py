import stat
from pathlib import Path

import pytest
from tests.harness.workspaces import make_site

from sealserve.cluster.local import service_settings
from sealserve.cluster.target import BROKER, PCS, PLATFORM
from sealserve.deployment import Deployment
from sealserve.deployment.sections.broker import BrokerSection
from sealserve.deployment.sections.keystore import KeystoreSection
from sealserve.terms import CollateralUpdate


@pytest.mark.parametrize(
    ("update", "restarted"),
    [
        ({}, set()),
        ({"broker": BrokerSection(port=4444)}, {BROKER}),
        ({"broker": BrokerSection(collateral_url="http://127.0.0.1:8099")}, {BROKER, PCS}),
        ({"broker": BrokerSection(metrics_port=9000)}, {BROKER}),
        ({"broker": BrokerSection(collateral_update=CollateralUpdate.EARLY)}, {BROKER}),
        ({"broker": BrokerSection(admin_port=4434)}, {BROKER}),
        ({"broker": BrokerSection(admin_port=4434, admin_listen="::")}, {BROKER}),
        ({"keystore": KeystoreSection(passphrase_file=Path("/x"))}, {BROKER}),
        ({"broker": BrokerSection(drain_minutes=5)}, set()),
    ],
)
def test_a_service_is_restarted_when_a_setting_that_it_reads_changed(
    tmp_path: Path, update: dict[str, object], restarted: set[str]
) -> None:
    site = make_site(tmp_path / "site")
    started: Deployment = site.deployment.model_copy(update={"broker": BrokerSection()})
    for role in (BROKER, PCS, PLATFORM):
        service_settings.remember(site.workspace, started, role)
    changed = started.model_copy(update=update)
    found = {role for role in (BROKER, PCS, PLATFORM) if service_settings.has_changed(site.workspace, changed, role)}
    assert found == restarted


def test_without_a_record_nothing_is_restarted(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    file = site.workspace.host.run / "broker.settings"
    assert not service_settings.has_changed(site.workspace, site.deployment, BROKER)
    file.write_bytes(b"\xff")
    assert not service_settings.has_changed(site.workspace, site.deployment, BROKER)
    service_settings.remember(site.workspace, site.deployment, BROKER)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
