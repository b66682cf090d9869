import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from okko_train.backbone import EMBEDDING
from okko_train.feature_graph import CENTRE_SPREAD, Pool, Pooling, Recipe, Rectangle, View, feature_model
from okko_train.looks import looks_at
from okko_train.region import Place

RNG = np.random.default_rng(0)
LOOKS = looks_at(Place(0.4, 0.6))


def run(recipe, image):
    session = onnxruntime.InferenceSession(feature_model(recipe).SerializeToString())
    return session.run(None, {"image": np.atleast_1d(image) if image.ndim == 4 else image[None]})[0]


def photo(height=120, width=160):
    coarse = RNG.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_has_as_many_features_as_it_says(name):
    assert run(LOOKS[name], photo()).shape == (1, LOOKS[name].length)
    assert LOOKS[name].emphasis.shape == (LOOKS[name].length,)


def test_photos_in_one_batch_do_not_mix():
    images = np.stack([photo() for _ in range(3)])
    together = run(LOOKS["region"], images)
    for row, image in enumerate(images):
        np.testing.assert_allclose(together[row], run(LOOKS["region"], image)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.5), (1.0, 1.0), (0.5, 0.0), (0.25, 0.75)])
def test_a_region_sees_exactly_its_square_and_stays_inside_the_photo(x, y):
    image = photo(120, 160)
    left, top = (int(np.clip(share * side - 30, 0, side - 60)) for share, side in ((x, 160), (y, 120)))
    square = image[top : top + 60, left : left + 60]
    np.testing.assert_array_equal(run(Recipe(View(0.5, 64, x=x, y=y)), image), run(Recipe(View(None, 64)), square))


@pytest.mark.parametrize(
    "part", [(0.25, 0.1, 0.5, 0.8), (0, 0, 1, 1), (0.99, 0.99, 0.01, 0.01), (0.333, 0.5, 0.6, 0.2)]
)
@pytest.mark.parametrize("size", [(120, 160), (97, 61), (3, 5), (1, 1)])
def test_a_drawn_rectangle_is_seen_exactly_and_is_never_empty(part, size):
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    view = View(Rectangle(*part), 64)
    left, top, right, bottom = view.box(size[1], size[0])
    assert abs(left - part[0] * size[1]) <= 0.5 or left == size[1] - 1
    assert 0 <= left < right <= size[1]
    assert 0 <= top < bottom <= size[0]
    seen = image[top:bottom, left:right]
    np.testing.assert_array_equal(run(Recipe(view), image), run(Recipe(View(None, 64)), seen))


@pytest.mark.parametrize("part", [(-0.1, 0, 0.5, 0.5), (0.6, 0, 0.5, 0.5), (0, 0, 0, 1), (0, 0, float("nan"), 1)])
def test_a_rectangle_that_is_no_part_of_the_photo_is_refused(part):
    with pytest.raises(ValueError, match="not a part of the photo"):
        Rectangle(*part)


def test_where_a_region_is_drawn_nothing_else_is_looked_at():
    part = Rectangle(0.2, 0.3, 0.4, 0.5)
    assert {recipe.view.crop for recipe in looks_at(part).values()} == {part}


def test_a_centred_view_does_not_see_what_lies_outside():
    image = photo(120, 160)
    other = image.copy()
    other[:, :20], other[:, -20:] = 255, 0
    recipe = Recipe(View(0.5, 64))
    np.testing.assert_array_equal(run(recipe, image), run(recipe, other))
    whole = Recipe(View(None, 64))
    assert not np.allclose(run(whole, image), run(whole, other))


def test_a_photo_of_uniform_colour_has_the_same_features_at_any_size():
    recipe = Recipe(View(None, 64))
    small, large = (np.full((*size, 3), (200, 90, 30), np.uint8) for size in ((40, 60), (900, 1200)))
    np.testing.assert_allclose(run(recipe, small), run(recipe, large), atol=1e-4)


def test_shrinking_filters_first_so_that_a_checkerboard_turns_grey():
    board = np.indices((640, 640)).sum(axis=0) % 2 * 255
    fine = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    grey = np.full((64, 64, 3), 128, np.uint8)
    recipe = Recipe(View(None, 64))
    assert np.abs(run(recipe, fine) - run(recipe, grey)).max() < 0.05 * np.abs(run(recipe, grey)).max()


@pytest.mark.parametrize("name", LOOKS)
def test_pixels_are_resized_as_whole_numbers_which_all_processors_do_alike(name):
    model = onnx.shape_inference.infer_shapes(feature_model(LOOKS[name]))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    (resize,) = [node for node in model.graph.node if node.op_type == "Resize"]
    assert types[resize.input[0]] == types[resize.output[0]] == onnx.TensorProto.UINT8


def test_the_centre_counts_more_in_centre_pooling_and_a_constant_map_stays_as_it_is():
    side = 7
    distance = (np.arange(side) + 0.5) / side - 0.5
    bell = np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * CENTRE_SPREAD**2))
    assert bell[3, 3] == bell.max() > 5 * bell[0, 0]
    mean, centre = (Recipe(View(None, 64), (Pool("block0", pooling),)) for pooling in Pooling)
    flat = np.full((64, 64, 3), 128, np.uint8)
    assert run(mean, flat).shape == run(centre, flat).shape == (1, 16)


def test_a_size_that_the_backbone_would_pad_wrongly_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        View(None, 100)


def test_the_digest_names_the_numbers():
    recipes = [Recipe(View(None, 64)), Recipe(View(0.5, 64)), Recipe(View(None, 64), (Pool("head"),))]
    assert len({recipe.digest for recipe in recipes}) == 3
    assert recipes[0].digest == Recipe(View(None, 64), (Pool(EMBEDDING),)).digest
