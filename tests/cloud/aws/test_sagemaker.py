"""SageMaker's training contract: the container's program, run as SageMaker runs it, in a tree of the same shape."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from okko_cloud.aws.sagemaker import METRIC, options, read_hyperparameters
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.errors import OkkoError
from okko_models.photo import read_photo

REPOSITORY = Path(__file__).parents[3]
SAMPLES = REPOSITORY / "train" / "samples" / "marbles" / "one_rig"
JOB_S = 240


@pytest.fixture
def ml(tmp_path):
    """What SageMaker mounts at /opt/ml before it starts a training job."""
    root = tmp_path / "ml"
    config = root / "input" / "config"
    config.mkdir(parents=True)
    (root / "model").mkdir()
    (root / "output").mkdir()
    resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    channel = {"ContentType": "image/jpeg", "TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
    (config / "inputdataconfig.json").write_text(json.dumps({"train": channel}))
    hyperparameters = {"name": "marbles", "trials": "1", "seed": "3", "cost_false_ok": "20", "ok_labels": '"OK"'}
    hyperparameters["sagemaker_region"] = '"us-east-1"'
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    (root / "input" / "data" / "train").mkdir(parents=True)
    return root


def fill(folder, each=8):
    with (SAMPLES / "photos.csv").open() as file:
        rows = list(csv.DictReader(file))
    for label in ("OK", "KO"):
        (folder / label).mkdir(parents=True)
        for row in [row for row in rows if row["label"] == label][::7][:each]:
            shutil.copy(SAMPLES / row["file"], folder / label)


def program():
    dockerfile = (REPOSITORY / "infra" / "container" / "Dockerfile").read_text()
    entry = json.loads(re.search(r"^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)[1])
    return [sys.executable, *entry[1:], "train"]


def environment(root, **more):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "AWS_", "OKKO_"))}
    job = {"TRAINING_JOB_NAME": "marbles-1", "OKKO_ML_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    return inherited | job | {"OKKO_CACHE": str(root.parent / "cache")} | more


def train(root, **more):
    return subprocess.run(
        program(), env=environment(root, **more), capture_output=True, text=True, check=False, timeout=JOB_S
    )


def failure(root):
    return (root / "output" / "failure").read_text()


def test_a_training_job_leaves_a_bundle_and_prints_metrics_that_sagemaker_finds(ml):
    fill(ml / "input" / "data" / "train")
    done = train(ml)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (ml / "output" / "failure").exists()
    assert [path.name for path in (ml / "model").iterdir()] == ["marbles.okko"]
    bundle = Bundle.open(ml / "model" / "marbles.okko")
    assert bundle.manifest.name == "marbles"
    assert bundle.manifest.provenance.seed == 3
    assert bundle.manifest.decision.costs.false_ok == 20
    assert sum(bundle.manifest.dataset.photos.values()) == 16
    photo = read_photo(next((SAMPLES / "OK").iterdir()))
    assert Classifier(bundle).classify(photo).probability.sum() == pytest.approx(1, abs=1e-4)
    found = dict(re.findall(METRIC, done.stdout))
    assert found.keys() == bundle.manifest.metrics.keys()
    assert float(found["accuracy"]) == pytest.approx(bundle.manifest.metrics["accuracy"].value, rel=1e-5)


def test_a_job_that_is_told_to_end_says_so_and_leaves_no_half_of_a_model(ml):
    fill(ml / "input" / "data" / "train", each=60)
    (ml / "checkpoints").mkdir()
    settings = environment(ml)
    del settings["OKKO_CACHE"]
    with subprocess.Popen(program(), env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        try:
            end = time.monotonic() + JOB_S
            while not list((ml / "checkpoints").rglob("*.np*")):
                assert job.poll() is None, job.stderr.read()
                assert time.monotonic() < end, list((ml / "checkpoints").rglob("*"))
                time.sleep(0.05)
            job.send_signal(signal.SIGTERM)
            job.communicate(timeout=60)
        finally:
            job.kill()
    assert job.returncode == 128 + signal.SIGTERM
    assert failure(ml).startswith("interrupted before the model was done")
    assert list((ml / "model").iterdir()) == []
    assert list((ml / "checkpoints" / "okko").rglob("*")), "what is there already is there for the next start"


def test_a_job_that_fails_says_why_in_the_file_that_sagemaker_reads(ml):
    (ml / "input" / "data" / "train" / "OK").mkdir()
    done = train(ml)
    assert done.returncode == 1
    reason = failure(ml)
    assert "photos" in reason
    assert len(reason) <= 1024
    assert reason.splitlines()[0] in done.stderr
    assert list((ml / "model").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("resourceconfig.json", {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}, "set InstanceCount to 1"),
        ("inputdataconfig.json", {"train": {"TrainingInputMode": "Pipe"}}, "TrainingInputMode File or FastFile"),
        ("inputdataconfig.json", {"left": {}, "right": {}}, "There are: left, right; call it train"),
        ("hyperparameters.json", {"learning_rate": "0.1"}, "learning_rate is unknown; there are name,"),
        ("hyperparameters.json", {"trials": "many"}, "trials is 'many', which is no number"),
        ("hyperparameters.json", {"trials": "0"}, "out of range"),
        ("hyperparameters.json", {"x" * 5000: "0"}, "is unknown"),
        ("hyperparameters.json", [1], "is no JSON object"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(ml, file, content, words, monkeypatch):
    from okko_cloud.aws import sagemaker

    (ml / "input" / "config" / file).write_text(json.dumps(content))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    fill(ml / "input" / "data" / "train", each=1)
    assert sagemaker.train(ml, {}) == 1
    assert len(failure(ml)) <= 1024
    if len(str(content)) < 1024:
        assert words in failure(ml)


def test_hyperparameters_are_read_as_text_and_as_json_in_text():
    raw = {"name": '"marbles"', "cost-false-ok": "20", "ok_labels": "OK, fine", "seed": "7", "_tuning_x": '"y"'}
    found = options(read_hyperparameters(raw), workers=2)
    assert (found.name, found.seed, found.ok_labels, found.workers) == ("marbles", 7, ("OK", "fine"), 2)
    assert (found.costs.false_ok, found.costs.false_ko) == (20, 1)
    with pytest.raises(OkkoError, match="cost_"):
        options(read_hyperparameters({"cost_false_ok": "-1"}), workers=1)


def test_the_variables_of_the_training_toolkit_are_followed(ml, tmp_path):
    from okko_cloud.aws import sagemaker

    elsewhere = tmp_path / "photos"
    elsewhere.mkdir()
    assert sagemaker.photos_folder(ml, {}, {"train": {}}) == ml / "input" / "data" / "train"
    assert sagemaker.photos_folder(ml, {"SM_CHANNEL_TRAIN": str(elsewhere)}, {}) == elsewhere
    assert sagemaker.photos_folder(ml, {}, {"marbles": {}}) == ml / "input" / "data" / "marbles"
    assert sagemaker.photos_folder(ml, {}, {"test": {}, "training": {}}) == ml / "input" / "data" / "training"
    assert sagemaker.photos_folder(ml, {}, {}) == ml / "input" / "data" / "train", "whatever folder is there"
