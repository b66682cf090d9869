import pytest

from tests.models.registry.simulator import Simulator


@pytest.fixture
def simulator(tmp_path, redness_bundle):
    return Simulator(tmp_path / "sim", redness_bundle)
