"""A bundle's parts as a device reads them: manifest, model, golden frames, and the folder that they lie in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from PIL import Image

from okko_models import manifest as manifests
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.manifest import FileEntry, GoldenFrame
from okko_models.trust.model_check import check_bundle, check_model
from tests.conftest import manifest, png, redness_model
from tests.fuzz.binary import spoiled_png, spoiled_protobuf
from tests.fuzz.mutations import spoiled, spoiled_json
from tests.models.trust.test_model_check import zoo

if TYPE_CHECKING:
    import random

_WORDS = [
    b"[" * 5000, b"9" * 400, b'"', b"\\u0000", b"\\ud800", b"-", b"null", b"{}", b"1e999", b'"a":', b"\xff", b"0.1",
]  # fmt: skip


def small_bundle() -> dict[str, bytes]:
    """The files of a bundle that is right, without its manifest."""
    return {"model.onnx": redness_model(), "golden/00.png": png((250, 10, 10)), "golden/01.png": png((10, 10, 250))}


def manifest_of(files: dict[str, bytes], **changes: object) -> bytes:
    """Returns a manifest that names these files with their digests."""
    golden = {name: data for name, data in files.items() if name.startswith("golden/")}
    entries = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    right = manifest(redness_model(), golden)
    return manifests.encode(msgspec.structs.replace(right, files=entries, **changes))


class ManifestTarget:
    """`manifest.json`."""

    def __init__(self) -> None:
        files = small_bundle()
        few = {**files, "report.html": b"<html>", "examples.npz": b"PK"}
        self._samples = [
            manifest_of(files),
            manifest_of(few, probability_means="how alike"),
            manifest_of({}, golden=()),
        ]

    def make(self, chance: random.Random) -> bytes:
        sample = chance.choice(self._samples)
        if chance.random() < 0.6:
            return spoiled_json(sample, self._samples, chance)
        return spoiled(sample, self._samples, _WORDS, chance)

    def lay(self, data: bytes, folder: Path) -> None:
        pass

    def feed(self, data: bytes, folder: Path) -> str:
        read = manifests.decode(data)
        assert manifests.decode(manifests.encode(read)) == read
        return ""


class ModelTarget:
    """`model.onnx`: judged, loaded by onnxruntime, and run on the golden frames."""

    def __init__(self) -> None:
        self._samples = [redness_model(), zoo()]
        self._golden = png((250, 10, 10))

    def make(self, chance: random.Random) -> bytes:
        sample = chance.choice(self._samples)
        if chance.random() < 0.75:
            return spoiled_protobuf(sample, self._samples, chance)
        return spoiled(sample, self._samples, [b"image", b"Loop", b"\x08\x12", b"\x80" * 10], chance)

    def lay(self, data: bytes, folder: Path) -> None:
        pass  # the manifest is made to fit the model, once that was judged

    def feed(self, data: bytes, folder: Path) -> str:
        facts = check_model(data)
        labels = tuple(f"label{number}" for number in range(facts.labels))
        files = {"model.onnx": data, "golden/00.png": self._golden}
        right = json.loads(manifest_of(files, golden=()))
        right["labels"], right["decision"]["ok_labels"] = labels, labels[:1]
        right["golden"] = [{"file": "golden/00.png", "probability": [0.5] * len(labels)}]
        right["model"] |= {"embedding_size": facts.embedding_size, "tolerance": 1.0}
        write(folder, {**files, "manifest.json": json.dumps(right).encode()})
        bundle = Bundle.open(folder)
        check_bundle(bundle)
        Classifier(bundle).self_test()
        return ""


class GoldenTarget:
    """A golden frame, as the self-test reads it."""

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
        whole = Image.fromarray(noise)
        frames = [whole.convert(mode) for mode in ("RGB", "L", "LA", "P", "1", "RGBA")]
        frames.append(Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257))
        self._pngs = [_stored(frame, "PNG") for frame in frames] + [_stored(whole, "PNG", interlace=1), png((9, 9, 9))]
        rgb = frames[0]
        self._others = [_stored(rgb, kind) for kind in ("JPEG", "BMP", "WEBP", "TIFF", "GIF")]
        self._folder = Path(tempfile.mkdtemp())
        files = small_bundle()
        write(self._folder, {**files, "manifest.json": manifest_of(files)})
        self._classifier = Classifier(Bundle.open(self._folder))
        shutil.rmtree(self._folder)

    def make(self, chance: random.Random) -> bytes:
        if chance.random() < 0.75:
            return spoiled_png(chance.choice(self._pngs), chance)
        samples = self._others if chance.random() < 0.6 else self._pngs
        return spoiled(chance.choice(samples), [*self._pngs, *self._others], [b"IHDR", b"\xff\xda", b"II*\0"], chance)

    def lay(self, data: bytes, folder: Path) -> None:
        files = {"model.onnx": redness_model(), "golden/00.png": data}
        golden = (GoldenFrame("golden/00.png", (0.5, 0.5)),)
        right = json.loads(manifest_of({"model.onnx": b""}, golden=golden))
        right["files"] = {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}
        right["model"]["tolerance"] = 1.0
        write(folder, {**files, "manifest.json": json.dumps(right).encode()})

    def feed(self, data: bytes, folder: Path) -> str:
        self._classifier.bundle = Bundle.open(folder)
        self._classifier.self_test()
        return ""


def _stored(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


_PLACES = [
    "model.onnx", "manifest.json", "golden", "golden/00.png", "golden/01.png", "extra", "golden/extra", "a/b",
]  # fmt: skip
_ODD_NAMES = [
    "..", "../outside/x", "/etc/hostname", "golden/../../outside/secret", "x" * 255, "a/b/c", ".hidden", "é", "a b",
    "\udcff", "new\nline", "golden", "golden/", "manifest.json", "MODEL.ONNX", "con", "a\\b", "\x1b[2J", "-rf",
]  # fmt: skip
_LINKS = [
    "/", "/dev/zero", "/dev/stdin", "/proc/self/mem", "../outside", "../outside/secret", "golden", ".", "nowhere",
    "model.onnx", "manifest.json",
]  # fmt: skip


class FolderTarget:
    """The folder of a bundle: files, links, pipes and folders where none should be, names and sizes that lie."""

    def make(self, chance: random.Random) -> bytes:
        steps: list[list[object]] = []
        for _ in range(chance.choice((1, 1, 2, 3))):
            place = chance.choice(_PLACES)
            match chance.randrange(12):
                case 0 | 1:
                    steps.append(["link", place, chance.choice(_LINKS)])
                case 2:
                    steps.append(["pipe", place])
                case 3:
                    steps.append(["socket", place])
                case 4:
                    steps.append(["folder", place])
                case 5:
                    steps.append(["remove", place])
                case 6:
                    steps.append(["deep", chance.choice((3, 100, 1500)), chance.choice(("", "golden"))])
                case 7:
                    steps.append(["many", chance.choice((10, 300, 3000))])
                case 8:
                    steps.append(
                        ["size", place, chance.choice((0, 1, 1 << 20, 200 << 20, 256 << 20, 1 << 33, 1 << 40))]
                    )
                case 9:
                    steps.append(["name", chance.choice(_ODD_NAMES)])
                case 10:
                    steps.append(["file", chance.choice([*_PLACES, *_ODD_NAMES[6:]])])
                case _:
                    steps.append(["named", place, chance.choice((0, 1 << 20, 200 << 20, 256 << 20, 1 << 33, 1 << 62))])
        return json.dumps(steps).encode()

    def lay(self, data: bytes, folder: Path) -> None:
        bundle = folder / "bundle"
        files = small_bundle()
        told = json.loads(manifest_of(files))
        write(bundle, files)
        late: list[list[object]] = []
        for step in json.loads(data):
            # What replaces the manifest comes after it was written.
            if step[0] in {"name", "named"}:
                _tell(told, bundle, step)
            elif len(step) > 1 and step[1] == "manifest.json":
                late.append(step)
            else:
                _build(bundle, step)
        _build(bundle, ["content", "manifest.json", json.dumps(told)])
        for step in late:
            _build(bundle, step)

    def feed(self, data: bytes, folder: Path) -> str:
        check_bundle(Bundle.open(folder / "bundle"))
        return ""


def _tell(told: dict, bundle: Path, step: list) -> None:
    """Lets the manifest name something else."""
    if step[0] == "name":
        told["files"][step[1]] = {"size": 3, "sha256": hashlib.sha256(b"bad").hexdigest()}
    elif step[1] in told["files"]:
        told["files"][step[1]]["size"] = step[2]
        path = bundle / step[1]
        if path.is_file() and not path.is_symlink() and step[2] <= 256 << 20:
            os.truncate(path, step[2])
            with path.open("rb") as file:
                told["files"][step[1]]["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()


def _build(bundle: Path, step: list) -> None:
    """Puts something into the folder; what cannot be put there is left out."""
    what, where = step[0], bundle / step[1] if isinstance(step[1], str) else bundle
    try:
        # Nothing is written through a link or into a pipe that was put there before.
        if what in {"link", "pipe", "socket", "remove", "content", "file"}:
            subprocess.run(["rm", "-rf", where], check=True) if where.is_dir() else where.unlink(missing_ok=True)
        match what:
            case "link":
                where.symlink_to(step[2])
            case "pipe":
                os.mkfifo(where)
            case "socket":
                with socket.socket(socket.AF_UNIX) as there:
                    there.bind(str(where))
            case "folder":
                where.mkdir(parents=True)
            case "content":
                where.write_text(step[2])
            case "file":
                where.write_bytes(b"bad")
            case "deep":
                subprocess.run(["mkdir", "-p", bundle / step[2] / "/".join("d" * step[1])], check=False)
            case "many":
                for number in range(step[1]):
                    (bundle / f"{number}").touch()
            case "size" if not where.is_symlink():
                os.truncate(where, step[2])
    except OSError:
        return


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files into a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
