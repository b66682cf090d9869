import pytest

from tests.edge.updater.updater_fakes import World


@pytest.fixture
def world(tmp_path, redness_bundle):
    world = World(tmp_path / "world", redness_bundle)
    yield world
    world.shelf.give_up_charge()
