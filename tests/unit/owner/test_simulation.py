from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from sealserve.owner import simulation
from sealserve.workspace import Workspace

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_parts_that_start_at_once_make_one_vendor(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        vendors = list(pool.map(lambda _: simulation.open_vendor(workspace, now=NOW), range(8)))
    assert len({vendor.root_der for vendor in vendors}) == 1
    trusted = simulation.trusted_root(workspace)
    assert trusted is not None
    assert trusted.root_der == vendors[0].root_der
