"""What counts as a dataset, what is left out of it and why, and what its digest stands for."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from okko_train.dataset import Dataset, DatasetError, load_dataset


def photo(seed: int, kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """A photo that is like no other: coarse colour noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def marbles(n: int = 4) -> dict[str, bytes | str]:
    return {f"{label}/{index}.png": photo(100 * len(label) + ord(label[0]) + index)
            for label in ("OK", "KO") for index in range(n)}  # fmt: skip


def names(dataset: Dataset) -> list[str]:
    return [photo.name for photo in dataset.photos]


def reasons(dataset: Dataset) -> dict[str, str]:
    return {skipped.name: skipped.reason for skipped in dataset.skipped}


# --- one sub-folder per label ---


def test_a_folder_of_labels_is_a_dataset(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, marbles(2)))
    assert names(dataset) == ["KO/0.png", "KO/1.png", "OK/0.png", "OK/1.png"]
    assert dataset.labels == ("KO", "OK")
    assert dataset.targets.tolist() == [0, 0, 1, 1]
    assert dataset.counts() == {"KO": 2, "OK": 2}
    assert dataset.skipped == ()
    first = dataset.photos[0]
    assert first.path == tmp_path.resolve() / "KO/0.png"
    assert (first.width, first.height) == (24, 16)
    assert first.group is None


def test_photos_in_deeper_folders_have_the_label_of_the_first(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, {**marbles(1), "OK/monday/OK/7.png": photo(1)}))
    assert {photo.name: photo.label for photo in dataset.photos}["OK/monday/OK/7.png"] == "OK"


def test_odd_names_are_names_like_any_other(tmp_path: Path) -> None:
    odd = ["OK/-rf.png", "OK/white space.png", "OK/größe 良い.png", "OK/[red]{0}%s.PNG", 'OK/"quoted".png']
    dataset = load_dataset(write(tmp_path, {**{name: photo(i) for i, name in enumerate(odd)}, **marbles(1)}))
    assert set(odd) < set(names(dataset))


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    write(tmp_path, marbles(1))
    (tmp_path / "OK" / os.fsdecode(b"\xff.png")).write_bytes(photo(1))
    assert r"OK/\xff.png" in names(load_dataset(tmp_path))


def test_hidden_files_and_litter_are_nobodys_photos(tmp_path: Path) -> None:
    litter = [".DS_Store", "OK/.hidden.png", "OK/Thumbs.db", ".git/x.png", "__MACOSX/OK/1.png", "README.md"]
    dataset = load_dataset(write(tmp_path, {**{name: photo(1) for name in litter}, **marbles(1)}))
    assert (len(dataset), dataset.skipped) == (2, ())


def test_what_cannot_be_used_is_skipped_by_name(tmp_path: Path) -> None:
    cut = photo(7, "JPEG", (64, 64))
    bad: dict[str, bytes | str] = {
        "OK/cut.jpg": cut[: len(cut) // 2],
        "OK/empty.png": b"",
        "OK/notes.jpg": "These are my notes.",
        "OK/movie.mp4": b"\0\0\0\x18ftypmp42",
        "lost.png": photo(8),
        "unlabelled/new.png": photo(9),
    }
    dataset = load_dataset(write(tmp_path, {**marbles(2), **bad}))
    assert len(dataset) == 4
    found = reasons(dataset)
    assert found["OK/cut.jpg"].startswith("damaged or cut off")
    assert found["OK/empty.png"].startswith("the file is empty")
    assert found["OK/notes.jpg"].startswith("a text file, not a photo")
    assert found["OK/movie.mp4"].startswith("not a photo by its name (.mp4")
    assert found["lost.png"] == "has no label: it is in no sub-folder"
    assert found["unlabelled/new.png"] == "has no label yet; `okko label` gives it one"
    assert dataset.labels == ("KO", "OK")
    assert [skipped.kind for skipped in dataset.skipped].count("unreadable") == 3


def test_a_photo_that_may_not_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may read everything, so the refusal itself is put on.
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    write(tmp_path, marbles(2))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "cannot be read (Permission denied)" in reasons(load_dataset(tmp_path))["OK/1.png"]


def test_links_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", {"9.png": photo(9)})
    data = write(tmp_path / "data", marbles(1))
    (data / "OK" / "more").symlink_to(tmp_path / "elsewhere")
    (data / "OK" / "loop").symlink_to(data)
    (data / "OK" / "self.png").symlink_to(data / "OK" / "self.png")
    (data / "OK" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = load_dataset(data)
    assert names(dataset) == ["KO/0.png", "OK/0.png", "OK/more/9.png"]
    assert reasons(dataset)["OK/loop"] == "a link back to a folder above it"
    assert reasons(dataset)["OK/gone.png"] == "a broken link"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(write(tmp_path, marbles(1)) / "OK" / "pipe.png")
    assert reasons(load_dataset(tmp_path))["OK/pipe.png"] == "not a regular file"


# --- duplicates and conflicts ---


def test_further_copies_of_a_photo_are_skipped(tmp_path: Path) -> None:
    dataset = load_dataset(
        write(tmp_path, {**marbles(1), "OK/b.png": photo(5), "OK/c.png": photo(5), "OK/d.bmp": photo(5, "BMP")})
    )
    assert names(dataset) == ["KO/0.png", "OK/0.png", "OK/b.png"]
    assert reasons(dataset) == {"OK/c.png": "duplicate of OK/b.png", "OK/d.bmp": "the same pixels as OK/b.png"}


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_photo_with_two_labels_is_not_used_at_all(tmp_path: Path, kind: str) -> None:
    twins = {"KO/x.png": photo(5), "OK/y.png": photo(5, kind), "OK/z.png": photo(5)}
    dataset = load_dataset(write(tmp_path, {**marbles(1), **twins}))
    assert names(dataset) == ["KO/0.png", "OK/0.png"]
    assert reasons(dataset) == {
        "KO/x.png": "conflicting labels: the same photo as OK/y.png (OK)",
        "OK/y.png": "conflicting labels: the same photo as KO/x.png (KO)",
        "OK/z.png": "conflicting labels: the same photo as KO/x.png (KO)",
    }


def test_without_decoding_equal_bytes_are_still_found(tmp_path: Path) -> None:
    files = {**marbles(1), "OK/b.png": photo(5), "OK/c.png": photo(5), "OK/text.jpg": "text"}
    dataset = load_dataset(write(tmp_path, files), decode=False)
    assert reasons(dataset) == {"OK/c.png": "duplicate of OK/b.png"}
    assert dataset.thumbnails is None
    assert dataset.split_groups().tolist() == list(range(len(dataset)))


# --- the digest ---


def test_the_digest_names_photos_and_labels_not_where_they_lie(tmp_path: Path) -> None:
    here = load_dataset(write(tmp_path / "here", marbles(2)))
    moved = {f"{name[:2]}/deeper/x{name[3:]}": content for name, content in reversed(marbles(2).items())}
    there = load_dataset(write(tmp_path / "there", moved))
    assert names(here) != names(there)
    assert here.digest == there.digest
    listed = "file,label\n" + "".join(f"{name},{name[:2]}\n" for name in marbles(2))
    assert load_dataset(write(tmp_path / "here", {"photos.csv": listed})).digest == here.digest


def test_another_photo_or_another_label_is_another_digest(tmp_path: Path) -> None:
    files = marbles(2)
    swapped = {**files, "OK/0.png": files["KO/0.png"], "KO/0.png": files["OK/0.png"]}
    variants = [files, {**files, "OK/2.png": photo(9)}, {**files, "OK/1.png": photo(9)}, swapped]
    digests = {load_dataset(write(tmp_path / str(i), variant)).digest for i, variant in enumerate(variants)}
    assert len(digests) == 4


# --- photos.csv ---


def test_a_csv_gives_labels_and_further_columns(tmp_path: Path) -> None:
    # As a spreadsheet writes it: a byte order mark, CRLF, a blank line, a quoted comma.
    text = '\ufefffile,label,rig,remark\r\nOK/0.png,OK,a,"white, matt"\r\n\r\nKO/0.png,KO,b,\r\n'
    dataset = load_dataset(write(tmp_path, {**marbles(1), "photos.csv": text}), group_by="rig")
    assert [(photo.name, photo.label, photo.group) for photo in dataset.photos] == [
        ("KO/0.png", "KO", "b"),
        ("OK/0.png", "OK", "a"),
    ]
    assert dataset.photos[1].attributes == {"rig": "a", "remark": "white, matt"}
    assert (dataset.source, dataset.group_by) == ("photos.csv", "rig")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_that_of_the_first_line(tmp_path: Path, delimiter: str) -> None:
    text = "label,file\nOK,OK/0.png\nKO,KO/0.png\n".replace(",", delimiter)
    assert len(load_dataset(write(tmp_path, {**marbles(1), "photos.csv": text}))) == 2


def test_a_csv_is_believed_over_folders_and_is_complete(tmp_path: Path) -> None:
    text = "file,label\nOK/0.png,good\nKO/0.png,bad\nKO/1.png,good\n"
    dataset = load_dataset(write(tmp_path, {**marbles(2), "photos.csv": text}))
    assert dataset.labels == ("bad", "good")
    assert reasons(dataset) == {"OK/1.png": "not listed in photos.csv"}


def test_a_photo_listed_twice_is_used_once_or_with_two_labels_not_at_all(tmp_path: Path) -> None:
    text = "file,label\n" + "OK/0.png,OK\n./OK/0.png,OK\nKO/0.png,KO\nKO/1.png,KO\nKO/1.png,OK\n"
    dataset = load_dataset(write(tmp_path, {**marbles(2), "photos.csv": text}))
    assert names(dataset) == ["KO/0.png", "OK/0.png"]
    assert reasons(dataset)["OK/0.png"] == "named twice in photos.csv"
    assert reasons(dataset)["KO/1.png"] == "photos.csv gives it the labels KO and OK"


def test_photos_without_a_group_are_in_none(tmp_path: Path) -> None:
    text = "file,label,rig\nOK/0.png,OK,\nOK/1.png,OK,a\nKO/0.png,KO,a\n"
    dataset = load_dataset(write(tmp_path, {**marbles(2), "photos.csv": text}), group_by="rig")
    assert [photo.group for photo in dataset.photos] == ["a", None, "a"]
    assert dataset.split_groups().tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column file and label; the columns are none"),
        ("name,label\nOK/0.png,OK\n", "no column file; the columns are name, label"),
        ("file,label\n", "the list is empty"),
        ("file,label,label\nOK/0.png,OK,KO\n", "two columns have the same name"),
        ("file,label\nOK/0.png,OK,extra\n", "line 2: 3 values for 2 columns"),
        ("file,label\nOK/0.png\n", "line 2: no label"),
        ("label,file\nOK\n", "line 2: no file"),
        ('file,label\n"OK/0.png,OK\n', "unexpected end of data"),
        ("file,label\n/etc/passwd,OK\n", "line 2: /etc/passwd leads out of the dataset's folder"),
        ("file,label\nOK/../../x.png,OK\n", "leads out of the dataset's folder"),
        ("file,label\n..\\x.png,OK\n", "leads out of the dataset's folder"),
        ("file,label\nC:\\x.png,OK\n", "leads out of the dataset's folder"),
        ("file,label\nOK/\0.png,OK\n", "photos.csv"),
        ("file,label\nOK/0.png,OK\nOK/gone.png,OK\n", "1 of 2 photos that it names are not there: OK/gone.png"),
        ("file,label\nOK/" + "x" * 300 + ".png,OK\n", "are not there|cannot be read"),
        ("file,label\nOK,OK\n", "not there: OK"),
        ("file,label\nOK/0.png,OK\n", "photos of OK alone"),
    ],
)
def test_a_csv_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load_dataset(write(tmp_path, {**marbles(1), "photos.csv": text}))


def test_a_csv_in_another_encoding_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not UTF-8"):
        load_dataset(write(tmp_path, {**marbles(1), "photos.csv": "file,label\nOK/ö.png,OK".encode("latin-1")}))


def test_a_missing_group_column_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"the labels come from sub-folders, without further columns"):
        load_dataset(write(tmp_path, marbles(1)), group_by="rig")
    text = "file,label,day,light\nOK/0.png,OK,1,2\nKO/0.png,KO,1,2\n"
    with pytest.raises(DatasetError, match=r"no column rig to group by; photos\.csv has the columns day, light"):
        load_dataset(write(tmp_path, {"photos.csv": text}), group_by="rig")


# --- SageMaker .lst ---


@pytest.mark.parametrize("as_file", [True, False])
def test_numbers_in_a_list_take_the_names_of_their_folders(tmp_path: Path, as_file: bool) -> None:
    text = "0\t1.000000\tOK/0.png\n1\t0.000000\tKO/0.png\n2\t1.000000\tOK/1.png\n"
    write(tmp_path, {**marbles(2), "train.lst": text})
    dataset = load_dataset(tmp_path / "train.lst" if as_file else tmp_path)
    assert [(photo.name, photo.label) for photo in dataset.photos] == [
        ("KO/0.png", "KO"),
        ("OK/0.png", "OK"),
        ("OK/1.png", "OK"),
    ]


def test_numbers_without_folders_of_their_own_stay_numbers(tmp_path: Path) -> None:
    text = "0\t1\timages/a.png\n1\t0.0\timages/b.png\n"
    dataset = load_dataset(write(tmp_path, {"images/a.png": photo(1), "images/b.png": photo(2), "x.lst": text}))
    assert [photo.label for photo in dataset.photos] == ["1", "0"]


def test_sagemakers_channels_are_found(tmp_path: Path) -> None:
    files = {"train/OK/a.png": photo(1), "train/KO/b.png": photo(2), "validation/KO/c.png": photo(3)}
    lists = {"train_lst/train.lst": "0\t0\tOK/a.png\n1\t1\tKO/b.png", "validation_lst/v.lst": "0\t1\tKO/c.png"}
    dataset = load_dataset(write(tmp_path, {**files, **lists}), group_by="list")
    assert sorted((photo.label, photo.group) for photo in dataset.photos) == [
        ("KO", "train"),
        ("KO", "v"),
        ("OK", "train"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 1 OK/0.png\n", "line 1: 1 values with tabs between, expected 3"),
        ("0\t1\t0\tOK/0.png\n", "4 values"),
        ("\n", "the list is empty"),
        ("0\t1\tOK/none.png\n", "not there: OK/none.png"),
        ("0\t1\t../OK/0.png\n", "leads out"),
        ("0\t\tOK/0.png\n", "no label"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load_dataset(write(tmp_path, {**marbles(1), "train.lst": text}))


# --- no dataset ---


def test_what_is_no_dataset_says_what_was_found_and_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such folder\. Expected a folder with a sub-folder of photos"):
        load_dataset(tmp_path / "gone")
    with pytest.raises(DatasetError, match="found no sub-folder"):
        load_dataset(tmp_path)
    (tmp_path / "OK").mkdir()
    with pytest.raises(DatasetError, match="found sub-folders OK, but no photo in them"):
        load_dataset(tmp_path)
    with pytest.raises(DatasetError, match="not a dataset"):
        load_dataset(write(tmp_path, {"a.png": photo(1)}) / "a.png")


def test_one_label_alone_is_refused_unless_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"OK/a.png": photo(1), "OK/b.png": photo(2), "KO/c.png": "no photo"})
    with pytest.raises(DatasetError, match=r"found photos of OK alone \(1 files skipped, the first: KO/c.png: a text"):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, minimum_labels=1)) == 2


def test_too_few_photos_are_not_trainable_and_four_of_each_label_are(tmp_path: Path) -> None:
    files = marbles(4)
    load_dataset(write(tmp_path / "four", files)).check_trainable()
    del files["OK/3.png"]
    three = load_dataset(write(tmp_path / "three", files))
    with pytest.raises(DatasetError, match=r"too few photos: 4 of KO, 3 of OK.*at least 4 usable.*add photos of OK"):
        three.check_trainable()


def test_a_label_in_two_groups_alone_is_not_trainable(tmp_path: Path) -> None:
    rows = "".join(f"{name},{name[:2]},{int(name[3]) % 2}\n" for name in marbles(4))
    write(tmp_path, {**marbles(4), "photos.csv": f"file,label,rig\n{rows}"})
    load_dataset(tmp_path).check_trainable()
    with pytest.raises(DatasetError, match=r"the 4 photos of KO are in 2 groups \(grouped by rig\)"):
        load_dataset(tmp_path, group_by="rig").check_trainable()


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, {**marbles(4), "OK/x.jpg": "text"})
    assert load_dataset(tmp_path, workers=1) == load_dataset(tmp_path, workers=5)
