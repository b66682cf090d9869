"""Whether a model knows when it does not know: frames that must not be called OK, and good ones that must not suffer.

    python -m benchmarks.novelty "one rig=one.okko:DIR" "12 rigs=rigs.okko:DIR" ... --next-day "one rig=DIR"

Each argument names a set, a bundle, and the folder that the bundle was trained on; the test split is found again by the
seed in the manifest. Wrong frames are made of test photos, by other recipes than those that training learns from: an
exact disc of a second object beside the first, a hand with fingers, a camera shifted, turned or come nearer. Cells are
the share with a verdict other than OK and, in brackets, the share that novelty alone finds. --write puts the table
into docs/bundle.md.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.tables import replace_section
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.decision import Verdict
from okko_models.photo import read_photo
from okko_train.dataset import Dataset, Photo, load_dataset
from okko_train.preparation import split_photos

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).parents[1] / "docs" / "bundle.md"
FRAMES = 20
PAIRS = 60
Frame = np.ndarray
Random = np.random.Generator


def black(image: Frame, random: Random) -> Frame:
    """A lens cap."""
    return to_bytes(random.normal(2, 2, image.shape))


def white(image: Frame, random: Random) -> Frame:
    """A lamp in the lens."""
    return to_bytes(random.normal(253, 2, image.shape))


def noise(image: Frame, random: Random) -> Frame:
    """A broken sensor."""
    even = random.random() < 0.5
    return to_bytes(random.uniform(0, 255, image.shape) if even else random.normal(128, 40, image.shape))


def over_exposed(image: Frame, random: Random) -> Frame:
    """Four to eight times the light."""
    return to_bytes(image * random.uniform(4, 8) + random.uniform(20, 60))


def out_of_focus(image: Frame, random: Random) -> Frame:
    """A blur of two to five hundredths of the width."""
    return np.asarray(
        Image.fromarray(image).filter(ImageFilter.GaussianBlur(image.shape[1] * random.uniform(0.02, 0.05)))
    )


def blocked_lens(image: Frame, random: Random) -> Frame:
    """Something dark close to the lens: a smooth gradient."""
    height, width = image.shape[:2]
    colour = random.uniform(5, 90) * np.array([1, random.uniform(0.5, 1), random.uniform(0.3, 1)])
    across = np.linspace(random.uniform(0.6, 1), random.uniform(1, 1.4), width)[None, :, None]
    down = np.linspace(random.uniform(0.6, 1), random.uniform(1, 1.4), height)[:, None, None]
    return to_bytes(colour * across * down + random.normal(0, 4, image.shape))


def hand(image: Frame, random: Random) -> Frame:
    """A palm, an arm and five fingers, shaded, of one of four skin colours."""
    height, width = image.shape[:2]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    angle, radius = random.uniform(0, 2 * np.pi), random.uniform(0.25, 0.4) * height
    x, y = (
        (0.5 + random.uniform(-0.15, 0.15)) * side + 0.9 * radius * part
        for side, part in ((width, math.cos(angle)), (height, math.sin(angle)))
    )
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    arm = [x, y, x + math.cos(angle) * width, y + math.sin(angle) * width]
    draw.line(arm, fill=255, width=int(1.3 * radius))
    for finger in range(-2, 3):
        length, turn, thick = radius * random.uniform(1.5, 1.9), angle + np.pi + 0.3 * finger, 0.22 * radius
        tip_x, tip_y = x + math.cos(turn) * length, y + math.sin(turn) * length
        draw.line([x, y, tip_x, tip_y], fill=255, width=int(2 * thick))
        draw.ellipse([tip_x - thick, tip_y - thick, tip_x + thick, tip_y + thick], fill=255)
    sharp, soft = (
        np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)), np.float32)[..., None] / 255
        for blur in (1.5, 0.35 * radius)
    )
    skin = np.array([[224, 172, 140], [198, 134, 100], [141, 85, 60], [90, 56, 40]][random.integers(4)])
    shaded = skin * random.uniform(0.6, 1) * (0.45 + 0.6 * soft) + random.normal(0, 4, image.shape)
    return to_bytes(image * (1 - sharp) + shaded * sharp)


def moved_camera(image: Frame, random: Random) -> Frame:
    """Shifted by 20 to 40 hundredths of the height, or turned by 20 to 60 degrees, or come to half the distance."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode="reflect")
    what = random.integers(3)
    if what == 0:
        angle, shift = random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.4) * height
        left, top = width // 2 + int(math.cos(angle) * shift), height // 2 + int(math.sin(angle) * shift)
        return padded[top : top + height, left : left + width]
    if what == 1:
        turned = Image.fromarray(padded).rotate(
            float(random.uniform(20, 60) * random.choice([-1, 1])), Image.Resampling.BILINEAR
        )
        return np.asarray(turned)[height // 2 : height // 2 + height, width // 2 : width // 2 + width]
    rest = (1 - random.uniform(0.45, 0.65)) / 2
    box = (width * rest, height * rest, width * (1 - rest), height * (1 - rest))
    return np.asarray(Image.fromarray(image).resize((width, height), box=box))


SINGLE: dict[str, Callable[[Frame, Random], Frame]] = {
    "black": black,
    "white": white,
    "noise": noise,
    "over-exposed": over_exposed,
    "out of focus": out_of_focus,
    "blocked lens": blocked_lens,
    "hand": hand,
    "camera moved": moved_camera,
}


def two_objects(photos: list[Photo], random: Random) -> tuple[Frame, Photo]:
    """Returns a frame with a second object beside the first, and the photo that it was made of."""
    for _ in range(1000):
        first, second = (photos[row] for row in random.choice(len(photos), 2, replace=False))
        if first.group == second.group:
            break
    image, other = read_photo(first.path), read_photo(second.path)
    if "parameters" in first.attributes:
        (at, radius), (from_, other_radius) = marble(first), marble(second)
        distance = (radius + other_radius) * random.uniform(0.75, 1)
        return beside(image, other, at, from_, other_radius, distance, random), first
    height, width = image.shape[:2]
    other = np.asarray(Image.fromarray(other).resize((width, height)))
    rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean()
    if rim > 200:  # on white: the whole of the other object, turned and shifted
        shift = (
            int(random.uniform(-0.3, 0.3) * width),
            int(random.choice([-1, 1]) * random.uniform(0.15, 0.4) * height),
        )
        turned = Image.fromarray(other).rotate(random.uniform(-40, 40), translate=shift, fillcolor=(255, 255, 255))
        return np.minimum(image, np.asarray(turned)), first
    middle, radius = np.array([width / 2, height / 2]), 0.22 * width
    return beside(image, other, middle, middle, radius, radius * random.uniform(1.3, 1.9), random), first


def marble(photo: Photo) -> tuple[np.ndarray, float]:
    """Middle and radius of a rendered marble, in pixels."""
    known = json.loads(photo.attributes["parameters"])
    pixels_per_mm, tilt = photo.width / known["sess"]["width"], math.radians(known["sess"]["tilt"])
    along = known["pos"][0] * pixels_per_mm * np.array([math.cos(tilt), math.sin(tilt)])
    return np.array(known["pocket_px"]) + along, 1.05 * known["R"] * pixels_per_mm


def beside(
    image: Frame, other: Frame, at: np.ndarray, from_: np.ndarray, radius: float, distance: float, random: Random
) -> Frame:
    """Pastes the disc round `from_` of the other photo at a random side of `at`."""
    height, width = image.shape[:2]
    for _ in range(50):
        angle = random.uniform(0, 2 * np.pi)
        to = at + distance * np.array([math.cos(angle), math.sin(angle)])
        if 0.1 * height < to[1] < 0.9 * height:
            break
    down, right = np.mgrid[:height, :width]
    mask = np.clip((radius - np.hypot(right - to[0], down - to[1])) / 1.5 + 0.5, 0, 1)[..., None]
    shift = np.round(to - from_).astype(int)
    rows, columns = np.clip(down - shift[1], 0, height - 1), np.clip(right - shift[0], 0, width - 1)
    return to_bytes(image * (1 - mask) + other[rows, columns] * mask)


def to_bytes(values: np.ndarray) -> Frame:
    """Rounds to grey levels."""
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def measure(classifier: Classifier, dataset: Dataset) -> dict[str, str]:
    """Returns the cells of one set by row."""
    provenance = classifier.bundle.manifest.provenance
    test = [dataset.photos[row] for row in split_photos(dataset, seed=provenance.seed).test]
    ok_labels = classifier.bundle.manifest.decision.ok_labels
    random = np.random.default_rng(5)

    def cell(frames: list[Frame]) -> str:
        said = [classifier.classify(frame) for frame in frames]
        return f"{share(each.verdict is not Verdict.OK for each in said)} ({share(each.novelty > 1 for each in said)})"

    good = [photo for photo in test if photo.label in ok_labels]
    new = [classifier.classify(read_photo(photo.path)).novelty > 1 for photo in good]
    cells = {"good test photos that are new": f"{share(new)} of {len(new)}"}
    objects = [photo for photo in test if '"pos"' in photo.attributes.get("parameters", '"pos"')]
    objects = objects if "parameters" in test[0].attributes else good
    pairs = [two_objects(objects, random) for _ in range(PAIRS)]
    cells["two objects"] = cell([frame for frame, _ in pairs])
    cells["two objects, the first one good"] = cell([frame for frame, photo in pairs if photo.label in ok_labels])
    for name, make in SINGLE.items():
        cells[name] = cell([make(read_photo(test[random.integers(len(test))].path), random) for _ in range(FRAMES)])
    return cells


def share(hits: object) -> str:
    """Returns the share of true values in percent."""
    return f"{100 * np.mean(list(hits)):.0f} %"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+", metavar="NAME=BUNDLE:DIR")
    parser.add_argument("--next-day", action="append", default=[], metavar="NAME=DIR", help="photos of another day")
    parser.add_argument("--write", action="store_true", help="put the table into docs/bundle.md")
    arguments = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    other_days = dict(entry.split("=", 1) for entry in arguments.next_day)
    for entry in arguments.sets:
        name, _, places = entry.partition("=")
        bundle, _, folder = places.partition(":")
        classifier = Classifier(Bundle.open(Path(bundle)))
        group_by = classifier.bundle.manifest.dataset.group_by
        columns[name] = measure(classifier, load_dataset(folder, group_by=group_by))
        if name in other_days:
            photos = load_dataset(other_days[name], minimum_labels=1).photos
            new = [classifier.classify(read_photo(photo.path)).novelty > 1 for photo in photos]
            columns[name]["photos of the next day that are new"] = f"{share(new)} of {len(new)}"
    rows = dict.fromkeys(row for cells in columns.values() for row in cells)
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {row} | {' | '.join(cells.get(row, '') for cells in columns.values())} |" for row in rows]
    print("\n".join(lines))
    if arguments.write:
        replace_section(DOCUMENT, "novelty", "\n".join(lines))


if __name__ == "__main__":
    main()
