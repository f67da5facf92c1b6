import pytest
from tests.unit.enclave.conftest import Python


@pytest.fixture
def namespace(python: Python) -> None:
    """Skip the test if a mount namespace is not available."""
    code = "from sealserve.enclave.simulated.mount_namespace import why_not; print(why_not('/release') or '')"
    result = python(code)
    assert result.returncode == 0, result.stderr
    if reason := result.stdout.strip():
        pytest.skip(f"no mount namespace here ({reason}); run as root, or allow user namespaces")
