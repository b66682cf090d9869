"""The whole journey through the front door: photos in, a bundle out, marbles judged and sorted with it."""

import csv
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_train.lineage import lineage_of

SAMPLES = Path(__file__).parents[2] / "train" / "samples" / "marbles"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Sixty of the sample photos with their list, thirty of a label."""
    folder = tmp_path_factory.mktemp("photos")
    with (SAMPLES / "one_rig" / "photos.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [row for label in ("OK", "KO") for row in [each for each in rows if each["label"] == label][::7][:30]]
    for row in chosen:
        (folder / row["label"]).mkdir(exist_ok=True)
        shutil.copy(SAMPLES / "one_rig" / row["file"], folder / row["file"])
    with (folder / "photos.csv").open("w") as file:
        writer = csv.DictWriter(file, ["file", "label", "rig"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(chosen)
    return folder


@pytest.fixture(scope="module")
def okko(cache):
    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "okko.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OKKO_CACHE": str(cache), "XDG_STATE_HOME": str(cache / "state")},
            **options,
        )

    return run


@pytest.fixture(scope="module")
def trained(okko, photos, tmp_path_factory):
    """A bundle from six trials, and what the command said of it."""
    out = tmp_path_factory.mktemp("models") / "marbles.okko"
    done = okko("train", photos, "--out", out, "--trials", 6, "--seed", 3, "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_training_leaves_a_bundle_whose_golden_frames_repeat(trained):
    out, said = trained
    bundle = Bundle.open(out)
    assert {"model.onnx", "report.html"} <= set(bundle.manifest.files)
    assert len(bundle.manifest.golden) >= 3
    assert Classifier(bundle).self_test() <= bundle.manifest.model.tolerance
    assert lineage_of(bundle).n_photos == 60 - bundle.manifest.dataset.test_photos
    assert said["photos"] == 60
    assert said["dataset_digest"] == bundle.manifest.dataset.digest
    assert said["test"]["n"] == bundle.manifest.dataset.test_photos == sum(said["test"]["verdicts"].values())


def test_the_model_takes_photos_of_any_size_and_keeps_the_contract(trained):
    out, _ = trained
    model = onnx.load(out / "model.onnx")
    shapes = {value.name: len(value.type.tensor_type.shape.dim) for value in (*model.graph.input, *model.graph.output)}
    assert shapes == {"image": 4, "probability": 2, "embedding": 2, "novelty": 1}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    session = Classifier(Bundle.open(out)).session
    generator = np.random.default_rng(0)
    for shape in [(1, 1, 1, 3), (1, 240, 320, 3), (3, 37, 200, 3)]:
        probability, embedding, novelty = session.run(
            ("probability", "embedding", "novelty"), {"image": generator.integers(0, 256, shape, np.uint8)}
        )
        assert novelty.shape == shape[:1]
        assert probability.shape == (shape[0], 2)
        assert embedding.shape == (shape[0], Bundle.open(out).manifest.model.embedding_size)
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)


def test_the_same_seed_and_photos_give_the_same_weights_however_many_workers(okko, photos, trained, tmp_path):
    out, said = trained
    done = okko("train", photos, "--out", tmp_path / "again", "--trials", 6, "--seed", 3, "--json", "--workers", 1)
    again = json.loads(done.stdout)
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (out / "model.onnx").read_bytes()
    assert again["test"] == said["test"]
    assert again["hyperparameters"] == said["hyperparameters"]


def test_evaluate_prints_every_figure_as_json_alone(okko, trained):
    done = okko("evaluate", trained[0], SAMPLES / "one_rig_next_day", "--json")
    figures = json.loads(done.stdout)
    assert figures["n"] == 50
    assert {"accuracy", "balanced_accuracy", "confusion", "verdicts", "false_ok", "false_ko"} <= set(figures)
    assert set(figures["latency_ms"]) == {"p50", "p95", "p99"}
    assert sum(sum(row.values()) for row in figures["confusion"].values()) == 50
    recognised = figures["confusion"]["OK"]["OK"] + figures["confusion"]["KO"]["KO"]
    assert figures["accuracy"] == pytest.approx(recognised / 50)
    assert 0 <= figures["cost_per_photo"] <= 1


def test_predict_agrees_with_the_classifier_photo_by_photo(okko, trained):
    files = sorted((SAMPLES / "one_rig_next_day" / "OK").iterdir())[:3]
    done = okko("predict", trained[0], *files, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    classifier = Classifier(Bundle.open(trained[0]))
    assert [line["file"] for line in lines] == [str(file) for file in files]
    for line, file in zip(lines, files, strict=True):
        expected = classifier.classify(np.asarray(Image.open(file).convert("RGB")))
        assert (line["verdict"], line["label"]) == (expected.verdict, expected.label)
        assert line["probability"] == pytest.approx(classifier.by_label(expected), abs=1e-5)


def test_the_simulated_rig_gives_every_marble_one_verdict(okko, trained, tmp_path):
    done = okko(
        *("run", trained[0], "--camera", f"sim:{SAMPLES / 'one_rig_next_day'}", "--gate", "sim"),
        *("--count", 20, "--pace", "fast", "--journal", tmp_path / "journal.sqlite", "--json"),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert sum(summary["verdicts"].values()) == 20
    assert (tmp_path / "journal.sqlite").exists()


def test_odd_files_among_the_photos_are_used_or_skipped_by_name_and_never_a_traceback(okko, photos, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(photos, folder)
    (folder / "photos.csv").unlink()
    good = Image.open(next((folder / "OK").iterdir())).convert("RGB")
    (folder / "OK" / "text.jpg").write_text("this is not a photo")
    (folder / "OK" / "empty.jpg").write_bytes(b"")
    encoded = io.BytesIO()
    good.rotate(17).save(encoded, "JPEG")
    (folder / "OK" / "truncated.jpg").write_bytes(encoded.getvalue()[:2000])
    Image.fromarray((np.random.default_rng(0).random((90, 120)) * 65535).astype(np.uint16)).save(
        folder / "KO" / "sixteen.png"
    )
    good.rotate(40).convert("CMYK").save(folder / "OK" / "cmyk.jpg")
    good.rotate(80).convert("RGBA").save(folder / "OK" / "transparent.png")
    Image.new("RGB", (1, 1), "red").save(folder / "KO" / "pixel.png")
    good.rotate(120).resize((8000, 6000)).save(folder / "OK" / "huge.jpg", quality=60)
    exif = Image.Exif()
    exif[0x0112] = 6
    good.rotate(160).save(folder / "OK" / "rotated.jpg", exif=exif)
    for label in ("OK", "KO"):
        good.rotate(200).save(folder / label / "both.png")
    done = okko("train", folder, "--out", tmp_path / "odd.okko", "--trials", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert said["photos"] == 60 + 6
    assert said["skipped"] == 5
    report = (tmp_path / "odd.okko" / "report.html").read_text()
    assert all(name in report for name in ("text.jpg", "empty.jpg", "truncated.jpg", "both.png"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such"),
        (lambda folder: folder.mkdir(), "photo"),
        (lambda folder: photos_of(folder, OK=9), "label"),
        (lambda folder: photos_of(folder, OK=2, KO=1), "few"),
        (lambda folder: photos_of(folder, apples=9, pears=9), "--ok"),
    ],
    ids=["no such folder", "empty folder", "one label", "three photos", "no label called OK"],
)
def test_photos_that_cannot_be_trained_on_are_refused_with_a_reason(okko, tmp_path, make, message):
    make(tmp_path / "photos")
    done = okko("train", tmp_path / "photos", "--out", tmp_path / "out" / "model.okko")
    assert done.returncode == 1
    assert message in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.okko"))


def photos_of(folder, **counts):
    generator = np.random.default_rng(0)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).save(folder / label / f"{number}.png")


def test_a_disk_that_is_full_is_an_error_and_leaves_no_half_bundle(okko, photos, tmp_path):
    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = okko("train", photos, "--out", tmp_path / "m.okko", "--trials", 1, preexec_fn=small_files_only)
    assert done.returncode == 1
    assert "could not be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_refused_before_any_work(okko, photos, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = okko("train", photos, "--out", tmp_path / "file")
    assert done.returncode == 1
    assert "not a folder" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_group_never_stands_on_both_sides_and_too_few_groups_are_explained(okko, photos, tmp_path):
    done = okko("train", photos, "--out", tmp_path / "m.okko", "--group-by", "rig", "--trials", 1, "--json")
    assert done.returncode == 0, done.stderr
    done = okko("train", photos, "--out", tmp_path / "n.okko", "--group-by", "colour")
    assert done.returncode == 1
    assert "rig" in done.stderr


def test_a_budget_cuts_the_search_short(okko, photos, tmp_path):
    done = okko("train", photos, "--out", tmp_path / "m.okko", "--trials", 100000, "--budget", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert 1 <= json.loads(done.stdout)["trials"] < 1000
