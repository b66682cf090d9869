"""A promised error rate, a drawn region and doubted labels, through the front door and on sample photos."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.photo import read_photo

SAMPLES = Path(__file__).parents[2] / "train" / "samples" / "marbles" / "one_rig"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty photos of each label in folders of their own."""
    folder = tmp_path_factory.mktemp("photos")
    for label in ("OK", "KO"):
        (folder / "photos" / label).mkdir(parents=True)
        for path in sorted((SAMPLES / label).glob("*.jpg"))[::7][:30]:
            shutil.copy(path, folder / "photos" / label)
    return folder


@pytest.fixture(scope="module")
def okko(folder):
    def run(*arguments):
        environment = {**os.environ, "OKKO_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "okko.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run


@pytest.fixture(scope="module")
def trained(okko, folder):
    done = okko(
        *("train", folder / "photos", "--out", folder / "m.okko", "--trials", 3, "--json"),
        *("--roi", "0.2,0.2,0.4,0.6", "--max-error", 0.1),
    )
    assert done.returncode == 0, done.stderr
    return folder / "m.okko", json.loads(done.stdout)


def test_the_promise_is_in_the_manifest_and_the_thresholds_keep_it_on_the_photos_that_it_rests_on(trained):
    rule = Bundle.open(trained[0]).manifest.decision
    assert (rule.promise.max_error, rule.promise.good, rule.promise.bad) == (0.1, 24, 24)
    assert trained[1]["validation"]["false_ok"] == trained[1]["validation"]["false_ko"] == 0
    assert trained[1]["decision"]["promise"]["max_error"] == 0.1


def test_what_lies_outside_the_drawn_region_changes_nothing(trained):
    bundle = Bundle.open(trained[0])
    assert bundle.manifest.provenance.hyperparameters["roi"] == "0.2,0.2,0.4,0.6"
    classifier = Classifier(bundle)
    photo = read_photo(next((SAMPLES / "OK").glob("*.jpg")))
    height, width = photo.shape[:2]
    inside = np.zeros_like(photo)
    part = np.s_[round(0.2 * height) : round(0.8 * height), round(0.2 * width) : round(0.6 * width)]
    inside[part] = photo[part]
    np.testing.assert_array_equal(classifier.classify(photo).probability, classifier.classify(inside).probability)
    inside[part] = 0
    assert not np.array_equal(classifier.classify(photo).probability, classifier.classify(inside).probability)


def test_more_than_the_photos_can_promise_is_refused_before_any_work(okko, folder):
    done = okko("train", folder / "photos", "--out", folder / "no.okko", "--max-error", 0.02)
    assert done.returncode == 1
    assert "24 good and 24 bad photos are left to learn from" in done.stderr
    assert "ask for --max-error 0.092" in done.stderr
    assert not (folder / "no.okko").exists()


def test_the_calibration_error_is_in_the_manifest_and_evaluate_measures_it(okko, folder, trained):
    assert trained[1]["test"]["expected_calibration_error"] == pytest.approx(
        Bundle.open(trained[0]).manifest.metrics["expected_calibration_error"].value
    )
    said = json.loads(okko("evaluate", trained[0], folder / "photos", "--json").stdout)
    low, high = said["interval_95"]["expected_calibration_error"]
    assert low <= said["expected_calibration_error"] <= high
    assert set(said["calibration"]) == {"plain", "if_perfect", "bins"}


def test_labels_are_doubted_by_the_models_embedding(okko, folder, trained):
    done = okko("data", "check", folder / "photos", "--model", trained[0], "--json")
    assert done.returncode == 0, done.stderr
    names = {path.relative_to(folder / "photos").as_posix() for path in (folder / "photos").glob("*/*.jpg")}
    doubts = json.loads(done.stdout)["doubted_labels"]
    assert {doubt["file"] for doubt in doubts} <= names
    assert all(doubt["given"] != doubt["suggested"] for doubt in doubts)
