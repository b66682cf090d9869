"""One job: from what is in the bucket to a published model, once for each set of photos, wherever workers are killed.

The steps are idempotent, and each leaves behind something signed or conditional that says it is done: the lock, the
test split, the bundle in the registry, the gate's ruling, the record that all is done. Whoever comes after a worker
that was killed finds the last of these and goes on from there. What was killed while it trained is trained again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec
import numpy as np

from okko_cloud import gate, split
from okko_cloud.bucket import is_running
from okko_cloud.lease import LEASE_S, take, tidy
from okko_cloud.place import TRAINING, Settings
from okko_cloud.publishing import STABLE, bring, in_service, last_made, published_for
from okko_cloud.snapshot import as_dataset, take_snapshot
from okko_models.bundle import Bundle
from okko_models.damaged import decode_json
from okko_models.errors import BundleError, OkkoError
from okko_models.host import processors
from okko_models.registry.catalog import iso
from okko_models.registry.errors import ConflictError, MissingError, UntrustedError
from okko_train.preparation import choose_ok_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_cloud.bucket import PhotoCache, Photos
    from okko_cloud.gate import Ruling
    from okko_cloud.lease import Lease
    from okko_cloud.publishing import FencedPublisher
    from okko_cloud.snapshot import Snapshot
    from okko_cloud.split import Frozen
    from okko_cloud.trainer import Trainer
    from okko_models.registry.catalog import Catalog
    from okko_models.registry.store import Store
    from okko_train.dataset import Dataset

WORK: Final = "work"
"""Below a job's folder: what is in work, named by the process that works on it."""

_PROMOTION_TRIES: Final = 5
_T = TypeVar("_T")


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of one set of photos.

    Attributes:
        dataset: its digest.
        photos: usable photos by label.
        skipped: files that could not be used.
        test_photos: of those, the ones of the frozen test split.
        bundle: digest of the model.
        version: the model's version.
        promoted: whether it went into service.
        ruling: the gate's word.
        at: when, ISO 8601, UTC.
        seconds: how long each step took; a step that an earlier worker had done is not there.
    """

    dataset: str
    photos: dict[str, int]
    skipped: int
    test_photos: int
    bundle: str
    version: str
    promoted: bool
    ruling: gate.Ruling
    at: str
    seconds: dict[str, float]


class _Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the record of a listing is."""

    run: str


class Outcome(msgspec.Struct, frozen=True):
    """What a job came to.

    Attributes:
        kind: `unchanged`: these photos had been trained on; `kept`: a new model is a candidate; `promoted`: it is in
            service.
        listing: digest of the listing that it was about.
        done: the record.
    """

    kind: Literal["unchanged", "kept", "promoted"]
    listing: str
    done: Done


@dataclass(frozen=True)
class Job:
    """Everything that a job needs; `run` is the job.

    Attributes:
        photos: where photos come in.
        store: where jobs tell each other what is done.
        publisher: for the registry, with the keys at hand.
        settings: what the user has decided.
        cache: photos that are here already.
        folder: for bundles and for what is in work, on the cache's disk.
        train: makes a bundle.
        say: takes one line for people.
        clock: seconds since 1970.
        lease_s: see `okko_cloud.lease.LEASE_S`.
        workers: photos opened at a time.
    """

    photos: Photos
    store: Store
    publisher: FencedPublisher
    settings: Settings
    cache: PhotoCache
    folder: Path
    train: Trainer
    say: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.time
    lease_s: float = LEASE_S
    workers: int = field(default_factory=processors)

    def run(self) -> Outcome:
        """Trains on what is in the bucket, unless that was done, and publishes what comes out.

        Raises:
            BusyError: another worker is at it.
            LeaseLostError: this worker was too slow and another one took over.
            OkkoError: the photos cannot be trained on, or S3 or the registry fail.
        """
        _sweep(self.folder / WORK)
        snapshot = take_snapshot(self.photos)
        if (done := self._done(snapshot)) is not None:
            tidy(self.store, clock=self.clock)
            return Outcome("unchanged", snapshot.digest, done)
        lease = take(
            self.store,
            f"{len(snapshot.listed)} photos",
            clock=self.clock,
            lease_s=self.lease_s,
        )
        self.publisher.lease = lease
        try:
            with lease.kept():
                if lease.took_over:
                    self.say("another worker began and did not end; going on from where it stopped")
                    self.publisher.refresh()
                return self._locked(lease)
        finally:
            self.publisher.lease = None
            lease.release()

    def settled(self) -> bool:
        """Says whether what is in the bucket now has been trained on; asked after the lock was let go.

        Raises:
            OkkoError: S3 fails.
        """
        return self._done(take_snapshot(self.photos)) is not None

    def _locked(self, lease: Lease) -> Outcome:
        began = time.monotonic()
        settings = self.settings
        work = as_dataset(
            self.photos,
            self.cache,
            self.folder / WORK,
            group_by=settings.group_by,
            workers=self.workers,
        )
        with work as (snapshot, dataset):
            run = f"{dataset.digest}-{settings.recipe}"
            done = self._get(_done_key(run), Done)
            kind: Literal["unchanged", "kept", "promoted"] = "unchanged"
            if done is None:
                seconds = {"fetch": time.monotonic() - began}
                self.say(f"{len(dataset)} photos, dataset {dataset.digest[:12]}")
                dataset.check_trainable()
                frozen = split.freeze(self.store, dataset, settings.seed)
                bundle = self._bundle(dataset, frozen, lease, seconds)
                ruling, promoted = self._through_the_gate(run, bundle, dataset, frozen, seconds)
                done = Done(
                    dataset=dataset.digest,
                    photos=dataset.counts(),
                    skipped=len(dataset.skipped),
                    test_photos=sum(photo.digest in frozen.test for photo in dataset.photos),
                    bundle=bundle.digest,
                    version=bundle.manifest.version,
                    promoted=promoted,
                    ruling=ruling,
                    at=iso(self.clock()),
                    seconds={step: round(took, 3) for step, took in seconds.items()},
                )
                lease.confirm()
                done = self._put(_done_key(run), done)
                kind = "promoted" if done.promoted else "kept"
                for left in (self.folder / "bundles").iterdir():
                    if left.name not in {done.bundle, done.ruling.against}:
                        shutil.rmtree(left, ignore_errors=True)
            self.store.put_new(self._listing_key(snapshot), msgspec.json.encode(_Pointer(run)))
            return Outcome(kind, snapshot.digest, done)

    def _bundle(self, dataset: Dataset, frozen: Frozen, lease: Lease, seconds: dict[str, float]) -> Bundle:
        """The model of these photos: the one that is published already, or a new one, published now."""
        command = f"okko cloud job, recipe {self.settings.recipe}"
        registry = self.publisher.store
        bundles = self.folder / "bundles"
        catalog = self.publisher.look().catalog
        if there := published_for(registry, catalog, dataset.digest, command):
            self.say(f"model {there[:12]} was made of them by an earlier worker")
            return bring(registry, there, bundles)
        bundles.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder / WORK, prefix=f"training-{os.getpid()}-") as name:
            began = time.monotonic()
            out = Path(name) / "model.okko"
            earlier = self._earlier(catalog, command)
            self.train(dataset, frozen.test, out, self.settings, command=command, earlier=earlier)
            seconds["train"] = time.monotonic() - began
            began = time.monotonic()
            bundle = Bundle.open(out)
            lease.confirm()
            self.publisher.publish(bundle, "candidate", f"{len(dataset)} photos, {command}")
            seconds["publish"] = time.monotonic() - began
            place = bundles / bundle.digest
            shutil.rmtree(place, ignore_errors=True)
            out.rename(place)
        self.say(f"model {bundle.digest[:12]} is published as candidate")
        return Bundle.open(place)

    def _earlier(self, catalog: Catalog, command: str) -> Bundle | None:
        """The model from which training may go on; a damaged one is no reason not to train."""
        try:
            return last_made(self.publisher.store, catalog, command, self.folder / "bundles")
        except (MissingError, UntrustedError, BundleError) as error:
            self.say(f"training does not go on from the last model: {error}")
            return None

    def _through_the_gate(
        self, run: str, bundle: Bundle, dataset: Dataset, frozen: Frozen, seconds: dict[str, float]
    ) -> tuple[Ruling, bool]:
        """Compares the model with the one in service, and puts it there if that is right; returns whether it is."""
        for _ in range(_PROMOTION_TRIES):
            catalog = self.publisher.look().catalog
            against = in_service(catalog)
            if against == bundle.digest:
                # An earlier worker put it there, or a person did; what it replaced is what it was compared with.
                before = next(iter(catalog.places[STABLE].before), "")
                earlier = self._get(_ruling_key(run, before), gate.Ruling)
                return earlier or self._rule(bundle, "", dataset, frozen), True
            began = time.monotonic()
            ruling = self._rule(bundle, against, dataset, frozen)
            seconds["gate"] = time.monotonic() - began
            if not ruling.passed:
                self.say(f"kept as candidate: {ruling.reason}")
                return ruling, False
            if self.settings.promotion == "hand":
                self.say(f"kept as candidate until it is promoted by hand: {ruling.reason}")
                return ruling, False
            self.store.put_new(_ruling_key(run, against), msgspec.json.encode(ruling))
            try:
                self.publisher.promote_over(bundle.digest, against, f"gate: {ruling.reason}")
            except ConflictError:
                continue
            self.say(f"in service now: {ruling.reason}")
            return ruling, True
        raise ConflictError("the model in service is changed by others all the time; try again")

    def _rule(self, bundle: Bundle, against: str, dataset: Dataset, frozen: Frozen) -> Ruling:
        settings = self.settings
        ok_labels = choose_ok_labels(dataset, settings.ok_labels or None)
        rows = [row for row, photo in enumerate(dataset.photos) if photo.digest in frozen.test]
        if not rows:
            raise OkkoError(f"none of the {len(dataset)} photos is for the test; add photos of other objects")
        photos = [dataset.photos[row] for row in rows]
        truly_ok = [photo.label in ok_labels for photo in photos]
        bundles = [bundle]
        if against:
            bundles.append(bring(self.publisher.store, against, self.folder / "bundles"))
        judged = gate.measure(bundles, photos, truly_ok, settings.costs, workers=self.workers)
        return gate.rule(
            judged[0],
            judged[1] if against else None,
            against,
            truly_ok=truly_ok,
            groups=np.asarray(dataset.split_groups())[rows].tolist(),
            costs=settings.costs,
            confidence=settings.confidence,
            max_latency_ms=settings.max_latency_ms,
        )

    def _done(self, snapshot: Snapshot) -> Done | None:
        pointer = self._get(self._listing_key(snapshot), _Pointer)
        return self._get(_done_key(pointer.run), Done) if pointer else None

    def _listing_key(self, snapshot: Snapshot) -> str:
        return f"{TRAINING}listings/{snapshot.digest}-{self.settings.recipe}.json"

    def _get(self, key: str, kind: type[_T]) -> _T | None:
        found = self.store.get(key)
        try:
            return decode_json(found.data, kind) if found else None
        except msgspec.DecodeError as error:
            raise OkkoError(f"{self.store}/{key}: {error}; remove it, and it will be made again") from error

    def _put(self, key: str, done: Done) -> Done:
        """Stores a record; if there is one already, that one counts."""
        self.store.put_new(key, msgspec.json.encode(done))
        return self._get(key, Done) or done


def _done_key(run: str) -> str:
    return f"{TRAINING}runs/{run}.done.json"


def _ruling_key(run: str, against: str) -> str:
    return f"{TRAINING}runs/{run}.ruling-{against[:12] or 'first'}.json"


def _sweep(work: Path) -> None:
    """Removes what killed workers left on this disk."""
    for left in work.glob("*-*-*"):
        if not is_running(left.name.split("-")[1]):
            shutil.rmtree(left, ignore_errors=True)
