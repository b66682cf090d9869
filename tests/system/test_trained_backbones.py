"""Training the backbone through the front door: few photos and one epoch, so that it takes seconds."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from okko_models.bundle import Bundle
from okko_models.classifier import Classifier


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Discs of one colour are OK, discs of two are KO; forty photos of 160 x 120 pixels."""
    folder = tmp_path_factory.mktemp("discs")
    y, x = np.mgrid[:120, :160]
    for label in ("OK", "KO"):
        (folder / label).mkdir()
        for number in range(20):
            random = np.random.default_rng([number, label == "OK"])
            image = random.integers(90, 110, (120, 160, 3), dtype=np.uint8)
            disc = (x - 80 - random.integers(-6, 7)) ** 2 + (y - 60) ** 2 < 34**2
            image[disc] = random.integers(0, 256, 3)
            if label == "KO":
                image[disc & (y > 60)] = random.integers(0, 256, 3)
            Image.fromarray(image).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def okko(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "okko.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "OKKO_CACHE": str(cache), **environment},
            check=False,
        )

    return run


def test_all_backbones_are_compared_and_the_cheapest_ships_as_an_ordinary_bundle(okko, photos, tmp_path):
    out = tmp_path / "discs.okko"
    ways = ("--finetune", "--backbone", "none", "--epochs", 1, "--trials", 2, "--workers", 1)
    done = okko("train", photos, "--out", out, *ways, "--json")
    assert done.returncode == 0, done.stderr
    variants = json.loads(done.stdout)["variants"]
    assert [(each["backbone"], each["precision"]) for each in variants] == [
        (backbone, precision)
        for backbone in ("efficientnet-lite0", "efficientnet-lite0, fine-tuned", "from scratch")
        for precision in ("float32", "int8")
    ]
    shipped = [each for each in variants if each["shipped"]]
    assert len(shipped) == 1
    cheapest = {}
    for each in variants:
        cheapest.setdefault(each["backbone"], []).append(each["cost_per_photo"])
    assert min(cheapest[shipped[0]["backbone"]]) <= min(map(max, cheapest.values()))
    bundle = Bundle.open(out)
    assert Classifier(bundle).self_test() <= bundle.manifest.model.tolerance
    report = (out / "report.html").read_text()
    assert "from scratch" in report
    assert "fine-tuned" in report


@pytest.mark.parametrize("way", [("--finetune",), ("--backbone", "none")])
def test_without_torch_it_is_said_at_once_what_to_install(okko, photos, tmp_path, way):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    done = okko("train", photos, "--out", tmp_path / "x.okko", *way, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "okko[finetune]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.okko").exists()


def test_what_only_training_the_backbone_needs_is_refused_without_it(okko, photos, tmp_path):
    done = okko("train", photos, "--out", tmp_path / "x.okko", "--upright")
    assert done.returncode == 2
    assert "--finetune" in done.stderr
