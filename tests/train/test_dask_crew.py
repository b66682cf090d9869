"""The same model comes out of a Dask cluster, whatever dies meanwhile; and what is wrong with a cluster is said."""

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from okko_models.decision import Costs
from okko_train import candidates, dask_crew, novelty_learning, training
from okko_train.backbone import EMBEDDING, Architecture, Block, TrainedBackbone
from okko_train.dask_crew import ClusterError, connect
from okko_train.dataset import load_dataset
from okko_train.engine import Engine, FolderReader, Wanted
from okko_train.feature_graph import Pool, Recipe, Rectangle, View
from okko_train.pilot import choose_pilot
from okko_train.shards import Pass, StoreAt
from tests.conftest import redness_model

TINY = Architecture(8, (Block(1, 3, 2, 8, shortcut=False), Block(2, 3, 2, 12, shortcut=False)), 16)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Discs: red ones are OK, green ones are not."""
    random = np.random.default_rng(0)
    for label, colour in (("OK", (200, 60, 60)), ("KO", (60, 160, 60))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(24):
            image = Image.fromarray(random.integers(70, 110, (48, 64, 3), np.uint8))
            x, y, r = random.uniform(20, 44), random.uniform(16, 32), random.uniform(8, 14)
            ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=colour)
            image.save(tmp_path / "photos" / label / f"{number:02}.png")
    return tmp_path / "photos"


def cluster(**more):
    from distributed import LocalCluster

    local = "127.0.0.1:0"
    return LocalCluster(
        protocol="tcp://",
        threads_per_worker=1,
        dashboard_address=local,
        worker_dashboard_address=local,
        silence_logs=50,
        **more,
    )


def tiny_looks(_):
    """One look, by a network of a few weights, so that a whole training takes seconds."""
    random = np.random.default_rng(1)
    weights = {}
    for name, shape in shapes():
        weights[f"{name}.weight"] = (random.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights[f"{name}.bias"] = random.normal(0, 0.1, shape[0]).astype(np.float32)
    backbone = TrainedBackbone("tiny", TINY, weights)
    return {"region": Recipe(View(None, 32), (Pool("block1"), Pool(EMBEDDING)), backbone)}


def shapes():
    yield "stem", (8, 3, 3, 3)
    yield "block0.depthwise", (8, 1, 3, 3)
    yield "block0.project", (8, 8, 1, 1)
    yield "block1.expand", (16, 8, 1, 1)
    yield "block1.depthwise", (16, 1, 3, 3)
    yield "block1.project", (12, 16, 1, 1)
    yield "head", (16, 12, 1, 1)


def test_a_cluster_gives_the_digest_the_metrics_and_the_weights_of_one_machine(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "looks_at", tiny_looks)
    monkeypatch.setattr(novelty_learning, "WRONG_PICTURES", 40)
    monkeypatch.setattr(training, "choose_pilot", lambda task: choose_pilot(task, 20))
    monkeypatch.setattr(training, "render", lambda result: "")
    options = training.Options("discs", Costs(), roi=Rectangle(0, 0, 1, 1), trials=4, seed=3)

    def trained(out, engine=None):
        result = training.train(load_dataset(folder, engine=engine), tmp_path / out, options)
        return result, (tmp_path / out / "model.onnx").read_bytes()

    here, weights_here = trained("here.okko")
    with cluster(n_workers=2, processes=False) as two, connect(two.scheduler_address) as crew:
        assert crew.size == 2
        there, weights_there = trained("there.okko", Engine(FolderReader(), StoreAt(str(tmp_path / "shards")), crew))
        did = {event["parts"][0].split("/")[0] for _, event in crew.client.get_events("okko")}
    assert there.dataset.digest == here.dataset.digest
    assert there.manifest.metrics == here.manifest.metrics
    assert [replace(trial, seconds=0) for trial in there.trials] == [replace(trial, seconds=0) for trial in here.trials]
    assert weights_there == weights_here
    assert len(did) == 5  # opening, float and one copy, further copies, int8 and its copies, the test: all done there


@dataclass(frozen=True)
class DeadlyReader(FolderReader):
    """Kills the process that reads a certain photo, once."""

    photo: str
    mark: Path

    def read(self, address):
        if address.name == self.photo and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.mark.parent / "read").open("a") as file:
            file.write(f"{address.name}\n")
        return super().read(address)


def test_what_a_worker_had_finished_before_it_died_is_not_done_again(folder, tmp_path):
    photos = load_dataset(folder).photos
    last = max(photos, key=lambda photo: photo.digest)
    reader = DeadlyReader(f"{last.path.name}", tmp_path / "mark")
    twins = sum(photo.path.name == last.path.name for photo in photos)
    with cluster(n_workers=1, processes=True) as one, connect(one.scheduler_address) as crew:
        engine = Engine(reader, StoreAt(str(tmp_path / "shards")), crew)
        (rows,) = engine.vectors([Wanted.all_of(Pass("r"), photos)], redness_model(), ("embedding",))
    assert (tmp_path / "mark").exists()
    assert rows.all()
    read = (tmp_path / "read").read_text().split()
    assert twins
    # Four shards of twelve; only the one that was under way was begun anew.
    assert len(photos) <= len(read) <= len(photos) + 12


def test_workers_that_die_again_and_again_end_the_training():
    from distributed.scheduler import KilledWorker

    class Worker:
        address = "tcp://here"

    with (
        cluster(n_workers=1, processes=False) as one,
        connect(one.scheduler_address) as crew,
        pytest.raises(ClusterError, match="died again and again"),
        crew.pool(),
    ):
        raise KilledWorker("task", Worker(), 3)


def test_a_cluster_that_is_not_there_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(dask_crew, "_CONNECT_S", 0.5)
    with (
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "),
        connect("tcp://127.0.0.1:9"),
    ):
        pass
    with pytest.raises(ClusterError, match="no Dask scheduler answers at nonsense:"), connect("nonsense://x"):
        pass


def test_a_cluster_without_workers_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(dask_crew, "_WORKERS_S", 0.2)
    with (
        cluster(n_workers=0, processes=False) as none,
        pytest.raises(ClusterError, match="has no workers; start some"),
        connect(none.scheduler_address),
    ):
        pass


def test_workers_with_other_versions_are_refused(monkeypatch):
    with cluster(n_workers=1, processes=False) as one:
        mine = dask_crew.versions()
        answers = iter([mine, {**mine, "onnxruntime": "1.0"}])
        monkeypatch.setattr(dask_crew, "versions", lambda: next(answers))
        with pytest.raises(ClusterError, match=r"has onnxruntime 1\.0, this machine"), connect(one.scheduler_address):
            pass


def test_without_dask_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"okko\[dask\]"), connect("tcp://127.0.0.1:9"):
        pass
