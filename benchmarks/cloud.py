"""From the last upload to the published bundle: 1,000 marbles, of which 950 were trained on before.

    python -m benchmarks.cloud PHOTOS                     a folder with label folders
    python -m benchmarks.cloud PHOTOS --photos 200 --new 20

The whole loop of `okko cloud up --local`, with okko's own training: a first job on the first photos, so that their
features are remembered, then the new ones are uploaded. The pause for which the loop waits for further photos is not
counted; the start of the job's process is. Caches are new, so nothing else is warm. On a machine that has other work,
too, the processor seconds say more than the clock's.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import threading
import time
from pathlib import Path

from okko_cloud.bucket import BucketPhotos, files_below
from okko_cloud.local.cloud import Folder, run
from okko_cloud.local.status import look
from okko_cloud.place import Place, Settings
from okko_models.photo import is_photo_name

QUIET_S = 1.0
_GIVE_UP_S = 3600.0


def wait_for_job(folder: Folder, number: int) -> float:
    """Waits until the job of this number has ended; returns when it did, seconds since 1970."""
    end = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < end:
        if (folder.path / "queue.sqlite").is_file():
            queue = folder.queue()
            ended = [job.ended_s for job in queue.jobs(100) if job.number >= number and job.ended_s]
            waiting = queue.waiting()[0].changes
            queue.close()
            if ended and not waiting:
                return max(ended)
        time.sleep(0.1)
    raise SystemExit("the job did not end in an hour")


def main() -> None:
    """Measures, and prints where the time went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--new", type=int, default=50)
    parser.add_argument("--trials", type=int, default=Settings().trials)
    options = parser.parse_args()
    files = [(key, path) for key, path in files_below(options.source) if "/" in key and is_photo_name(path)]
    random.Random(0).shuffle(files)
    files = files[: options.photos]
    if len(files) < options.photos:
        raise SystemExit(f"{options.source} has {len(files)} photos in label folders; {options.photos} are wanted")
    with tempfile.TemporaryDirectory(prefix="okko-cloud-") as name:
        os.environ["OKKO_CACHE"] = f"{name}/cache"
        folder, stop = Folder(Path(name) / "cloud"), threading.Event()
        loop = threading.Thread(
            target=run,
            args=(folder,),
            kwargs={
                "place": None,
                "change": lambda _: Settings(name="marbles", trials=options.trials, quiet_minutes=QUIET_S / 60),
                "stop": stop,
                "say": lambda line: print(line, flush=True),
            },
        )
        loop.start()
        try:
            _measure(folder, files, options.new)
        finally:
            stop.set()
            loop.join(120)


def _measure(folder: Folder, files: list[tuple[str, Path]], new: int) -> None:
    end = time.monotonic() + 120
    while folder.read_running() is None and time.monotonic() < end:
        time.sleep(0.1)
    bucket = BucketPhotos(Place("okko"))
    bucket.upload(files[:-new])
    wait_for_job(folder, 1)
    before, before_s = look(folder).jobs[0], _processor_s()
    bucket.upload(files[-new:])
    uploaded = time.time()
    ended = wait_for_job(folder, before.number + 1)
    job = look(folder).jobs[0]
    if job.outcome is None:
        raise SystemExit(f"job {job.number}: {job.kind}: {job.words}")
    done = job.outcome.done
    if before.outcome is not None:
        took = before.outcome.done.seconds["train"]
        print(
            f"before     {len(files) - new} photos, none of them known: train {took:.1f} s, processor {before_s:.1f} s"
        )
    print(f"photos     {sum(done.photos.values())}, {new} of them new, {done.test_photos} for the test")
    print(f"outcome    {job.outcome.kind}: {done.ruling.reason}")
    print("steps      " + ", ".join(f"{step} {took:.1f} s" for step, took in done.seconds.items()))
    print(
        f"from the last upload to the end of the job: {ended - uploaded - QUIET_S:.1f} s (and a pause of {QUIET_S:g} s)"
    )
    print(f"processor  {_processor_s() - before_s:.1f} s of the job; load average {os.getloadavg()[0]:.1f}")


def _processor_s() -> float:
    """What the jobs that have ended took of all processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
