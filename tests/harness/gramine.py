"""Gramine's own ``gramine-direct``. Tests that need it are skipped on machines without it."""

import shutil
from pathlib import Path

import pytest

from sealserve.enclave.server_files import GRAMINE_FOLDER, LIBRARY_OS

needs_gramine_direct = pytest.mark.skipif(
    shutil.which("gramine-direct") is None or not Path(GRAMINE_FOLDER, LIBRARY_OS).is_file(),
    reason=f"needs Gramine 1.9 in {GRAMINE_FOLDER}: see its installation guide",
)
