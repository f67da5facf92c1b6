import pytest
from scripts.attested_example import Example

from sealserve.attester.enclave_keys import EnclaveKeys


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(tmp_path_factory.mktemp("vendor") / "vendor")


@pytest.fixture
def keys(example: Example) -> EnclaveKeys:
    return EnclaveKeys.create(example.release_id)
