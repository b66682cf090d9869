"""SageMaker's contract with a training container, kept by okko: the same image runs there as a training job.

SageMaker starts the container with the one argument `train` and a folder, /opt/ml: hyperparameters (all of them text),
photos in one folder a channel, a place for the model. A job that fails says why in /opt/ml/output/failure. What the
SM_* variables of SageMaker's training toolkit name is used where they are set.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from okko_models.manifest import Manifest
    from okko_train.training import Options

ML: Final = Path("/opt/ml")
ROOT: Final = "OKKO_ML_ROOT"
"""The variable that names another folder than /opt/ml."""

LONGEST_FAILURE: Final = 1024
"""SageMaker shows so many characters of the reason."""

METRIC: Final = r"okko (\w+): ([0-9.eE+-]+)"
"""What SageMaker's MetricDefinitions look for, one definition a metric, such as `okko accuracy: ([0-9.eE+-]+)`."""

_CHANNELS: Final[tuple[str, ...]] = ("train", "training", "photos")
_NUMBERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "seed": int,
    "trials": int,
    "budget_s": float,
    "max_error": float,
    "cost_false_ok": float,
    "cost_false_ko": float,
    "cost_uncertain": float,
}
_TEXTS: Final = ("name", "ok_labels", "group_by")


class Interrupted(BaseException):
    """SageMaker, or Spot, told the container to end; no error, so that nothing that catches errors catches it."""


@dataclass(frozen=True)
class Hyperparameters:
    """What a training job was asked for.

    Attributes:
        texts: name, ok_labels (with commas between), group_by; those that were given.
        numbers: likewise.
    """

    texts: Mapping[str, str]
    numbers: Mapping[str, float]


def read_hyperparameters(raw: Mapping[str, str]) -> Hyperparameters:
    """Reads hyperparameters as SageMaker writes them: text, perhaps encoded as JSON once more.

    What SageMaker adds itself (`sagemaker_...`, `_tuning_...`) is left out.

    Raises:
        OkkoError: one is unknown, or no number where one is needed.
    """
    texts, numbers = {}, {}
    for name, value in raw.items():
        if name.startswith(("sagemaker_", "_")):
            continue
        key, text = name.replace("-", "_"), _plain(value)
        if key in _NUMBERS:
            try:
                numbers[key] = _NUMBERS[key](text)
            except ValueError as error:
                raise OkkoError(f"hyperparameter {name} is {text!r}, which is no number as needed") from error
        elif key in _TEXTS:
            texts[key] = text
        else:
            known = ", ".join([*_TEXTS, *_NUMBERS])
            raise OkkoError(f"hyperparameter {name} is unknown; there are {known}")
    return Hyperparameters(texts, numbers)


def options(asked: Hyperparameters, *, workers: int) -> Options:
    """Returns what okko's training is asked for.

    Raises:
        OkkoError: a number is out of range.
    """
    from okko_models.decision import Costs
    from okko_train.training import Options

    numbers = dict(asked.numbers)
    seed, trials = int(numbers.pop("seed", 0)), int(numbers.pop("trials", 30))
    if seed < 0 or trials < 1 or not numbers.get("budget_s", 1) > 0 or not 0 < numbers.get("max_error", 0.1) < 0.5:
        raise OkkoError(
            f"hyperparameters are out of range: seed {seed} (0 or more), trials {trials} (1 or more), "
            "budget_s (above 0), max_error (between 0 and 0.5)"
        )
    try:
        costs = Costs(
            **{name: numbers[f"cost_{name}"] for name in Costs.__struct_fields__ if f"cost_{name}" in numbers}
        )
    except ValueError as error:
        raise OkkoError(f"hyperparameters cost_...: {error}") from error
    labels = tuple(label.strip() for label in asked.texts.get("ok_labels", "").split(",") if label.strip())
    return Options(
        name=asked.texts.get("name", "model"),
        costs=costs,
        ok_labels=labels or None,
        seed=seed,
        trials=trials,
        workers=workers,
        command="train, as SageMaker starts it",
        max_error=numbers.get("max_error"),
        budget_s=numbers.get("budget_s"),
    )


def photos_folder(root: Path, environment: Mapping[str, str], configured: Mapping[str, Any]) -> Path:
    """Returns where the photos of a training job are.

    Args:
        root: /opt/ml, or what stands for it.
        environment: with SM_CHANNEL_* variables, perhaps; then they count.
        configured: channels by name, as SageMaker has them.

    Raises:
        OkkoError: several channels, and none that is called train; or a pipe.
    """
    folders = {
        name.removeprefix("SM_CHANNEL_").lower(): Path(value)
        for name, value in environment.items()
        if name.startswith("SM_CHANNEL_")
    }
    if not folders:
        data = root / "input" / "data"
        names = sorted(configured) or sorted(each.name for each in data.glob("*") if each.is_dir())
        folders = {name: data / name for name in names}
    piped = [name for name, channel in configured.items() if channel.get("TrainingInputMode") == "Pipe"]
    if piped:
        raise OkkoError(f"channel {piped[0]} is a pipe; okko needs files: TrainingInputMode File or FastFile")
    chosen = [folders[name] for name in _CHANNELS if name in folders] or list(folders.values())
    if len(chosen) != 1 and not folders.keys() & set(_CHANNELS):
        raise OkkoError(f"which channel has the photos? There are: {', '.join(folders) or 'none'}; call it train")
    return chosen[0]


def metric_lines(manifest: Manifest) -> list[str]:
    """Returns a line for each metric, as `METRIC` finds it."""
    return [f"okko {name}: {found.value:.6g}" for name, found in sorted(manifest.metrics.items())]


def train(root: Path, environment: Mapping[str, str]) -> int:
    """Does a training job; returns the exit code that SageMaker is to see.

    Args:
        root: /opt/ml, or what stands for it.
        environment: with SM_* variables, perhaps.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _train(root, environment)
    except (Interrupted, KeyboardInterrupt):
        _fail(
            root,
            "interrupted before the model was done; features of photos are kept in the checkpoint, if there is one",
        )
        return 128 + signal.SIGTERM
    except OkkoError as error:
        _fail(root, str(error))
        return 1
    except Exception as error:
        # Whatever it is, its reason must reach the person who started the job.
        _fail(root, f"{type(error).__name__}: {error}")
        raise
    return 0


def _train(root: Path, environment: Mapping[str, str]) -> None:
    from okko_models.host import processors
    from okko_train import training
    from okko_train.dataset import load_dataset

    config = root / "input" / "config"
    _check_alone(_read(config / "resourceconfig.json"))
    raw = json.loads(environment["SM_HPS"]) if "SM_HPS" in environment else _read(config / "hyperparameters.json")
    asked = read_hyperparameters(
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in raw.items()}
    )
    workers = int(environment.get("SM_NUM_CPUS", 0)) or processors()
    photos = photos_folder(root, environment, _read(config / "inputdataconfig.json"))
    checkpoints = root / "checkpoints"
    if checkpoints.is_dir():
        # Kept by SageMaker when a Spot instance is taken away, and there again at the next start.
        os.environ.setdefault("OKKO_CACHE", str(checkpoints / "okko"))
    wanted = options(asked, workers=workers)
    dataset = load_dataset(photos, group_by=asked.texts.get("group_by"), workers=workers)
    models = Path(environment.get("SM_MODEL_DIR") or root / "model")
    models.mkdir(parents=True, exist_ok=True)
    # Whatever lies in the model's folder when the container ends is uploaded, so nothing half-made lies there, ever.
    with tempfile.TemporaryDirectory(prefix="okko-") as scratch:
        made = Path(scratch) / f"{wanted.name}.okko"
        result = training.train(dataset, made, wanted)
        place = models / made.name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(made, models / f".{made.name}")
        (models / f".{made.name}").rename(place)
    for line in metric_lines(result.manifest):
        print(line, flush=True)


def _check_alone(resources: Mapping[str, Any]) -> None:
    hosts = resources.get("hosts", [])
    if len(hosts) > 1:
        raise OkkoError(f"{len(hosts)} instances were started, and okko's training uses one; set InstanceCount to 1")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise OkkoError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise OkkoError(f"{path} is no JSON object")
    return found


def _plain(value: str) -> str:
    """SageMaker's Python SDK encodes text as JSON, so that it comes in quotes; others do not."""
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _fail(root: Path, reason: str) -> None:
    print(f"Error: {reason}", file=sys.stderr, flush=True)
    place = root / "output" / "failure"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(reason[:LONGEST_FAILURE], encoding="utf-8")


def _interrupt(_: int, __: FrameType | None) -> None:
    raise Interrupted
