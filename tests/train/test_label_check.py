"""Labels flipped on purpose are found, by machines that have not seen them; the command names and shows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from okko_train.commands.data import data
from okko_train.label_check import doubts_in, out_of_fold
from tests.browser import open_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def marbles(n_labels=2, n=400, dimension=32):
    """Embeddings in which the labels overlap a little (about 3 % are hard), true labels, and 20 rows to flip."""
    random = np.random.default_rng(0)
    truth = np.arange(n) % n_labels
    centres = random.normal(0, 1 if n_labels == 2 else 1.2, (n_labels, dimension))
    embeddings = centres[truth] + random.normal(0, 1.6, (n, dimension))
    return embeddings.astype(np.float32), truth, random.choice(n, 20, replace=False)


@pytest.mark.parametrize("n_labels", [2, 4])
def test_most_of_twenty_flipped_labels_are_found_and_most_of_what_is_named_was_flipped(n_labels):
    embeddings, truth, flipped = marbles(n_labels)
    given = truth.copy()
    given[flipped] = (given[flipped] + 1) % n_labels
    found = doubts_in(out_of_fold(embeddings, given, np.arange(len(given))), given)
    hits = [(row, label) for row, label in found if row in flipped]
    assert len(hits) >= 17
    assert len(hits) / len(found) >= 0.75
    assert np.mean([label == truth[row] for row, label in hits]) > 0.9


def test_where_all_labels_are_right_hardly_any_is_doubted():
    embeddings, truth, _ = marbles()
    assert len(doubts_in(out_of_fold(embeddings, truth, np.arange(len(truth))), truth)) <= 12


def test_a_wrong_label_that_could_be_learnt_by_heart_is_found_although_copies_of_the_photo_bear_it_too():
    embeddings, truth, flipped = marbles()
    given = truth.copy()
    given[flipped] = 1 - given[flipped]
    copies = np.concatenate([embeddings, embeddings[flipped]])
    labels, groups = np.concatenate([given, given[flipped]]), np.concatenate([np.arange(len(truth)), flipped])
    found = {row for row, _ in doubts_in(out_of_fold(copies, labels, groups), labels)}
    assert len(found & set(flipped.tolist())) >= 15


def test_the_surest_doubt_comes_first_and_a_label_as_likely_as_usual_is_enough():
    def doubted(of_photos_that_bear_it):
        """Doubts about photos of label 0, while those of label 1 usually get such a probability of it."""
        of_1 = np.array([0.65, 0.9, 0.75, 0.1, 0.2, of_photos_that_bear_it])
        return doubts_in(np.stack([1 - of_1, of_1], axis=1), np.array([0, 0, 0, 0, 0, 1]))

    assert doubted(0.99) == [(1, 1)]
    assert doubted(0.7) == [(1, 1), (2, 1)]
    assert doubted(0.6) == [(1, 1), (2, 1), (0, 1)]


def test_one_label_or_one_photo_of_a_label_cannot_be_judged():
    with pytest.raises(ValueError, match="one label"):
        out_of_fold(np.zeros((5, 3), np.float32), np.zeros(5, np.int64), np.arange(5))
    with pytest.raises(ValueError, match="two groups"):
        out_of_fold(np.zeros((5, 3), np.float32), np.array([0, 0, 0, 0, 1]), np.arange(5))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty noisy photos, red ones OK and blue ones KO, but for a red one that lies among the KO."""
    random = np.random.default_rng(1)
    for index in range(40):
        label = ("KO", "OK")[index % 2]
        red = (label == "OK") != (index == 10)
        pixels = random.integers(0, 90, (32, 32, 3))
        pixels[:, :, 0 if red else 2] += 150
        path = tmp_path / "photos" / label / f"[red]{index}<i>.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).resize((96, 96), Image.Resampling.NEAREST).save(path)
    return tmp_path / "photos"


def test_the_command_names_the_photo_and_shows_it(
    photos: Path, redness_bundle: Callable[..., Path], tmp_path, monkeypatch
):
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "cache"))
    page = tmp_path / "doubts.html"
    command = ["check", str(photos), "--model", str(redness_bundle())]
    done = CliRunner().invoke(data, [*command, "--json", "--report", str(page)])
    assert done.exit_code == 0, done.output
    (doubt,) = json.loads(done.stdout)["doubted_labels"]
    assert (doubt["file"], doubt["given"], doubt["suggested"]) == ("KO/[red]10<i>.png", "KO", "OK")
    assert doubt["sure"] > 0.8
    opened = open_page(page)
    assert opened.console == ()
    assert "KO/[red]10&lt;i&gt;.png" in opened.dom
    assert opened.dom.count("<img ") == 1
    said = CliRunner().invoke(data, command).output
    assert "Labels in doubt: 1 of 40 photos" in said
    assert "[red]10<i>.png" in said


def test_a_folder_without_doubts_says_so(photos: Path, redness_bundle: Callable[..., Path], tmp_path, monkeypatch):
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "cache"))
    (photos / "KO" / "[red]10<i>.png").unlink()
    done = CliRunner().invoke(data, ["check", str(photos), "--model", str(redness_bundle())])
    assert done.exit_code == 0, done.output
    assert "No label of 39 photos is in doubt." in done.output


def test_a_page_of_doubts_needs_a_model(photos: Path):
    done = CliRunner().invoke(data, ["check", str(photos), "--report", "x.html"])
    assert done.exit_code == 2
    assert "--model" in done.output
