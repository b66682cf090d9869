"""`okko train s3://...`: what is in a bucket is the dataset that the same files in a folder would be."""

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from okko_cloud import photo_source
from okko_cloud.place import Place
from okko_models.errors import OkkoError
from okko_train.commands.train import train
from okko_train.commands.tune import tune
from okko_train.dataset import load_dataset
from okko_train.engine import Threads, Wanted
from okko_train.shards import Pass
from tests.cloud.fakes import colour_photo, photos
from tests.cloud.servers import KEYS, moto_server
from tests.conftest import redness_model

ODD = ("OK/a b+c.png", "OK/50%.png", "OK/%2B.png", "OK/größe 弾.png", "OK/x..png", "OK/=&?#'\".png", "KO/a/b.png")
CREWS = pytest.mark.parametrize("crew", [None, Threads(2)], ids=["fetched", "streamed"])


@pytest.fixture(scope="module")
def server():
    from botocore import loaders

    # boto3 reads its descriptions of AWS anew for every client, which is most of what these tests would do.
    with pytest.MonkeyPatch.context() as patch, moto_server() as url:
        known = loaders.Loader()
        patch.setattr(loaders, "create_loader", lambda *_: known)
        yield url


@pytest.fixture
def place(server, monkeypatch, tmp_path):
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "cache"))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    place = Place(f"b{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}", "my photos/", server)
    place.client().create_bucket(Bucket=place.bucket)
    return place


def put(place, files, folder):
    """Puts files into the bucket, and into a folder."""
    client = place.client()
    for key, data in files.items():
        client.put_object(Bucket=place.bucket, Key=place.prefix + key, Body=data)
        if not key.endswith("/"):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)


def opened(place, crew, **more):
    return photo_source.bucket_dataset(str(place), endpoint_url=place.endpoint_url, workers=2, crew=crew, **more)


@CREWS
def test_odd_names_give_the_dataset_that_a_folder_gives(place, tmp_path, crew):
    files = photos(2) | {key: colour_photo(number, key[:2]) for number, key in enumerate(ODD, 50)}
    twice = {
        "OK/again.png": files["OK/50%.png"],
        "OK/broken.jpg": b"\xff\xd8\xff",
        "notes.txt": b"x",
        "OK/": b"",
        "__MACOSX/a.png": b"x",
    }
    put(place, files | twice, tmp_path / "folder")
    here = load_dataset(tmp_path / "folder")
    with opened(place, crew) as dataset:
        assert dataset.digest == here.digest
        assert dataset.counts() == here.counts()
        assert {each.kind for each in dataset.skipped} == {each.kind for each in here.skipped}
        # Whoever looks at single photos sees them, too.
        assert all(hashlib.sha256(each.path.read_bytes()).hexdigest() == each.digest for each in dataset.photos)


@CREWS
def test_a_list_in_the_bucket_is_believed_as_one_in_a_folder(place, tmp_path, crew):
    rows = [f"{key},{key[:2]},day {number % 4}" for number, key in enumerate(photos(2))]
    listed = "\n".join(["file,label,day", *rows]).encode()
    put(place, photos(2) | {"photos.csv": listed, "KO/not listed.png": colour_photo(99, "KO")}, tmp_path / "folder")
    here = load_dataset(tmp_path / "folder", group_by="day")
    with opened(place, crew, group_by="day") as dataset:
        assert dataset.digest == here.digest
        assert sorted(each.group for each in dataset.photos) == sorted(each.group for each in here.photos)


def test_workers_stream_photos_and_leave_what_is_finished_beside_them(place, tmp_path):
    put(place, photos(2), tmp_path / "folder")
    here = load_dataset(tmp_path / "folder")
    for _ in range(2):
        with opened(place, Threads(2)) as dataset:
            (rows,) = dataset.engine.vectors(
                [Wanted.all_of(Pass("redness"), dataset.photos)], redness_model(), ("embedding",)
            )
        assert dataset.digest == here.digest  # the second time, too: shards are nobody's photos
        assert rows.shape == (4, 3)
    keys = [each["Key"] for each in place.client().list_objects_v2(Bucket=place.bucket)["Contents"]]
    finished = [key for key in keys if key.startswith("my photos/.okko/shards/")]
    assert len(keys) == 4 + len(finished)
    assert any(key.endswith(".npz") for key in finished)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_photo_that_is_replaced_while_workers_are_at_it_ends_the_training(place, tmp_path):
    put(place, photos(2), tmp_path / "folder")
    with opened(place, Threads(2)) as dataset:
        put(place, {"OK/0001.png": colour_photo(77, "OK")}, tmp_path / "folder")
        with pytest.raises(OkkoError, match=r"OK/0001\.png"):
            dataset.engine.vectors([Wanted.all_of(Pass("redness"), dataset.photos)], redness_model(), ("embedding",))


@pytest.mark.parametrize(
    ("crew", "files", "message"),
    [
        (None, {}, "no photos with a label"),
        (None, {"OK/1.png": colour_photo(1, "OK"), "OK/2.png": colour_photo(2, "OK")}, "found photos of OK alone"),
        (Threads(2), {"1.png": colour_photo(1, "OK")}, "no photos with a label"),
        (Threads(2), {"OK/1.png": colour_photo(1, "OK")}, "found photos of OK alone"),
    ],
)
def test_what_is_no_dataset_is_said_by_the_buckets_name(place, tmp_path, crew, files, message):
    put(place, files, tmp_path / "folder")
    with pytest.raises(OkkoError, match=message) as raised, opened(place, crew):
        pass
    assert f"s3://{place.bucket}/my photos/" in str(raised.value)
    assert str(Path("/tmp")) not in str(raised.value)


@CREWS
def test_a_missing_bucket_is_said_in_a_sentence(place, crew):
    nowhere = Place("no-such-bucket-here", "", place.endpoint_url)
    with (
        pytest.raises(OkkoError, match=r"no bucket no-such-bucket-here at http.*--endpoint-url"),
        opened(nowhere, crew),
    ):
        pass


def test_a_server_that_does_not_answer_is_said_in_a_sentence(place):
    gone = Place(place.bucket, "", "http://127.0.0.1:9")
    with pytest.raises(OkkoError, match=r"127\.0\.0\.1:9"), opened(gone, None):
        pass


def test_a_table_in_a_bucket_is_read_as_one_on_the_disk(place, tmp_path):
    put(place, {"size table.csv": b"size,kind\n1,a\n2,b\n", "size table.csv.old": b"x"}, tmp_path / "folder")
    with photo_source.bucket_file(f"{place}/size table.csv", place.endpoint_url) as path:
        assert path.read_bytes() == (tmp_path / "folder" / "size table.csv").read_bytes()
    with (
        pytest.raises(OkkoError, match=r"/my photos/size: there is no such object"),
        photo_source.bucket_file(f"{place}/size", place.endpoint_url),
    ):
        pass


def test_both_commands_take_what_is_in_a_bucket(place, tmp_path):
    put(place, photos(1) | {"size.csv": b"size,kind\n1,a\n"}, tmp_path / "folder")
    for command, what, said in (
        (train, [str(place)], "too few photos: 1 of KO, 1 of OK"),
        (tune, [f"{place}/size.csv", "--target", "weight"], "weight"),
    ):
        options = ["--endpoint-url", place.endpoint_url, "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(command, [*what, *options], obj=lambda: photo_source)
        assert isinstance(done.exception, OkkoError)
        assert said in str(done.exception)


def test_the_command_names_what_does_not_go_together(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(train, [*arguments, "--out", str(tmp_path / "x.okko")])

    assert "s3://BUCKET/PREFIX" in run(str(tmp_path), "--endpoint-url", "http://x").output
    assert "add --dask" in run(str(tmp_path), "--shards", "x").output
    assert "are for one machine" in " ".join(run(str(tmp_path), "--dask", "tcp://x", "--finetune").output.split())
    assert "okko[cloud]" in str(run("s3://bucket/x").exception)
