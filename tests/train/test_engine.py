"""Large sets are computed shard by shard: the numbers are those of one pass, and nothing finished is done again."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from okko_models.errors import OkkoError
from okko_models.registry.store import FolderStore
from okko_train import dataset as dataset_module
from okko_train import duplicates, engine, shards
from okko_train.augment import Augmentation
from okko_train.candidates import Task, _fit_head
from okko_train.dataset import load_dataset
from okko_train.duplicates import find_near_duplicates
from okko_train.engine import Engine, FolderReader, Threads, Wanted
from okko_train.features import embed
from okko_train.looks import Embedded
from okko_train.pilot import _Lessons, choose_pilot
from okko_train.preparation import Split
from okko_train.shards import Pass, StoreAt, decode_part, encode_part
from okko_train.tuning import CrossValidation, Look
from tests.conftest import redness_model

MODEL = redness_model()
PARAMETERS = {"look": "it", "components": 3, "hidden_layers": 0, "learning_rate": 0.01, "l2": 1e-3, "epochs": 5}


class CountingReader(FolderReader):
    """Counts the photos that are really read."""

    read_so_far: list = []  # noqa: RUF012 (emptied for every test)

    def read(self, address):
        self.read_so_far.append(address.name)
        return super().read(address)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "cache"))
    CountingReader.read_so_far.clear()


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for label, level in (("OK", 180), ("KO", 60)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 60, (24, 32, 3)) + level
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / label / f"{number:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def work(tmp_path):
    return Engine(CountingReader(), StoreAt(str(tmp_path / "shards")), Threads(2))


def vectors(work, photos, *copies, outputs=("embedding",)):
    return work.vectors([Wanted.all_of(Pass("redness", copy), photos) for copy in copies], MODEL, outputs)


def test_the_numbers_are_those_of_one_machine_without_shards(folder, work):
    photos = load_dataset(folder).photos
    plain, altered = vectors(work, photos, None, 0)
    np.testing.assert_array_equal(plain, embed(photos, MODEL, "r", workers=1, output="embedding"))
    expected = embed(photos, MODEL, "r", workers=1, output="embedding", augmentation=Augmentation(0))
    np.testing.assert_array_equal(altered, expected)


def test_several_outputs_of_a_graph_stand_in_one_row(folder, work):
    photos = load_dataset(folder).photos
    (both,) = vectors(work, photos, None, outputs=("probability", "embedding"))
    assert both.shape == (40, 5)
    np.testing.assert_allclose(both[:, :2].sum(axis=1), 1, atol=1e-6)


def test_what_is_finished_is_not_computed_again_and_what_is_new_is(folder, work):
    photos = load_dataset(folder).photos
    (some,) = vectors(work, photos[:25], None)
    assert len(CountingReader.read_so_far) == 25
    (everything,) = vectors(work, photos, None)
    assert sorted(CountingReader.read_so_far) == sorted(photo.path.name for photo in photos)
    np.testing.assert_array_equal(everything[:25], some)
    # A copy needs the photo once more, whatever is known of the photo as it is.
    vectors(work, photos, None, 1)
    assert len(CountingReader.read_so_far) == 80


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-40], lambda data: b"nothing", lambda data: data[:300] + b"x" * 99]
)
def test_a_damaged_shard_is_computed_again(folder, work, harm):
    photos = load_dataset(folder).photos
    (before,) = vectors(work, photos, None)
    store = FolderStore(work.store.open().folder)
    name = next(name for name in store.list("") if name.endswith(".npz"))
    data = store.get(name).data
    (store.folder / name).write_bytes(harm(data))
    CountingReader.read_so_far.clear()
    (after,) = vectors(work, photos, None)
    np.testing.assert_array_equal(after, before)
    assert len(CountingReader.read_so_far) == len(decode_part(data)["identity"])


def test_a_model_that_is_not_what_its_name_says_is_not_run(folder, work):
    photos = load_dataset(folder).photos
    vectors(work, photos[:4], None)
    store = work.store.open()
    (name,) = store.list("models/")
    (store.folder / name).write_bytes(b"something else")
    shards._made_session.cache_clear()
    with pytest.raises(OkkoError, match="is not what its name says"):
        vectors(work, photos, None)


def test_a_part_says_whether_it_is_whole():
    arrays = {"identity": np.zeros((2, 32), np.uint8), "rows": np.arange(6, dtype=np.float32).reshape(2, 3)}
    data = encode_part(arrays)
    assert decode_part(data).keys() == arrays.keys()
    with np.load(io.BytesIO(data)) as archive:
        other = {**archive, "rows": np.zeros((2, 3), np.float32)}
    buffer = io.BytesIO()
    np.savez(buffer, **other)
    with pytest.raises(ValueError, match="digest"):
        decode_part(buffer.getvalue())


def test_a_photo_that_changes_meanwhile_ends_the_training(folder, work):
    photos = load_dataset(folder).photos
    Image.new("RGB", (8, 8)).save(photos[7].path)
    with pytest.raises(OkkoError, match="another one than when training began"):
        vectors(work, photos, None)


def test_workers_that_store_elsewhere_are_found_out(folder, work, monkeypatch):
    photos = load_dataset(folder).photos
    monkeypatch.setattr(engine, "load_part", lambda store, name: None)
    with pytest.raises(OkkoError, match=r"40 photos are missing in .*--shards"):
        vectors(work, photos, None)


def test_a_dataset_is_the_same_however_its_photos_are_opened(folder, work):
    (folder / "OK" / "broken.jpg").write_bytes(b"\xff\xd8\xff cut off")
    (folder / "OK" / "empty.png").touch()
    (folder / "KO" / "twice.png").write_bytes((folder / "KO" / "03.png").read_bytes())
    (folder / "KO" / "both.png").write_bytes((folder / "OK" / "05.png").read_bytes())
    here, sharded = load_dataset(folder), load_dataset(folder, engine=work)
    assert (sharded.digest, sharded.photos, sharded.skipped) == (here.digest, here.photos, here.skipped)
    np.testing.assert_array_equal(sharded.thumbnails, here.thumbnails)
    CountingReader.read_so_far.clear()
    assert load_dataset(folder, engine=work).digest == here.digest
    assert not CountingReader.read_so_far


def test_many_photos_are_worked_on_in_shards_unasked(folder, monkeypatch):
    monkeypatch.setattr(dataset_module, "MANY", 39)
    assert load_dataset(folder).engine is not None
    monkeypatch.setattr(dataset_module, "MANY", 40)
    assert load_dataset(folder).engine is None


def test_large_arrays_lie_on_the_disk_and_keep_their_content(monkeypatch):
    monkeypatch.setattr(engine, "_MOST_BYTES_IN_MEMORY", 100)
    array = engine.empty((50, 3), np.float32)
    assert isinstance(array, np.memmap)
    array[:] = np.arange(150).reshape(50, 3)
    engine.release(array)
    engine.release(array[3:])
    assert array.sum() == 149 * 75
    assert not isinstance(engine.empty((5, 5), np.float32), np.memmap)


def test_tasks_are_given_out_a_few_at_a_time():
    given = []

    def tasks():
        for number in range(100):
            given.append(number)
            yield number

    made = engine.run(Threads(2), lambda number: number, tasks())
    next(made)
    assert len(given) < 20
    assert sorted([0, *made])[-1] == 99


def test_neighbours_in_trees_are_all_the_twins_that_comparing_everything_finds(monkeypatch):
    random = np.random.default_rng(1)
    scene = random.uniform(60, 180, (8, 8, 3))
    blocks = scene + random.normal(0, 14, (1200, 8, 8, 3))
    blocks[1100:] = blocks[:100]
    pixels = np.kron(blocks, np.ones((1, 4, 4, 1))) + random.normal(0, 3, (1200, 32, 32, 3))
    thumbnails = np.clip(pixels, 0, 255).astype(np.uint8)
    arguments = thumbnails, np.arange(1200) % 2, np.ones(1200)
    exact = find_near_duplicates(*arguments)
    monkeypatch.setattr(duplicates, "EXACT_UP_TO", 100)
    monkeypatch.setattr(duplicates, "_LEAF", 150)
    in_trees = find_near_duplicates(*arguments)
    assert len(exact.pairs) >= 95
    assert {tuple(pair) for pair in in_trees.pairs.tolist()} == {tuple(pair) for pair in exact.pairs.tolist()}
    np.testing.assert_array_equal(in_trees.clusters, exact.clusters)


def test_a_pilot_has_every_label_in_its_share_and_rare_ones_whole(folder):
    photo = load_dataset(folder).photos[0]
    labels = ["OK"] * 900 + ["KO"] * 90 + ["odd"] * 10
    photos = tuple(replace(photo, label=label, digest=f"{row:064x}") for row, label in enumerate(labels))
    dataset = replace(load_dataset(folder), photos=photos, labels=("KO", "OK", "odd"), thumbnails=None)
    task = Task(dataset, Split(np.arange(1000), np.arange(0), np.arange(1000) % 5), ("OK",), None, None, None, 0, 1)
    assert choose_pilot(task, 1000) is task
    pilot = choose_pilot(task, 400)
    assert pilot.dataset.counts() == {"KO": 90, "OK": 360, "odd": 10}
    assert all(pilot.split.folds[row] == int(photo.digest, 16) % 5 for row, photo in enumerate(pilot.dataset.photos))


def test_learning_from_blocks_is_learning_from_all_at_once():
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 300)
    photos = (random.normal(0, 1, (400, 12)) + 2 * np.r_[truth, np.zeros(100, int)][:, None]).astype(np.float32)
    copies = (photos[:300] + random.normal(0, 0.1, (1, 300, 12))).astype(np.float32)
    emphasis = np.full(12, 12**-0.5, np.float32)
    lessons = _Lessons(Embedded(photos, copies), np.arange(300), truth, 2, emphasis, 5)
    projection, network = lessons.learn(np.arange(300), PARAMETERS)
    whole = _fit_head(Look(photos[:300], copies, emphasis), truth, 2, PARAMETERS, 5)
    np.testing.assert_allclose(projection.axes, whole.projection.axes, rtol=1e-5)
    np.testing.assert_allclose(network.weights, whole.network.weights, rtol=1e-4, atol=1e-6)


def test_trials_elsewhere_get_the_numbers_that_trials_here_get():
    random = np.random.default_rng(3)
    looks = {
        "it": Look(random.random((60, 8), np.float32), random.random((1, 60, 8), np.float32), np.ones(8, np.float32))
    }
    data = CrossValidation.of(looks, np.arange(60) % 2, np.arange(60) % 3, n_labels=2, seed=1)
    there = CrossValidation.from_part("it", decode_part(encode_part(data.as_part("it"))))
    np.testing.assert_array_equal(there.out_of_fold(PARAMETERS), data.out_of_fold(PARAMETERS))
