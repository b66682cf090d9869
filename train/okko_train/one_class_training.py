"""The whole of training from good photos alone: photos in, a bundle out, with the same contract as any other.

There is nothing for the swarm to choose: without a bad photo no choice could be judged. Photos of other labels, where
there are any, are never learnt from; they are in the test, so that the report says what would have been found.
"""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import ModelProto, TensorProto, checker, compose, helper, numpy_helper
from threadpoolctl import threadpool_limits

from okko_models.bundle import EXAMPLES, MODEL, REPORT, check_destination
from okko_models.decision import NOVELTY_LIMIT, DecisionRule
from okko_models.errors import OkkoError
from okko_models.manifest import SCHEMA_VERSION, DatasetEntry, Manifest, Model, Provenance
from okko_train.calibration import Calibration
from okko_train.embedding import embed_copies
from okko_train.explain.training import keep_examples, with_reasons
from okko_train.export import check_parity, write_checked
from okko_train.feature_graph import (
    FEATURES,
    IMAGE,
    MINIMUM_ONNXRUNTIME,
    OPSET,
    Pool,
    Recipe,
    Rectangle,
    View,
    feature_model,
)
from okko_train.features import compute
from okko_train.golden import choose_golden, golden_frames
from okko_train.looks import SIZE, Embedded
from okko_train.metrics import costs_of, evaluate
from okko_train.novelty_graph import NOVELTY, with_novelty
from okko_train.novelty_learning import learn_novelty
from okko_train.one_class import MEANING, OneClass, fit_one_class
from okko_train.preparation import TEST_FRACTION, Split
from okko_train.progress import progress
from okko_train.quantize import quantize
from okko_train.region import Place
from okko_train.report import render
from okko_train.result import TrainingResult, Variant
from okko_train.splits import stratified_folds, stratified_split
from okko_train.training import TOLERANCE, expected_frames, mistakes_of
from okko_train.variants import latency_ms

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_models.decision import Costs
    from okko_train.dataset import Dataset

LABELS: Final = ("KO", "OK")
FEWEST: Final = 10
"""Good photos, or groups of them, below which nothing is fitted."""
_MOST_FOLDS: Final = 20
_POOLS: Final = (Pool("block4"), Pool("block10"), Pool("block15"))
_MIDDLE: Final = 0.5


@dataclass(frozen=True)
class OneClassOptions:
    """What a user may decide about a training run from good photos alone.

    Attributes:
        name: of the model.
        normal: labels that are learnt from.
        false_alarms: share of good photos that may fail to be called OK, in (0, 1).
        costs: what mistakes cost; for the report.
        roi: the part of the photos to look at; None looks at the whole and at the middle.
        seed: of the split and of the wrong pictures.
        workers: threads side by side.
        command: how the run was called, for the manifest.
    """

    name: str
    normal: tuple[str, ...]
    costs: Costs
    false_alarms: float = 0.05
    roi: Rectangle | None = None
    seed: int = 0
    workers: int = 1
    command: str = ""


def train_one_class(dataset: Dataset, out: Path, options: OneClassOptions) -> TrainingResult:
    """Learns from the photos of `options.normal` and writes the bundle `out`.

    Raises:
        OkkoError: too few good photos, the bundle cannot be written, or the export failed its proof.
    """
    started = time.monotonic()
    check_destination(out)
    good = good_rows(dataset, options.normal)
    split = split_good(dataset, good, options.seed)
    dataset = _two_labels(dataset, options.normal)
    truth = np.array([LABELS.index(photo.label) for photo in dataset.photos])
    views = [View(options.roi, SIZE)] if options.roi else [View(None, SIZE), View(_MIDDLE, SIZE)]
    recipes = [Recipe(view, _POOLS) for view in views]
    learn_photos = [dataset.photos[row] for row in split.learn]

    variants = []
    for precision in ("float32", "int8"):
        models = [feature_model(recipe) for recipe in recipes]
        if precision == "int8":
            models = [quantize(model, learn_photos) for model in models]
        model = side_by_side(models)
        variants.append((precision, model, latency_ms(model, learn_photos)))
    # No bad photo tells which is more accurate; the distances are fitted to whichever ships.
    precision, model, _ = min(variants, key=lambda each: each[2])
    digest = hashlib.sha256(model.SerializeToString()).hexdigest()
    features = embed_copies(dataset, split.learn, model, digest, "Looking at the photos", options.workers, copies=0)
    widths = np.cumsum([recipe.length for recipe in recipes])[:-1]
    looks = np.split(features.photos[split.learn], widths, axis=1)
    with threadpool_limits(1):
        judge, left_out = fit_one_class(looks, split.folds, options.false_alarms)
    rule = DecisionRule(("OK",), ok_threshold=0.5, ko_threshold=judge.ko_threshold, costs=options.costs)
    roi = options.roi or Rectangle(0.0, 0.0, 1.0, 1.0)
    place = Place(roi.x + roi.width / 2, roi.y + roi.height / 2)
    unseen = Embedded(features.photos, np.empty((0, len(split.learn), 1), np.float32))
    novelty = learn_novelty(dataset, split, ("OK",), model, unseen, place, seed=options.seed, workers=options.workers)
    graph = let_ko_stand(with_novelty(one_class_model(model, judge), novelty), judge).SerializeToString()

    test_photos = [dataset.photos[row] for row in split.test]
    rows, novelties = [], []
    with progress("Testing", len(test_photos)) as tested:
        for row, new in compute(test_photos, graph, ("probability", NOVELTY), workers=options.workers):
            rows.append(row)
            novelties.append(float(new))
            tested()
    probability = np.stack(rows)
    check_parity(judge.probability(features.photos[split.test]), probability)
    test = evaluate(probability, truth[split.test], LABELS, rule, np.array(novelties))
    of_ok = judge.of_ok(left_out)
    golden = golden_frames([test_photos[row] for row in choose_golden(probability, truth[split.test])])
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=options.name,
        version=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{dataset.digest[:8]}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        labels=LABELS,
        decision=rule,
        model=Model(
            precision=precision,
            opset=OPSET,
            minimum_onnxruntime=MINIMUM_ONNXRUNTIME,
            embedding_size=sum(look.axes.shape[1] for look in judge.looks),
            tolerance=TOLERANCE[precision],
        ),
        metrics={
            "accuracy": test.accuracy,
            "balanced_accuracy": test.balanced_accuracy,
            "cost_per_photo": test.cost_per_photo,
            "novel": test.novel,
        },
        dataset=DatasetEntry(
            digest=dataset.digest, photos=dataset.counts(), group_by=dataset.group_by, test_photos=test.n
        ),
        provenance=Provenance(
            command=options.command,
            seed=options.seed,
            python=platform.python_version(),
            versions={package: version(package) for package in ("okko", "numpy", "onnx", "onnxruntime", "pillow")},
            hyperparameters=_settings(options),
        ),
        golden=expected_frames(golden, graph),
        files={},
        probability_means=MEANING,
    )
    embeddings = np.concatenate(
        [(part - look.mean) @ look.axes for part, look in zip(looks, judge.looks, strict=True)], axis=1
    )
    examples = keep_examples(learn_photos, LABELS, embeddings, views[0])
    mistakes = with_reasons(
        mistakes_of(dataset, LABELS, split.test, probability, np.array(novelties), rule),
        dataset,
        graph,
        manifest,
        views[0],
        examples,
        options.workers,
    )
    validation = evaluate(np.stack([1 - of_ok, of_ok], axis=1), truth[split.learn], LABELS, rule)
    cost = float(costs_of(of_ok, np.ones(len(of_ok), np.bool_), rule).mean())
    result = TrainingResult(
        manifest=manifest,
        dataset=dataset,
        test=test,
        validation=validation,
        trials=(),
        chosen=-1,
        curves=(),
        calibration=Calibration(1.0, (0.0, 0.0)),
        variants=tuple(
            Variant(
                backbone=recipes[0].backbone.name,
                precision=name,
                megabytes=each.ByteSize() / 1e6,
                latency_ms=milliseconds,
                log_loss=float(-np.log(of_ok).mean()),
                cost_per_photo=cost,
                shipped=name == precision,
            )
            for name, each, milliseconds in variants
            if name == precision
        ),
        sights=(),
        mistakes=mistakes,
        duration_s=time.monotonic() - started,
    )
    contents = {MODEL: graph, REPORT: render(result).encode(), EXAMPLES: examples.encode(), **golden}
    write_checked(out, manifest, contents)
    return result


def _settings(options: OneClassOptions) -> dict[str, bool | int | float | str]:
    settings: dict[str, bool | int | float | str] = {
        "learnt_from": "good photos alone",
        "normal": ", ".join(options.normal),
        "false_alarms": options.false_alarms,
    }
    return settings if options.roi is None else settings | {"roi": str(options.roi)}


def side_by_side(models: list[ModelProto]) -> ModelProto:
    """Returns one graph from `image` to the `features` of all `models`, one after the other."""
    if len(models) == 1:
        return models[0]
    whole = ModelProto()
    whole.CopyFrom(models[0])
    graph = whole.graph
    del graph.node[:], graph.initializer[:], graph.output[:]
    parts, width = [], 0
    for number, model in enumerate(models):
        prefix = f"look{number}_"
        renamed = compose.add_prefix(model, prefix).graph
        for node in renamed.node:
            node.input[:] = [IMAGE if name == prefix + IMAGE else name for name in node.input]
        graph.node.extend(renamed.node)
        graph.initializer.extend(renamed.initializer)
        parts.append(prefix + FEATURES)
        width += model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph.node.append(helper.make_node("Concat", parts, [FEATURES], "looks_concat", axis=1))
    graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", width]))
    checker.check_model(whole, full_check=True)
    return whole


def one_class_model(features: ModelProto, judge: OneClass) -> ModelProto:
    """Returns the graph from `image` to `probability` (n, 2) and `embedding`."""
    model = ModelProto()
    model.CopyFrom(features)
    graph = model.graph
    nodes, initializers = judge.nodes(FEATURES)
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    del graph.output[:]
    size = sum(look.axes.shape[1] for look in judge.looks)
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", len(LABELS)]))
    graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", size]))
    checker.check_model(model, full_check=True)
    return model


def let_ko_stand(model: ModelProto, judge: OneClass) -> ModelProto:
    """Returns the graph with its novelty held at the limit where the verdict is KO.

    Whoever learns from good photos alone knows no bad ones, so every defect is new; it must still be thrown out.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    (last,) = (node for node in graph.node if NOVELTY in node.output)
    last.output[:] = ["novelty_of_any"]
    constants = {"ko_below": np.float32(judge.ko_threshold), "ko_limit": np.float32(NOVELTY_LIMIT)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "ko_axis"))
    graph.node.extend(
        [
            helper.make_node("Squeeze", ["one_class_of_ok", "ko_axis"], ["ko_of_ok"], "ko_squeeze"),
            helper.make_node("Less", ["ko_of_ok", "ko_below"], ["ko_is"], "ko_less"),
            helper.make_node("Min", ["novelty_of_any", "ko_limit"], ["ko_novelty"], "ko_min"),
            helper.make_node("Where", ["ko_is", "ko_novelty", "novelty_of_any"], [NOVELTY], "ko_where"),
        ]
    )
    checker.check_model(changed, full_check=True)
    return changed


def good_rows(dataset: Dataset, normal: tuple[str, ...]) -> NDArray[np.int64]:
    """Returns the rows of the photos with one of the labels `normal`.

    Raises:
        OkkoError: a label does not exist.
    """
    if unknown := sorted(set(normal) - set(dataset.labels)):
        raise OkkoError(f"--normal names {', '.join(unknown)}, but the labels are {', '.join(dataset.labels)}")
    return np.flatnonzero([photo.label in normal for photo in dataset.photos])


def _two_labels(dataset: Dataset, normal: tuple[str, ...]) -> Dataset:
    """The same photos, called OK where their label is normal and KO elsewhere."""
    photos = tuple(replace(photo, label=LABELS[photo.label in normal]) for photo in dataset.photos)
    return replace(dataset, photos=photos, labels=tuple(sorted({photo.label for photo in photos})))


def split_good(dataset: Dataset, good: NDArray[np.int64], seed: int) -> Split:
    """Puts a fifth of the good photos and all others into the test; the rest is cut into folds.

    Raises:
        OkkoError: there are too few good photos, or groups of them.
    """
    groups = dataset.split_groups()[good]
    n_groups = len(np.unique(groups))
    if n_groups < FEWEST:
        raise OkkoError(
            f"{dataset.root}: {len(good)} good photos in {n_groups} groups (photos that look nearly the same count as "
            f"one); learning from good photos alone needs at least {FEWEST}, and 50 or more to be any good; add photos"
        )
    same = np.zeros(len(good), np.int64)
    learn, test = stratified_split(same, groups, fraction=TEST_FRACTION, seed=seed)
    folds = stratified_folds(same[learn], groups[learn], k=min(_MOST_FOLDS, len(np.unique(groups[learn]))), seed=seed)
    others = np.setdiff1d(np.arange(len(dataset)), good)
    return Split(good[learn], np.sort(np.concatenate([good[test], others])), folds)
