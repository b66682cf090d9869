"""`okko data check`: what it finds, how it says so, and its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from okko_models.errors import OkkoError
from okko_train.commands.data import data
from okko_train.data_check import check_dataset
from okko_train.dataset import load_dataset


def write_photo(path: Path, seed: int, size: tuple[int, int] = (80, 64)) -> None:
    """A photo unlike any other: coarse colour noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six photos of each of two labels."""
    for label, first in (("OK", 0), ("KO", 100)):
        for index in range(6):
            write_photo(tmp_path / label / f"{index}.png", first + index)
    return tmp_path


def check(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(data, ["check", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, (SystemExit, OkkoError))
    return result.exit_code, result.stdout


def test_a_sound_folder_is_usable(folder: Path) -> None:
    code, text = check(folder)
    assert code == 0
    assert "This dataset can be trained on." in text
    assert "80x64 to 80x64" in text
    assert "Warning: few photos (6 of KO, 6 of OK)" in text


def test_json_stands_alone_on_standard_output_and_says_everything(folder: Path) -> None:
    write_photo(folder / "OK" / "portrait.png", 50, size=(40, 90))
    (folder / "OK" / "copy.png").write_bytes((folder / "OK" / "1.png").read_bytes())
    (folder / "KO" / "both.png").write_bytes((folder / "OK" / "2.png").read_bytes())
    (folder / "KO" / "text.jpg").write_text("text")
    code, text = check(folder, "--json")
    report = json.loads(text)
    assert code == 0
    assert report["usable"] is True
    assert report["photos"] == 12
    assert report["labels"] == {"KO": 6, "OK": 6}
    assert report["skipped_kinds"] == {"conflicting labels": 2, "duplicate": 1, "unreadable": 1}
    assert {skipped["name"] for skipped in report["skipped"]} == {
        "OK/copy.png",
        "OK/2.png",
        "KO/both.png",
        "KO/text.jpg",
    }
    assert report["sizes"] == {
        "smallest": [40, 90],
        "median": [80, 64],
        "largest": [80, 64],
        "landscape": 11,
        "portrait": 1,
        "square": 0,
    }
    assert any("11 photos are wider than high and 1 higher than wide" in warning for warning in report["warnings"])
    assert any("tiny" in warning for warning in report["warnings"])


def test_what_cannot_be_trained_on_has_exit_code_1_and_the_findings_all_the_same(folder: Path) -> None:
    for index in range(6):
        (folder / "KO" / f"{index}.png").write_text("no photo")
    code, text = check(folder)
    assert code == 1
    assert "KO/0.png: a text file, not a photo" in text
    assert "Error:" in text
    assert "photos of OK alone" in text
    code, text = check(folder, "--json")
    assert (code, json.loads(text)["usable"]) == (1, False)


def test_three_photos_of_a_label_are_too_few(folder: Path) -> None:
    for index in range(3):
        (folder / "KO" / f"{index}.png").unlink()
    code, text = check(folder)
    assert code == 1
    assert "too few photos: 3 of KO, 6 of OK" in text


def test_no_folder_at_all_is_json_too(tmp_path: Path) -> None:
    code, text = check(tmp_path / "gone", "--json")
    assert code == 1
    assert json.loads(text)["usable"] is False
    assert "no such folder" in json.loads(text)["errors"][0]


def test_near_duplicates_are_named_and_a_warning_if_their_labels_differ(folder: Path) -> None:
    for label in ("OK", "KO"):
        image = Image.open(folder / "OK" / "4.png")
        image.save(folder / label / f"again-{label}.jpg", quality=80 + len(label) * (label == "OK"))
    report = check_dataset(load_dataset(folder))
    assert report.near_duplicates == (("KO/again-KO.jpg", "OK/4.png", "OK/again-OK.jpg"),)
    assert any("different labels: " in warning and "KO/again-KO.jpg" in warning for warning in report.warnings)


def test_groups_are_counted(folder: Path) -> None:
    photos = [(label, index) for label in ("OK", "KO") for index in range(6)]
    rows = [f"{label}/{index}.png,{label},{index % 3 if index < 5 else ''}" for label, index in photos]
    (folder / "photos.csv").write_text("file,label,rig\n" + "\n".join(rows) + "\n")
    report = check_dataset(load_dataset(folder, group_by="rig"))
    assert report.groups is not None
    assert (report.groups.count, report.groups.smallest, report.groups.largest) == (3, 2, 4)
    assert report.groups.photos_without == 2
    assert any("2 photos have no rig" in warning for warning in report.warnings)
    code, text = check(folder, "--group-by", "rig")
    assert code == 0
    assert "3, of 2 to 4 photos" in text


def test_a_csv_that_contradicts_the_folders_is_believed_with_a_warning(folder: Path) -> None:
    rows = [f"{label}/{index}.png,{'OK' if index else 'KO'}" for label in ("OK", "KO") for index in range(6)]
    (folder / "photos.csv").write_text("file,label\n" + "\n".join(rows) + "\n")
    report = check_dataset(load_dataset(folder))
    assert report.labels == {"KO": 2, "OK": 10}
    assert any("6 photos lie in another label's folder" in warning for warning in report.warnings)


def test_imbalance_is_a_warning(folder: Path) -> None:
    for index in range(70):
        write_photo(folder / "OK" / f"more{index}.png", 1000 + index)
    assert any(warning.startswith("imbalanced") for warning in check_dataset(load_dataset(folder)).warnings)


def test_square_brackets_in_a_name_are_printed_as_they_are(folder: Path) -> None:
    (folder / "OK" / "[bold]x.jpg").write_text("text")
    assert "OK/[bold]x.jpg: a text file" in check(folder)[1]


def test_help_names_an_example_and_needs_no_numpy() -> None:
    code = (
        "import sys; from okko_train.commands.data import data; "
        "assert not {'numpy', 'PIL', 'rich'} & set(sys.modules), sys.modules.keys(); data(['check', '--help'])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "okko data check photos/ --group-by rig" in shown
