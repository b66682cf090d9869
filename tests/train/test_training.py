import pytest

from okko_models.errors import OkkoError
from okko_train.preparation import sounds_good
from okko_train.training import model_name


@pytest.mark.parametrize("label", ["OK", "ok", "ok_front", "Good", "PASS", "intact-marble"])
def test_names_that_mean_good_are_understood(label):
    assert sounds_good(label)


@pytest.mark.parametrize("label", ["KO", "not_ok", "not ok", "bad", "broken", "okapi", "no-good", "def_front"])
def test_names_that_mean_something_else_are_not(label):
    assert not sounds_good(label)


def test_a_model_is_called_like_its_folder_unless_told_otherwise(tmp_path):
    assert model_name(None, tmp_path / "LEGO marbles.okko") == "LEGO-marbles"
    assert model_name("mine-1.2", tmp_path / "x") == "mine-1.2"
    assert model_name(None, tmp_path / "…") == "model"


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", "x" * 81, "naïve"])
def test_a_name_that_could_not_be_a_file_name_is_refused(name, tmp_path):
    with pytest.raises(OkkoError, match="--name"):
        model_name(name, tmp_path)
