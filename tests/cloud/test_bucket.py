import hashlib
import os
import shutil
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st

from okko_cloud.bucket import (
    BucketError,
    BucketPhotos,
    ChangedError,
    Listed,
    PhotoCache,
    UnreachableError,
    files_below,
)
from okko_cloud.lease import BusyError, holder, take
from okko_cloud.place import Place
from okko_cloud.snapshot import as_dataset, choose, file_name, take_snapshot
from okko_models.errors import OkkoError
from tests.cloud.fakes import MemoryPhotos, World, colour_photo, photos
from tests.cloud.servers import KEYS, credentials, moto_server, seaweed

ODD = ("OK/a b+c.png", "OK/50%.png", "OK/%2B.png", "OK/größe 弾.png", "OK/x..png", "OK/=&?#'\".png", "OK/a/b.png")


@pytest.fixture(scope="module", params=["moto", "seaweed"])
def server(request, tmp_path_factory):
    if request.param == "moto":
        with moto_server() as url:
            yield url, KEYS
    else:
        with seaweed(tmp_path_factory.mktemp("seaweed")) as started:
            yield started.endpoint, credentials(started)


@pytest.fixture
def place(server, monkeypatch, tmp_path):
    url, variables = server
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place = Place(f"b{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}", "mine/", url)
    place.client().create_bucket(Bucket=place.bucket)
    return place


def put(place, files):
    client = place.client()
    for key, data in files.items():
        client.put_object(Bucket=place.bucket, Key=place.photos + key, Body=data)


def test_photos_with_odd_names_arrive_as_a_dataset(place, tmp_path):
    files = photos(4) | {key: colour_photo(number, "OK") for number, key in enumerate(ODD, 50)}
    put(place, files | {"OK/": b"", "unlabelled/x.png": b"x", "notes.txt": b"x"})
    cache = PhotoCache(tmp_path / "cache")
    with as_dataset(BucketPhotos(place), cache, tmp_path / "work", group_by=None, workers=1) as (snapshot, dataset):
        assert {listed.key for listed in snapshot.listed} == set(files)
        assert not dataset.skipped
        assert sorted(photo.digest for photo in dataset.photos) == sorted(
            hashlib.sha256(data).hexdigest() for data in files.values()
        )
    assert not any((tmp_path / "work").iterdir())


def test_an_upload_is_repeated_without_sending_anything_twice(place, tmp_path):
    for key, data in (photos(5) | {"OK/größe +%.png": b"photo", ".hidden/x.png": b"x"}).items():
        (tmp_path / "p" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / key).write_bytes(data)
    bucket, files = BucketPhotos(place), list(files_below(tmp_path / "p"))
    assert bucket.upload(files) == 11
    assert bucket.upload(files) == 0
    (tmp_path / "p" / "OK" / "0000.png").write_bytes(b"other")
    assert bucket.upload(files) == 1
    assert len(bucket.list()) == 11


def test_a_download_goes_on_where_it_was_cut_off(place, tmp_path):
    data = os.urandom(700_000)
    put(place, {"OK/1.png": data})
    bucket = BucketPhotos(place)
    (listed,) = bucket.list()
    (tmp_path / "part").write_bytes(data[:300_000])
    asked = []
    bucket._client.meta.events.register(
        "before-call.s3.GetObject", lambda params, **_: asked.append(params["headers"].get("Range"))
    )
    assert bucket.download(listed, tmp_path / "part") == hashlib.sha256(data).hexdigest()
    assert asked == ["bytes=300000-"]
    (tmp_path / "wrong").write_bytes(b"?" * 300_000)
    assert bucket.download(listed, tmp_path / "wrong") == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "wrong").read_bytes() == data


def test_an_object_that_was_replaced_or_removed_since_it_was_listed_is_noticed(place, tmp_path):
    put(place, {"OK/1.png": b"one", "OK/2.png": b"two"})
    bucket = BucketPhotos(place)
    one, two = bucket.list()
    put(place, {"OK/1.png": b"another"})
    place.client().delete_object(Bucket=place.bucket, Key=place.photos + "OK/2.png")
    for listed in (one, two):
        with pytest.raises(ChangedError):
            bucket.download(listed, tmp_path / "file")


def test_what_was_altered_in_the_store_is_noticed(place, tmp_path):
    """The uploader's SHA-256 travels with the object, and does not fit what is there."""
    wrong = {"okko-sha256": hashlib.sha256(b"something else").hexdigest()}
    place.client().put_object(Bucket=place.bucket, Key=place.photos + "OK/1.png", Body=b"photo", Metadata=wrong)
    bucket = BucketPhotos(place)
    with pytest.raises(BucketError, match="not what was stored"):
        bucket.download(bucket.list()[0], tmp_path / "file")


def test_a_bucket_that_is_not_there_is_named_in_one_sentence(place, tmp_path):
    other = BucketPhotos(Place("no-such-bucket-here", "", place.endpoint_url))
    with pytest.raises(BucketError, match="no-such-bucket-here"):
        other.list()


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), UnreachableError),
        (ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}}, "GetObject"), UnreachableError),
        (ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}}, "GetObject"), BucketError),
        (NoCredentialsError(), BucketError),
    ],
)
def test_what_a_later_try_may_find_well_is_told_from_what_a_person_has_to_look_at(raised, kind, monkeypatch):
    class Client:
        def get_paginator(self, name):
            raise raised

    monkeypatch.setattr(Place, "client", lambda *_, **__: Client())
    with pytest.raises(BucketError) as found:
        BucketPhotos(Place("okko")).list()
    assert type(found.value) is kind


def test_the_lock_keeps_its_promises_on_a_real_store(place):
    store = place.store()
    lease = take(store, "a")
    with pytest.raises(BusyError):
        take(store, "b")
    lease.confirm()
    lease.release()
    assert holder(store) is None
    assert take(store, "b").token == lease.token + 1


def test_a_whole_job_on_a_real_store(place, tmp_path):
    world = World(tmp_path / "world")
    world.photos, world.store = BucketPhotos(place), place.store()
    registry = place.registry()
    for key, data in world.registry.files.items():
        registry.put_new(key, data)
    world.registry = registry
    put(place, photos(12))
    assert world.job().run().kind == "promoted"
    assert world.job().run().kind == "unchanged"
    put(place, photos(1, first=30))
    place.client().delete_object(Bucket=place.bucket, Key=place.photos + "OK/0003.png")
    assert world.job().run().done.photos == {"KO": 13, "OK": 12}


@given(st.lists(st.text(max_size=300), min_size=1, max_size=6, unique=True))
def test_no_two_keys_share_a_path_and_none_leads_out_of_the_folder(names):
    paths = [file_name(f"OK/{name}") for name in names]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert ".." not in path.parts
        assert not path.is_absolute()
        assert all(len(part.encode("utf-8", "surrogatepass")) <= 255 and part not in {"", "."} for part in path.parts)
        assert not any(part.startswith(".") for part in path.parts)


def test_ordinary_keys_are_paths_as_they_are():
    assert file_name("OK/day 1/größe+1.jpg") == Path("OK/day 1/größe+1.jpg")


def test_photos_without_a_label_are_not_learnt_from_and_lists_are_believed():
    digest = "0" * 64
    keys = ["OK/1.png", "KO/1.png", "unlabelled/2.png", "x.png", f"belt-1/{digest}.png", f"belt-1/{digest}.json"]
    listed = [Listed(key, "e", 1) for key in sorted([*keys, "OK/.x.png", ".okko/y.png"])]
    assert [each.key for each in choose(listed)] == ["KO/1.png", "OK/1.png"]
    listed.append(Listed("photos.csv", "e", 1))
    assert "photos.csv" in [each.key for each in choose(listed)]


def test_a_list_with_groups_is_followed(tmp_path):
    files = photos(6)
    rows = "".join(f"{key},{key[:2]},{int(key[5:7]) // 2}\n" for key in files)
    bucket = MemoryPhotos(files | {"photos.csv": f"file,label,day\n{rows}".encode()})
    cache = PhotoCache(tmp_path / "cache")
    with as_dataset(bucket, cache, tmp_path / "work", group_by="day", workers=1) as (_, dataset):
        assert len({photo.group for photo in dataset.photos}) > 1


def test_a_listing_changes_with_every_photo_and_with_nothing_else():
    bucket = MemoryPhotos(photos(3))
    before = take_snapshot(bucket).digest
    bucket.files["unlabelled/1.png"] = b"new"
    assert take_snapshot(bucket).digest == before
    moved = bucket.files.pop("OK/0001.png")
    assert take_snapshot(bucket).digest != before
    bucket.files["KO/moved.png"] = moved
    relabelled = take_snapshot(bucket).digest
    bucket.files["OK/0001.png"] = bucket.files.pop("KO/moved.png")
    assert take_snapshot(bucket).digest == before != relabelled


def test_a_cache_that_was_deleted_under_way_is_filled_again(tmp_path):
    bucket, cache = MemoryPhotos(photos(3)), PhotoCache(tmp_path / "cache")
    listed = take_snapshot(bucket).listed
    first = cache.fetch(bucket, listed)
    for folder in (tmp_path / "cache").glob("??"):
        shutil.rmtree(folder)
    assert cache.fetch(bucket, listed) == first
    assert len(bucket.downloads) == 12


def test_places_are_read_and_refused():
    assert Place.parse("s3://b/x/y/") == Place("b", "x/y/")
    assert str(Place.parse("s3://b")) == "s3://b"
    for wrong in ("b", "s3://", "http://b"):
        with pytest.raises(OkkoError, match="expected s3://BUCKET"):
            Place.parse(wrong)
