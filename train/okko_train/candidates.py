"""Ways to make a model of the same photos: a head on the pretrained backbone, a fine-tuned backbone, one from scratch.

Each is measured by cross-validation on the photos that are not in the test split, in float and in int8, so that they
can be compared by what they cost the user. Which one ships is `choose_candidate`'s decision.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from okko_train.embedding import embed_copies, embed_looks, find_region, name_of
from okko_train.feature_graph import FEATURES, feature_model
from okko_train.features import compute
from okko_train.finetune import FOLDS, TunedNetwork, from_scratch, sized_for, tune_backbone
from okko_train.head import Head, Hyperparameters, Projection, train_network
from okko_train.lineage import Lineage, ranges_key
from okko_train.looks import Embedded, looks_at
from okko_train.metrics import clearly_better
from okko_train.network import Network
from okko_train.progress import console, progress
from okko_train.quantize import activation_ranges, quantize, quantize_with
from okko_train.region import Place
from okko_train.tuning import CrossValidation, Look, TuningResult, choose_look, tune
from okko_train.variants import Measured, choose, is_worse, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from okko_models.decision import Costs
    from okko_train.dataset import Dataset
    from okko_train.feature_graph import Recipe, Rectangle
    from okko_train.preparation import Split
    from okko_train.result import LearningCurve, Variant

# The search must leave time for int8, export and report; a fixed part, and a part that grows with the photos.
RESERVE_S = 8.0
RESERVE_PER_EMBEDDING_S = 0.6
# Principal components of a fine-tuned backbone's features that go into the embedding, beside the scores.
_TUNED_COMPONENTS = 64


@dataclass(frozen=True)
class Task:
    """What is to be learnt, and from what.

    Attributes:
        dataset: the photos.
        split: which of them may be learnt from, and their folds.
        ok_labels: labels that count as good.
        costs: what mistakes cost.
        max_error: error rate to promise, None for no promise.
        roi: the part of the photos to look at, None to find it.
        seed: of everything random.
        workers: processes and threads side by side.
    """

    dataset: Dataset
    split: Split
    ok_labels: tuple[str, ...]
    costs: Costs
    max_error: float | None
    roi: Rectangle | None
    seed: int
    workers: int

    @property
    def truth(self) -> NDArray[np.int64]:
        """(n_learn,) index of the label of each photo that may be learnt from."""
        return self.dataset.targets[self.split.learn]

    @property
    def groups(self) -> NDArray[np.int64]:
        """(n_learn,) the group of each photo that may be learnt from; photos of one group may err together."""
        return self.dataset.split_groups()[self.split.learn]

    def measured(self, precision: str, model: ModelProto, features: Embedded, logits: NDArray[np.float64]) -> Measured:
        """Measures one precision by its out-of-fold scores `logits` (n_learn, n_labels)."""
        return measure(
            precision,
            model,
            features,
            logits=logits,
            truth=self.truth,
            folds=self.split.folds,
            labels=self.dataset.labels,
            ok_labels=self.ok_labels,
            costs=self.costs,
            max_error=self.max_error,
            photos=[self.dataset.photos[row] for row in self.split.learn],
        )


@dataclass(frozen=True)
class Candidate:
    """A model that could ship.

    Attributes:
        backbone: what it stands on, for people.
        recipe: what it looks at.
        measured: the better of float and int8.
        head: learnt from all photos but the test split, calibrated.
        hyperparameters: for the manifest.
        curves: one a fold.
        variants: float and int8; none is marked as shipped yet.
        search: the swarm's trials, None if it did not search.
        fine_tuned: whether the backbone was trained on the photos, from pretrained weights.
        lineage: for a later training on more photos; None if it cannot take over anything.
    """

    backbone: str
    recipe: Recipe
    measured: Measured
    head: Head
    hyperparameters: dict[str, bool | int | float | str]
    curves: tuple[LearningCurve, ...]
    variants: tuple[Measured, ...]
    search: TuningResult | None
    fine_tuned: bool = False
    lineage: Lineage | None = None

    def described(self, shipped: Measured) -> tuple[Variant, ...]:
        """Returns the figures of float and int8 for the report."""
        return tuple(each.describe(self.backbone, shipped=each is shipped) for each in self.variants)


def choose_candidate(candidates: list[Candidate], groups: NDArray[np.int64]) -> Candidate:
    """Returns the one that costs least out of fold; of equally cheap ones, that with the smaller log loss.

    A fine-tuned backbone is taken unless that one is clearly cheaper. Cross-validation sees only today's light, and
    what was trained on altered light sees better tomorrow.

    Args:
        candidates: at least one.
        groups: (n_learn,) photos with the same number may err together.
    """
    best = min(candidates, key=lambda each: (each.measured.costs.mean(), each.measured.losses.mean()))
    for each in candidates:
        if each.fine_tuned and not clearly_better(best.measured.costs, each.measured.costs, groups):
            return each
    return best


def on_pretrained(
    task: Task,
    *,
    trials: int,
    budget_s: float | None,
    started: float,
    earlier: Lineage | None = None,
    n_photos: int | None = None,
) -> Candidate:
    """Puts a head on the pretrained backbone: the look at the photo is chosen, then the swarm tunes the head.

    Args:
        task: what is to be learnt.
        trials: of the swarm.
        budget_s: the search is cut short so that the whole run ends about then; None never cuts.
        started: when the run began, monotonic clock.
        earlier: where an earlier model of such photos looked; it is looked there again, unless that serves no more.
        n_photos: to learn from, where the task is a part of them; None: it is all of them.
    """
    n_photos = len(task.split.learn) if n_photos is None else n_photos
    if earlier is not None:
        why = earlier.why_not_for(task.dataset.labels, n_photos)
        if not why:
            found = _on_pretrained(task, trials, budget_s, started, earlier, n_photos)
            assert found.search is not None
            best, (float32, int8) = min(found.search.trials, key=lambda trial: trial.cost), found.variants
            serves = not is_worse(int8, float32, errors=earlier.errors)
            why = earlier.why_worse(log_loss=best.cost, standard_error=best.standard_error, int8=serves)
            if not why:
                return found
        console.print(f"Looking at all photos anew: {why}.")
    return _on_pretrained(task, trials, budget_s, started, None, n_photos)


def _on_pretrained(
    task: Task, trials: int, budget_s: float | None, started: float, earlier: Lineage | None, n_photos: int
) -> Candidate:
    dataset, split, workers = task.dataset, task.split, task.workers
    learn_photos = [dataset.photos[row] for row in split.learn]

    def cross_validate(features: Mapping[str, Embedded]) -> CrossValidation:
        return CrossValidation.of(
            {name: _learn_look(each, looks[name], split) for name, each in features.items()},
            task.truth,
            split.folds,
            n_labels=len(dataset.labels),
            seed=task.seed,
            workers=workers,
            groups=task.groups,
        )

    where = task.roi or _place(task, earlier)
    looks = looks_at(where)
    first = None
    if earlier is not None and earlier.parameters.get("look") in looks:
        first, trials = cast("Hyperparameters", earlier.parameters), earlier.trials(trials)
        look = first["look"]
    else:
        look = choose_look(cross_validate(embed_looks(dataset, split.learn, looks, workers)))
    recipe = looks[look]
    float_model = feature_model(recipe)
    title = f"Looking at the {name_of(recipe.view)}"
    float_features = embed_copies(dataset, split.learn, float_model, recipe.digest, title, workers)
    embedding_s = time.monotonic() - started
    data = cross_validate({look: float_features})
    with progress("Searching with the swarm", trials) as tried:
        deadline_s = _deadline_s(started, embedding_s, budget_s)
        tuned = tune(
            data,
            n_trials=trials,
            workers=workers,
            first=first,
            deadline_s=deadline_s,
            on_trial=tried,
            engine=dataset.engine,
        )
    if tuned.stopped_by_budget:
        console.print(f"The budget ended the search after {len(tuned.trials)} of {trials} trials.")
    parameters = cast("Hyperparameters", tuned.chosen.parameters)

    known = earlier.ranges if earlier else {}
    ranges = known.get(ranges_key(recipe)) or activation_ranges(float_model, learn_photos)
    int8_model = quantize_with(float_model, ranges)
    int8_features = embed_copies(
        dataset, split.learn, int8_model, _digest(int8_model), "Looking again in int8", workers
    )
    int8_data = cross_validate({look: int8_features})
    with threadpool_limits(1):
        curves = data.learning_curves(parameters)
        float32, int8 = (
            task.measured("float32", float_model, float_features, data.out_of_fold(parameters)[0]),
            task.measured("int8", int8_model, int8_features, int8_data.out_of_fold(parameters)[0]),
        )
        chosen = choose(float32, int8, errors=earlier.errors if earlier else 1.0)
        learnt = _learn_look(chosen.features, recipe, split)
        head = _fit_head(learnt, task.truth, len(dataset.labels), parameters, task.seed)
    all_ranges = {**known, ranges_key(recipe): ranges}
    if earlier is not None:
        lineage = msgspec.structs.replace(earlier, parameters=dict(tuned.chosen.parameters), ranges=all_ranges)
    else:
        lineage = Lineage(
            labels=dataset.labels,
            x=where.x if isinstance(where, Place) else None,
            y=where.y if isinstance(where, Place) else None,
            n_photos=n_photos,
            log_loss=min(trial.cost for trial in tuned.trials),
            int8=not is_worse(int8, float32),
            parameters=dict(tuned.chosen.parameters),
            ranges=all_ranges,
        )
    return Candidate(
        backbone=recipe.backbone.name,
        recipe=recipe,
        measured=chosen,
        head=head.calibrated(chosen.calibration),
        hyperparameters=dict(tuned.chosen.parameters),
        curves=curves,
        variants=(float32, int8),
        search=tuned,
        lineage=lineage,
    )


def _place(task: Task, earlier: Lineage | None) -> Place:
    if earlier is not None and earlier.x is not None and earlier.y is not None:
        return Place(earlier.x, earlier.y)
    return find_region(task.dataset, task.split.learn, task.split.folds, task.workers)


def on_trained_backbone(task: Task, look: Recipe, *, scratch: bool, any_way_up: bool, epochs: int | None) -> Candidate:
    """Trains the backbone itself on the user's photos.

    Args:
        task: what is to be learnt.
        look: where to look; its pretrained weights are the start.
        scratch: start from nothing instead, with a small network.
        any_way_up: whether an object may lie any way round.
        epochs: how often each photo is seen, at most; None: as usual.

    Raises:
        TorchMissingError: torch is not installed.
    """
    dataset, split, workers = task.dataset, task.split, task.workers
    learn_photos = [dataset.photos[row] for row in split.learn]
    folds = split.folds % FOLDS  # joined, so that groups stay together
    recipe = sized_for(from_scratch(look) if scratch else look, learn_photos)
    tuned = tune_backbone(
        learn_photos,
        task.truth,
        folds,
        recipe,
        n_labels=len(dataset.labels),
        any_way_up=any_way_up,
        epochs=epochs,
        seed=task.seed,
        workers=workers,
    )

    def measured(precision: str, prepare: Callable[[ModelProto], ModelProto]) -> Measured:
        logits = np.empty((len(split.learn), len(dataset.labels)))
        models = {number: prepare(feature_model(each.recipe)) for number, each in tuned.folds.items()}
        with progress(f"Judging photos not seen, {precision}", len(split.learn)) as judged:
            for number, model in models.items():
                rows = np.flatnonzero(folds == number)
                features = []
                for (row,) in compute(
                    [learn_photos[i] for i in rows], model.SerializeToString(), (FEATURES,), workers=workers
                ):
                    features.append(row)
                    judged()
                logits[rows] = tuned.folds[number].logits(np.stack(features))
        model = prepare(feature_model(tuned.shipped.recipe))
        title = f"Looking with the trained backbone, {precision}"
        features_of_all = embed_copies(dataset, split.learn, model, _digest(model), title, workers, copies=0)
        return task.measured(precision, model, features_of_all, logits)

    variants = (
        measured("float32", lambda model: model),
        measured("int8", lambda model: quantize(model, learn_photos)),
    )
    chosen = choose(*variants)
    with threadpool_limits(1):
        head = _head_of(tuned.shipped, chosen.features.photos[split.learn]).calibrated(chosen.calibration)
    return Candidate(
        backbone=tuned.shipped.recipe.backbone.name,
        recipe=tuned.shipped.recipe,
        measured=chosen,
        head=head,
        hyperparameters={"backbone": tuned.shipped.recipe.backbone.name, "view_size": recipe.view.size},
        curves=tuned.curves,
        variants=variants,
        search=None,
        fine_tuned=not scratch,
    )


def _head_of(network: TunedNetwork, features: NDArray[np.float32]) -> Head:
    """The network's scores as a head: the embedding is the strongest components of the features, then the scores."""
    components = Projection.fit(features, network.recipe.emphasis)
    components = components.first(min(_TUNED_COMPONENTS, components.axes.shape[1]))
    n_components, n_labels = components.axes.shape[1], network.weight.shape[1]
    # Scores and components share a scale, so that neither drowns the other where embeddings are compared.
    spread = float(np.std((features - components.mean) @ network.weight)) or 1.0
    projection = Projection(
        components.mean, np.concatenate([components.axes, network.weight / spread], axis=1).astype(np.float32)
    )
    linear = Network((n_components + n_labels, n_labels), ("softmax",))
    matrix = linear.layers[0].matrix
    matrix[:] = 0
    matrix[:, n_components:-1] = spread * np.eye(n_labels)
    matrix[:, -1] = network.bias + components.mean @ network.weight
    return Head(projection, linear)


def _digest(model: ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString()).hexdigest()


def _learn_look(embedded: Embedded, recipe: Recipe, split: Split) -> Look:
    return Look(embedded.photos[split.learn], embedded.copies, recipe.emphasis)


def _deadline_s(started: float, embedding_s: float, budget_s: float | None) -> float:
    if budget_s is None:
        return math.inf
    return started + max(embedding_s, budget_s - RESERVE_S - RESERVE_PER_EMBEDDING_S * embedding_s)


def _fit_head(look: Look, truth: NDArray[np.int64], n_labels: int, parameters: Hyperparameters, seed: int) -> Head:
    everything = look.rows(np.arange(len(truth)))
    projection = Projection.fit(everything, look.emphasis).first(parameters["components"])
    truths = np.tile(truth, 1 + len(look.copies))
    network, _ = train_network(projection(everything), truths, n_labels, parameters, seed=seed)
    return Head(projection, network)
