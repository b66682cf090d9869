"""Why a model says what it says: heat that is where the model looks, and neighbours that are the nearest."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from okko_models.bundle import EXAMPLES, Bundle, write_bundle
from okko_models.classifier import Classifier
from okko_models.decision import Verdict
from okko_models.errors import BundleError, OkkoError
from okko_train.commands.explain import explain as command
from okko_train.dataset import load_dataset
from okko_train.explain import explain, view_of
from okko_train.explain.examples import (
    MOST_BYTES,
    Examples,
    KeptPhoto,
    choose_examples,
    read_examples,
    usual_distance,
)
from okko_train.explain.heat import QUICK, heat_map, steps
from okko_train.explain.overlay import KO_COLOUR, OK_COLOUR, overlay
from okko_train.explain.picture import draw
from okko_train.explain.training import keep_examples, with_reasons
from okko_train.feature_graph import Rectangle, View
from okko_train.report import render
from okko_train.result import Example
from tests.conftest import manifest, png
from tests.train.test_report import invented_result

HEIGHT, WIDTH = 96, 128
SPOT = slice(20, 40), slice(80, 104)
OTHER = slice(60, 80), slice(16, 40)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def spread(photos: np.ndarray, where: tuple[slice, slice]) -> np.ndarray:
    """A score that only what is seen at one place can change, and blurring lowers."""
    return photos[:, where[0], where[1]].astype(float).std(axis=(1, 2, 3))


def share_at(heat: np.ndarray, where: tuple[slice, slice], margin: int = 12) -> float:
    rows, columns = (slice(each.start - margin, each.stop + margin) for each in where)
    return float(np.abs(heat[rows, columns]).sum() / np.abs(heat).sum())


def spot_model() -> bytes:
    """P(OK) rises with how red the spot is on average, and nothing else; the embedding is the spot's mean colour."""
    constants = {
        "start": np.array([SPOT[0].start, SPOT[1].start], np.int64),
        "end": np.array([SPOT[0].stop, SPOT[1].stop], np.int64),
        "axes": np.array([1, 2], np.int64),
        "matrix": np.array([[-1 / 16, 1 / 16], [0, 0], [0, 0]], np.float32),
        "offset": np.array([8, -8], np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["image", "start", "end", "axes"], ["spot"]),
        helper.make_node("Cast", ["spot"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Gemm", ["embedding", "matrix", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in (("probability", 2), ("embedding", 3))
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "spot", [image], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def photo_of(colour: tuple[int, int, int] = (30, 120, 90)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def examples(n: int = 9, dimensions: int = 3) -> Examples:
    embeddings = np.zeros((n, dimensions), np.float32)
    embeddings[:, 0] = np.arange(n) * 10
    photos = [KeptPhoto(f"OK/{i}.jpg", i % 2, hashlib.sha256(bytes([i])).hexdigest(), photo_of()) for i in range(n)]
    return Examples.of(photos, embeddings, usual_distance(embeddings), n)


def spot_bundle(folder: Path, kept: bytes | None, **hyperparameters: float | str) -> Path:
    golden = {"golden/00.png": png((250, 10, 10), (WIDTH, HEIGHT)), "golden/01.png": png((9, 9, 9), (WIDTH, HEIGHT))}
    about = manifest(spot_model(), golden)
    provenance = msgspec.structs.replace(about.provenance, hyperparameters=hyperparameters)
    contents = {"model.onnx": spot_model(), **golden} | ({EXAMPLES: kept} if kept is not None else {})
    write_bundle(folder / "spot.okko", msgspec.structs.replace(about, provenance=provenance), contents)
    return folder / "spot.okko"


def saved(image: np.ndarray, path: Path) -> Path:
    Image.fromarray(image).save(path)
    return path


def red_spot() -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    image[SPOT] = (230, 40, 40)
    return image


def test_the_heat_is_where_the_model_looks_and_has_the_sign_of_what_it_said() -> None:
    image = noise()
    area = (0, 0, WIDTH, HEIGHT)
    found = heat_map(lambda photos: spread(photos, SPOT) - spread(photos, OTHER), image, area)
    assert share_at(found.map, SPOT) + share_at(found.map, OTHER) > 0.8
    assert found.map[SPOT].min() > 0 > found.map[OTHER].max()
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    assert SPOT[0].start <= row < SPOT[0].stop
    assert SPOT[1].start <= column < SPOT[1].stop
    assert found.most_for > 0
    assert found.most_against > 0


def test_the_same_photo_always_gives_the_same_map_and_every_step_is_counted() -> None:
    counted = []
    maps = [
        heat_map(
            lambda photos: spread(photos, SPOT),
            noise(),
            (8, 8, 120, 88),
            grids=QUICK,
            on_step=lambda: counted.append(1),
        ).map
        for _ in range(2)
    ]
    assert np.array_equal(*maps)
    assert len(counted) == 2 * steps(QUICK)


def test_around_the_area_there_is_heat_only_if_the_model_looks_there() -> None:
    area = (64, 8, 120, 56)
    inside = heat_map(lambda photos: spread(photos, SPOT), noise(), area, grids=QUICK)
    both = heat_map(lambda photos: spread(photos, SPOT) + spread(photos, OTHER), noise(), area, grids=QUICK)
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[8:56, 64:120] = False
    assert (inside.around, both.around) == (False, True)
    assert not inside.map[outside].any()
    assert both.map[OTHER].min() > 0


def test_a_model_that_ignores_the_photo_gives_no_heat_and_a_picture_all_the_same() -> None:
    found = heat_map(lambda photos: np.zeros(len(photos)), noise(), (0, 0, WIDTH, HEIGHT), grids=QUICK)
    assert not found.map.any()
    assert overlay(noise(), found.map, 200).shape == (150, 200, 3)


def test_what_spoke_for_ok_is_blue_and_what_spoke_for_ko_orange() -> None:
    heat = np.zeros((30, 60), np.float32)
    heat[:, 30:], heat[:, :30] = 1, -1
    shown = overlay(np.full((30, 60, 3), 128, np.uint8), heat, 240).astype(float)
    for part, colour in ((shown[40:80, 150:230], OK_COLOUR), (shown[40:80, 10:90], KO_COLOUR)):
        assert np.abs(np.median(part, axis=(0, 1)) - colour).max() < 20


def test_neighbours_are_the_nearest_and_their_distance_is_in_usual_distances() -> None:
    near = examples().nearest(np.array([33, 0, 0], np.float32))
    assert [each.photo.name for each in near] == [f"OK/{i}.jpg" for i in (3, 4, 2, 5, 1)]
    assert [each.distance for each in near] == pytest.approx([0.3, 0.7, 1.3, 1.7, 2.3])


def test_of_many_photos_those_are_kept_that_leave_no_other_far_away() -> None:
    random = np.random.default_rng(0)
    middles = random.normal(0, 50, (12, 4))
    embeddings = (middles[np.arange(600) % 12] + random.normal(0, 1, (600, 4))).astype(np.float32)
    rows = choose_examples(embeddings, 24)
    assert len(set(rows)) == 24
    assert {row % 12 for row in rows} == set(range(12))
    assert sorted(choose_examples(embeddings[:7], 24)) == list(range(7))


def test_photos_that_are_all_there_twice_still_have_distances() -> None:
    assert usual_distance(np.zeros((6, 3), np.float32)) == 1
    assert usual_distance(np.zeros((1, 3), np.float32)) == 1


def test_what_is_written_is_read_back_and_the_same_again(tmp_path: Path) -> None:
    kept = examples()
    assert kept.encode() == examples().encode()
    read = read_examples(Bundle.open(spot_bundle(tmp_path, kept.encode())))
    assert read is not None
    assert read.photos == kept.photos
    assert np.array_equal(read.embeddings, kept.embeddings)
    assert (read.usual_distance, read.learnt_from) == (10, 9)


def test_the_file_keeps_to_its_size_however_large_the_photos() -> None:
    large = dataclasses.replace(examples().photos[0], jpeg=bytes(300_000))
    kept = Examples.of([large] * 12, np.zeros((12, 3), np.float32), 1.0, 12)
    assert MOST_BYTES / 2 < len(kept.encode()) <= MOST_BYTES


def rewritten(change: str) -> bytes:
    arrays = dict(np.load(io.BytesIO(examples().encode()), allow_pickle=False))
    if change == "pickle":
        arrays["label"] = np.array([{"a": 1}] * 9, object)
    elif change == "labels":
        arrays["label"][0] = 7
    elif change == "size":
        arrays["embedding"] = np.zeros((9, 4), np.float16)
    elif change == "not a number":
        arrays["embedding"][0, 0] = np.nan
    elif change == "rows":
        arrays["digest"] = arrays["digest"][:4]
    elif change == "ends":
        arrays["photo_end"][3] = 4_000_000_000
    elif change == "missing":
        del arrays["photo"]
    buffer = io.BytesIO()
    (np.savez_compressed if change == "compressed" else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def with_shape(shape: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, zipfile.ZipFile(io.BytesIO(examples().encode())) as sound:
        for name in sound.namelist():
            data = sound.read(name)
            if name == "embedding.npy":
                header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
                data = data[:8] + len(header).to_bytes(2, "little") + header.encode() + data[128:]
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        *map(rewritten, ("pickle", "labels", "size", "not a number", "rows", "ends", "missing", "compressed")),
        *map(with_shape, ("(9000000000000, 3)", "(10**40, 3)", "(-1, 3)", "()")),
        b"",
        b"PK\x03\x04 no archive",
        examples().encode()[:-40],
        bytes(9 << 20),
    ],
)
def test_a_file_of_training_photos_that_was_tampered_with_is_refused_in_words(data: bytes, tmp_path: Path) -> None:
    bundle = Bundle.open(spot_bundle(tmp_path, data))
    with pytest.raises(BundleError, match=r"examples\.npz does not hold training photos"):
        read_examples(bundle)


def test_names_of_photos_cannot_command_a_terminal(tmp_path: Path) -> None:
    kept = examples(2)
    evil = dataclasses.replace(kept.photos[0], name="\x1b[2Jgone\n\udcff.jpg")
    data = Examples(kept.embeddings, (evil, kept.photos[1]), 1.0, 2).encode()
    read = read_examples(Bundle.open(spot_bundle(tmp_path, data)))
    assert read is not None
    assert read.photos[0].name.isprintable()
    assert "gone" in read.photos[0].name


def test_the_heat_of_a_bundle_that_looks_at_one_spot_points_to_that_spot(tmp_path: Path) -> None:
    classifier = Classifier(Bundle.open(spot_bundle(tmp_path, examples().encode())))
    found = explain(classifier, saved(red_spot(), tmp_path / "red.png"))
    assert found.said.label == "OK"
    assert share_at(found.heat.map, SPOT) > 0.7
    assert found.heat.map[SPOT].min() > 0
    assert [each.photo.name for each in found.neighbours[:1]] == ["OK/8.jpg"]
    with Image.open(io.BytesIO(draw(found))) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 20


def test_a_photo_that_was_learnt_from_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    path = saved(red_spot(), tmp_path / "red.png")
    kept = examples(2)
    known = dataclasses.replace(kept.photos[1], digest=hashlib.sha256(path.read_bytes()).hexdigest())
    data = Examples(kept.embeddings, (kept.photos[0], known), 1.0, 2).encode()
    found = explain(Classifier(Bundle.open(spot_bundle(tmp_path, data))), path, grids=QUICK)
    assert found.learnt


def test_the_manifest_says_where_the_model_looks() -> None:
    assert view_of({}).crop is None
    assert view_of({"roi": "0.25,0.1,0.5,0.8"}).crop == Rectangle(0.25, 0.1, 0.5, 0.8)
    assert view_of({"region_x": 0.4, "region_y": 0.6}).box(200, 100) == (55, 35, 105, 85)
    for wrong in ({"roi": "everything"}, {"roi": "0,0,2,2"}, {"region_x": 3.0, "region_y": 0.5}):
        with pytest.raises(BundleError, match="no part of a photo"):
            view_of(wrong)


def test_the_command_writes_one_picture_and_prints_the_numbers(tmp_path: Path) -> None:
    bundle = spot_bundle(tmp_path, examples().encode(), roi="0.5,0.1,0.5,0.5")
    photo = saved(red_spot(), tmp_path / "red.png")
    out = tmp_path / "why.png"
    ran = CliRunner().invoke(command, [str(bundle), str(photo), "-o", str(out), "--json"])
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert (said["verdict"], said["label"], said["around_counts"]) == ("OK", "OK", False)
    assert said["looks_at"] == pytest.approx([0.5, 0.1, 0.5, 0.5], abs=0.01)
    assert np.array(said["heat"]["cells"]).shape == (12, 12)
    assert said["heat"]["most_for_ok"] > 1
    assert [each["name"] for each in said["neighbours"]] == [f"OK/{i}.jpg" for i in (8, 7, 6, 5, 4)]
    assert said["missing"] == []
    with Image.open(out) as picture:
        assert picture.size == (1512, 1008)


def test_a_bundle_without_training_photos_still_gives_the_heat_map_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, photo = spot_bundle(tmp_path, None), saved(red_spot(), tmp_path / "red.png")
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(command, [str(bundle), str(photo)])
    assert Path("red-explained.png").stat().st_size > 10_000
    assert ran.exit_code == 0
    assert "Covering the place that spoke most for OK" in " ".join(ran.stdout.split())
    assert "holds no training photos" in " ".join(ran.stdout.split())
    assert "okko train" in ran.stdout


def test_what_cannot_be_explained_is_refused_in_words(tmp_path: Path) -> None:
    bundle, photo = spot_bundle(tmp_path, None), saved(red_spot(), tmp_path / "red.png")
    (tmp_path / "text.jpg").write_text("hello")
    for arguments, words in (
        ([photo, "-o", tmp_path / "why.svg"], "does not end in .png"),
        ([photo, "-o", tmp_path / "nowhere" / "why.png"], "not a folder that exists"),
        ([photo, "-o", photo], "is the photo itself"),
        ([tmp_path], "is a folder"),
        ([tmp_path / "missing.png"], "cannot be read"),
        ([tmp_path / "text.jpg"], "a text file"),
    ):
        ran = CliRunner().invoke(
            command,
            [str(bundle), *map(str, arguments), *(["-o", str(tmp_path / "o.png")] if len(arguments) == 1 else [])],
        )
        assert ran.exit_code != 0
        assert isinstance(ran.exception, (OkkoError, SystemExit))
        assert words in f"{ran.output} {ran.exception}", words
    assert not (tmp_path / "o.png").exists()


def test_training_keeps_photos_of_what_the_model_sees_and_the_report_shows_reasons_for_mistakes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("KO", "OK"):
        (tmp_path / label).mkdir()
        for number in range(4):
            image = random.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            image[SPOT] = (200 if label == "OK" else 60, 40, 10 * number)
            saved(image, tmp_path / label / f"{number}.png")
    dataset = load_dataset(tmp_path)
    embeddings = np.array([photo_embedding(photo.path) for photo in dataset.photos], np.float32)
    view = View(Rectangle(0.5, 0, 0.5, 0.5), 32)
    kept = keep_examples(dataset.photos, dataset.labels, embeddings, view)
    with Image.open(io.BytesIO(kept.photos[0].jpeg)) as small:
        assert small.size == (WIDTH // 2, HEIGHT // 2)
    mistake = Example(dataset.photos[5].name, noise(), "OK", {"KO": 0.9, "OK": 0.1}, Verdict.KO)
    (explained,) = with_reasons([mistake], dataset, spot_model(), manifest(spot_model(), {}), view, kept, workers=1)
    assert explained.reasons is not None
    assert explained.reasons.neighbours[0].photo.name == mistake.name
    assert explained.reasons.heat.shape == (225, 300, 3)
    result = invented_result(n_mistakes=2)
    page = render(dataclasses.replace(result, mistakes=(explained, *result.mistakes[1:])))
    assert page.count('<img src="data:image/jpeg') == 2 + 1 + 5 + len(result.sights)
    assert page.count(f'title="{mistake.name}"') == 1


def photo_embedding(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)[SPOT].mean(axis=(0, 1))
