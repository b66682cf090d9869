"""The whole of training: photos in, a bundle out.

A test split is put aside first and meets the model only at the very end. On the rest, networks are cross-validated:
that chooses the hyperparameters (by the swarm), the calibration, the thresholds, and float or int8. The head that ships
has learnt from all photos but the test split.
"""

from __future__ import annotations

import platform
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from okko_models.bundle import EXAMPLES, MODEL, REPORT, check_destination
from okko_models.classifier import make_session
from okko_models.decision import Verdict
from okko_models.errors import OkkoError
from okko_models.manifest import NAME_PATTERN, SCHEMA_VERSION, DatasetEntry, GoldenFrame, Manifest, Model, Provenance
from okko_models.photo import read_photo, shrink
from okko_train.candidates import Candidate, Task, choose_candidate, on_pretrained, on_trained_backbone
from okko_train.conformal import check_promise
from okko_train.embedding import outputs_of
from okko_train.engine import some_rows
from okko_train.explain.training import keep_examples, with_reasons
from okko_train.export import assemble, check_parity, write_checked
from okko_train.feature_graph import IMAGE, MINIMUM_ONNXRUNTIME, OPSET, Rectangle
from okko_train.finetune import check_torch
from okko_train.golden import choose_golden, golden_frames
from okko_train.lineage import LINEAGE, lineage_of
from okko_train.metrics import evaluate
from okko_train.novelty_graph import NOVELTY, with_novelty
from okko_train.novelty_learning import learn_novelty
from okko_train.pilot import choose_pilot, learn_from_all
from okko_train.preparation import choose_ok_labels, split_photos
from okko_train.region import Place
from okko_train.report import render
from okko_train.result import Example, Sight, TrainingResult

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_models.bundle import Bundle
    from okko_models.decision import Costs, DecisionRule
    from okko_train.dataset import Dataset, Photo
    from okko_train.feature_graph import Recipe, View

MAX_MISTAKES_SHOWN = 12
# With very many photos an evenly spread part of them says as much: whether the graph is right, and what is usual.
MOST_COMPARED = 10_000
MAX_SIGHTS = 4
SHOWN_SIDE = 240
# Largest difference in probability that golden frames may show on another processor. Both precisions were within 1e-6
# on all that were tried; one pixel that is rounded to the next of 256 steps moves an int8 backbone by hundredths.
TOLERANCE = {"float32": 1e-3, "int8": 0.02}


@dataclass(frozen=True)
class Options:
    """What a user may decide about a training run.

    Attributes:
        name: of the model.
        costs: what mistakes cost.
        max_error: share of bad ones called OK, and of good ones called KO, that the thresholds must keep to; None
            asks for no such promise.
        roi: the part of the photos that the model sees; None finds it.
        ok_labels: labels that count as good; None takes those whose name says so (see `sounds_good`).
        seed: of the split, the networks and the swarm.
        finetune: train the backbone itself, too, and ship the better model.
        scratch: start from nothing instead of a pretrained backbone.
        any_way_up: an object may lie any way round; only training the backbone needs to know.
        epochs: how often training the backbone sees each photo, at most; None: as usual.
        trials: how many sets of hyperparameters the swarm may try.
        budget_s: the search is cut short so that the whole run ends about then; None never cuts.
        workers: processes and threads side by side.
        command: how the run was called, for the manifest.
        test: SHA-256 of the photos that are for the test, where that was decided before; None decides it by the seed.
        earlier: a model of photos that are nearly all among these; where it looked is looked again, and known photos
            need not be computed anew (see `okko_train.lineage`).
    """

    name: str
    costs: Costs
    max_error: float | None = None
    roi: Rectangle | None = None
    ok_labels: tuple[str, ...] | None = None
    seed: int = 0
    finetune: bool = False
    scratch: bool = False
    any_way_up: bool = True
    epochs: int | None = None
    trials: int = 30
    budget_s: float | None = None
    workers: int = 1
    command: str = ""
    test: Collection[str] | None = None
    earlier: Bundle | None = None


def train(dataset: Dataset, out: Path, options: Options) -> TrainingResult:
    """Trains on `dataset` and writes the bundle `out`.

    Raises:
        OkkoError: the photos cannot be trained on, the bundle cannot be written, or the export failed its proof.
    """
    started = time.monotonic()
    check_destination(out)
    dataset.check_trainable()
    ok_labels = choose_ok_labels(dataset, options.ok_labels)
    split = split_photos(dataset, seed=options.seed, test=options.test)
    truth = dataset.targets
    if options.max_error is not None:
        truly_ok = np.isin(truth[split.learn], [dataset.labels.index(label) for label in ok_labels])
        check_promise(options.max_error, int(truly_ok.sum()), int((~truly_ok).sum()))

    if options.finetune or options.scratch:
        check_torch()
    task = Task(dataset, split, ok_labels, options.costs, options.max_error, options.roi, options.seed, options.workers)
    candidates = _candidates(task, options, started)
    chosen = choose_candidate(candidates, task.groups)
    variant, head = chosen.measured, chosen.head
    search = next((each.search for each in candidates if each.search), None)
    familiar = learn_novelty(
        dataset,
        split,
        ok_labels,
        variant.model,
        variant.features,
        _middle(chosen.recipe.view),
        seed=options.seed,
        workers=options.workers,
    )
    model = with_novelty(assemble(variant.model, head), familiar).SerializeToString()

    test_photos = [dataset.photos[row] for row in split.test]
    outputs = ("probability", NOVELTY)
    probability, novelties = outputs_of(dataset, split.test, model, outputs, options.workers, "Testing")
    novelty = novelties.astype(np.float64)
    compared = np.arange(len(split.test))[:: -(-len(split.test) // MOST_COMPARED)]
    check_parity(head.probability(some_rows(variant.features.photos, split.test[compared])), probability[compared])
    test = evaluate(probability, truth[split.test], dataset.labels, variant.rule, novelty)

    golden = golden_frames([test_photos[row] for row in choose_golden(probability, truth[split.test])])
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=options.name,
        version=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{dataset.digest[:8]}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        labels=dataset.labels,
        decision=variant.rule,
        model=Model(
            precision=variant.precision,
            opset=OPSET,
            minimum_onnxruntime=MINIMUM_ONNXRUNTIME,
            embedding_size=head.network.layer_sizes[0],
            tolerance=TOLERANCE[variant.precision],
        ),
        metrics={
            "accuracy": test.accuracy,
            "balanced_accuracy": test.balanced_accuracy,
            "cost_per_photo": test.cost_per_photo,
            "expected_calibration_error": test.calibration_error.corrected,
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
            hyperparameters=chosen.hyperparameters | _where(chosen.recipe),
        ),
        golden=expected_frames(golden, model),
        files={},
    )
    view = chosen.recipe.view
    shown = split.learn[:: -(-len(split.learn) // MOST_COMPARED)]
    embeddings = head.projection(some_rows(variant.features.photos, shown))
    examples = keep_examples([dataset.photos[row] for row in shown], dataset.labels, embeddings, view)
    examples = replace(examples, learnt_from=len(split.learn))
    mistakes = with_reasons(
        mistakes_of(dataset, dataset.labels, split.test, probability, novelty, variant.rule),
        dataset,
        model,
        manifest,
        view,
        examples,
        options.workers,
    )
    result = TrainingResult(
        manifest=manifest,
        dataset=dataset,
        test=test,
        validation=evaluate(variant.probability, truth[split.learn], dataset.labels, variant.rule),
        trials=search.trials if search else (),
        chosen=search.chosen.number if search and chosen.search else -1,
        curves=chosen.curves,
        calibration=variant.calibration,
        variants=tuple(each for candidate in candidates for each in candidate.described(variant)),
        sights=_sights(dataset, split.learn, chosen.recipe.view),
        mistakes=mistakes,
        duration_s=time.monotonic() - started,
    )
    contents = {MODEL: model, REPORT: render(result).encode(), EXAMPLES: examples.encode(), **golden}
    if (lineage := candidates[0].lineage) is not None:
        contents[LINEAGE] = lineage.encode()
    write_checked(out, manifest, contents)
    return result


def model_name(wanted: str | None, out: Path) -> str:
    """Returns the name of the model: `wanted`, or else what the bundle's folder is called without its suffix.

    Raises:
        OkkoError: the name has other characters than letters, digits, dots, dashes and underscores.
    """
    name = wanted or re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().stem).strip("-._")[:80] or "model"
    if not re.fullmatch(NAME_PATTERN, name):
        raise OkkoError(
            f"--name {name!r} cannot be used: 1 to 80 letters, digits, dots, dashes or underscores, the first one a "
            "letter or digit"
        )
    return name


def _candidates(task: Task, options: Options, started: float) -> list[Candidate]:
    """The ways that were asked for; where to look is what the head on the pretrained backbone found best."""
    earlier = lineage_of(options.earlier) if options.earlier else None
    pilot = choose_pilot(task)
    pretrained = on_pretrained(
        pilot,
        trials=options.trials,
        budget_s=options.budget_s,
        started=started,
        earlier=earlier,
        n_photos=len(task.split.learn),
    )
    if pilot is not task:
        pretrained = learn_from_all(task, pretrained)
    trained = [
        on_trained_backbone(
            task, pretrained.recipe, scratch=scratch, any_way_up=options.any_way_up, epochs=options.epochs
        )
        for scratch, wanted in ((False, options.finetune), (True, options.scratch))
        if wanted
    ]
    return [pretrained, *trained]


def _middle(view: View) -> Place:
    """The middle of what the model sees, as shares of the photo's width and height."""
    if isinstance(view.crop, Rectangle):
        return Place(view.crop.x + view.crop.width / 2, view.crop.y + view.crop.height / 2)
    return Place(view.x, view.y)


def _where(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """The middle of the region that was found, or the one that was drawn, as shares of the photo's width and height."""
    if isinstance(recipe.view.crop, Rectangle):
        return {"roi": str(recipe.view.crop)}
    return {} if recipe.view.crop is None else {"region_x": recipe.view.x, "region_y": recipe.view.y}


def expected_frames(golden: dict[str, bytes], model: bytes) -> tuple[GoldenFrame, ...]:
    """Returns the golden frames with the probabilities that the graph `model` gives them here."""
    session = make_session(model, threads=1)
    frames = []
    for name, data in golden.items():
        (probability,) = session.run(("probability",), {IMAGE: read_photo(data, name=name)[None]})
        frames.append(GoldenFrame(name, tuple(probability[0].tolist())))
    return tuple(frames)


def _sights(dataset: Dataset, rows: NDArray[np.int64], view: View) -> tuple[Sight, ...]:
    """One photo of each label, up to four, and what the model sees of it."""
    first: dict[str, Photo] = {}
    for row in rows.tolist():
        first.setdefault(dataset.photos[row].label, dataset.photos[row])
    sights = []
    for _, photo in sorted(first.items())[:MAX_SIGHTS]:
        image = read_photo(photo.path)
        height, width = image.shape[:2]
        left, top, right, bottom = view.box(width, height)
        part = (left / width, top / height, (right - left) / width, (bottom - top) / height)
        sights.append(Sight(photo.name, photo.label, shrink(image, SHOWN_SIDE), part))
    return tuple(sights)


def mistakes_of(
    dataset: Dataset,
    labels: Sequence[str],
    rows: NDArray[np.int64],
    probability: NDArray[np.float32],
    novelty: NDArray[np.float64],
    rule: DecisionRule,
) -> tuple[Example, ...]:
    """The test photos whose verdicts cost something, dearest and surest first."""
    ok_columns = [labels.index(label) for label in rule.ok_labels]
    costly = []
    for row, photo_probability, new in zip(rows.tolist(), probability, novelty.tolist(), strict=True):
        photo, of_ok = dataset.photos[row], float(photo_probability[ok_columns].sum())
        verdict, truly_ok = rule.verdict(of_ok, new), photo.label in rule.ok_labels
        cost, wrongness = rule.costs.of(verdict, truly_ok=truly_ok), abs(of_ok - truly_ok)
        if verdict is Verdict.UNCERTAIN or (verdict is Verdict.OK) != truly_ok:
            costly.append((cost, wrongness, photo, photo_probability, verdict))
    costly.sort(key=lambda each: (-each[0], -each[1], each[2].name))
    return tuple(
        Example(
            name=photo.name,
            image=shrink(read_photo(photo.path), SHOWN_SIDE),
            truth=photo.label,
            probability=dict(zip(labels, photo_probability.tolist(), strict=True)),
            verdict=verdict,
        )
        for _, _, photo, photo_probability, verdict in costly[:MAX_MISTAKES_SHOWN]
    )
