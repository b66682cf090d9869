"""A registry's metadata as a device reads them: served by somebody else, kept on a worn-out card, or rightly signed."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical

from okko_models.bundle import write_bundle
from okko_models.errors import OkkoError
from okko_models.registry.client import Client
from okko_models.registry.root import rotate
from tests.conftest import manifest, png, redness_model
from tests.fuzz.models import write
from tests.fuzz.mutations import spoiled, spoiled_json, spoiled_tree
from tests.models.registry.simulator import Server, Simulator

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_WORDS = [b"[" * 5000, b"9" * 400, b'"', b"\\u0000", b"\\ud800", b"-", b"null", b"{}", b"1e999", b'"version": 9', b"Z"]
_CHAIN = ("targets", "snapshot", "timestamp")


class MetadataTarget:
    """Root, timestamp, snapshot, targets; and bundles that are signed by the right keys but hostile."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp())
        with mock.patch.object(Ed25519PrivateKey, "generate", _same_keys()):
            self._prepare()

    def _prepare(self) -> None:
        simulator = Simulator(self._folder / "sim", self._bundle)
        simulator.release("1")
        earlier = simulator.past()
        self._digest = simulator.release("2").digest
        rotate(simulator.publisher, "snapshot")
        simulator.publisher.pin("device", "stable")
        self._good, self._root, self._time = simulator.past(), simulator.root, simulator.time
        self._newest = {role: self._last(self._good, role) for role in ("root", *_CHAIN)}
        self._earlier = {role: earlier[self._last(earlier, role)] for role in ("root", *_CHAIN)}
        root = simulator.publisher.look().trusted.root
        self._signers = {role: simulator.publisher.ring.signers(root, role) for role in ("root", *_CHAIN)}
        client, _ = self._device(self._folder / "kept")
        self._wanted = client.look().digest
        newest = {
            path.relative_to(self._folder / "kept").as_posix(): path.read_bytes()
            for path in (self._folder / "kept").rglob("*.json")
        }
        self._earlier["root"] = newest["root.json"]
        names = {role: f"{role}.json" for role in ("root", *_CHAIN)}
        # A device that was only enrolled, one that looked a while ago, and one that is up to date.
        self._states = {
            "enrolled": {"root.json": newest["root.json"]},
            "earlier": {names[role]: data for role, data in self._earlier.items()},
            "newest": newest,
        }
        shutil.rmtree(self._folder)

    def make(self, chance: random.Random) -> bytes:
        role = chance.choice(("root", *_CHAIN))
        good = self._good[self._newest[role]]
        state = chance.choice(sorted(self._states))
        told: dict[str, dict[str, bytes]]
        match chance.randrange(4):
            case 0:
                told = {"served": {role: self._spoiled(good, chance)}}
            case 1:
                name = chance.choice(sorted(self._states[state]))
                told = {"kept": {name: self._spoiled(self._states[state][name], chance)}}
            case _:
                told = {"served": self._signed(chance.choice(("bundle", "root", *_CHAIN)), chance)}
                told["signed"] = {"": b""}
        told["state"] = {state: b""}
        return json.dumps(
            {
                how: {name: base64.b64encode(data).decode() for name, data in parts.items()}
                for how, parts in told.items()
            }
        ).encode()

    def lay(self, data: bytes, folder: Path) -> None:
        told = _told(data)
        (state,) = told["state"]
        write(folder / "state", {**self._states[state], **told.get("kept", {})})

    def feed(self, data: bytes, folder: Path) -> str:
        told = _told(data)
        client, server = self._device(folder / "state")
        served = told.get("served", {})
        server.files = {**self._good, **self._bundle_of(served)}
        for role in ("root", *_CHAIN):
            if role in served and not (role == "root" and "signed" in told):
                server.replies[self._newest[role]] = served[role]
        # A role's file is found whatever version the one above it names.
        server.read = _any_version(server.read, served, self._newest["root"], "signed" in told)
        try:
            if "signed" in told:
                fetched = client.fetch(folder / "models", device="device")
                assert (folder / "models" / fetched.wanted.digest / "model.onnx").is_file()
                return ""
            assert client.look().digest == self._wanted
            return ""
        except OkkoError:
            if "signed" not in told and "root.json" not in told.get("kept", {}):
                honest, _ = self._device(folder / "state")
                assert honest.look().digest == self._wanted, "it does not recover"
            raise

    def _device(self, state: Path) -> tuple[Client, Server]:
        server = Server(self._good)
        client = Client(state, server, clock=lambda: self._time, monotonic=lambda: 0.0)
        if not (state / "root.json").exists():
            client.enroll(self._root)
        return client, server

    def _bundle(self, name: str) -> Path:
        golden = {"golden/00.png": png((250, 10, 10)), "golden/01.png": png((10, 10, 250))}
        model = redness_model()
        write_bundle(self._folder / name, manifest(model, golden), {"model.onnx": model, **golden})
        return self._folder / name

    def _spoiled(self, good: bytes, chance: random.Random) -> bytes:
        others = [self._good[key] for key in self._newest.values()] + list(self._earlier.values())
        if chance.random() < 0.15:
            return chance.choice(others)
        if chance.random() < 0.6:
            return spoiled_json(good, others, chance)
        return spoiled(good, others, _WORDS, chance)

    def _signed(self, what: str, chance: random.Random) -> dict[str, bytes]:
        """Spoils what was signed and signs it again, and all that stands above it."""
        trees = {role: json.loads(self._good[key])["signed"] for role, key in self._newest.items()}
        for tree in trees.values():
            tree["version"] += 1
        for above, role in (("snapshot", "targets"), ("timestamp", "snapshot")):
            trees[above]["meta"][f"{role}.json"]["version"] += 1
        served: dict[str, bytes] = {}
        if what == "bundle":
            good = self._good[f"bundles/{self._digest}/manifest.json"]
            hostile = spoiled_json(good, [], chance)
            digest = hashlib.sha256(hostile).hexdigest()
            served["bundle"] = hostile
            trees["targets"] = json.loads(json.dumps(trees["targets"]).replace(self._digest, digest))
            for path, entry in trees["targets"]["targets"].items():
                if digest in (path.split("/")[1], entry["hashes"]["sha256"]):
                    entry["length"] = len(hostile)
        else:
            trees[what] = spoiled_tree(trees[what], list(trees.values()), chance)
        if what == "root":
            return {"root": self._sign("root", trees["root"])}
        for role, above in zip(_CHAIN, (*_CHAIN[1:], ""), strict=True):
            served[role] = self._sign(role, trees[role])
            meta = trees[above].get("meta") if above and isinstance(trees[above], dict) else None
            if isinstance(meta, dict) and isinstance(meta.get(f"{role}.json"), dict):
                digest = hashlib.sha256(served[role]).hexdigest()
                meta[f"{role}.json"] |= {"length": len(served[role]), "hashes": {"sha256": digest}}
        return served

    def _sign(self, role: str, tree: Any) -> bytes:
        try:
            content = encode_canonical(tree).encode()
        except Exception:  # canonical JSON knows no real numbers, and more; then nobody can have signed it
            content = b""
        signatures = [signer.sign(content).to_dict() for signer in self._signers[role]]
        return json.dumps({"signatures": signatures, "signed": tree}).encode("utf-8", "surrogatepass")

    def _bundle_of(self, served: dict[str, bytes]) -> dict[str, bytes]:
        if "bundle" not in served:
            return {}
        digest = hashlib.sha256(served["bundle"]).hexdigest()
        prefix = f"bundles/{self._digest}/"
        files = {key.replace(self._digest, digest): data for key, data in self._good.items() if key.startswith(prefix)}
        return {**files, f"bundles/{digest}/manifest.json": served["bundle"]}

    @staticmethod
    def _last(files: dict[str, bytes], role: str) -> str:
        names = [
            key for key in files if key.startswith("metadata/") and key.endswith(f"{role}.json") and "draft" not in key
        ]
        return max((key for key in names if "pending" not in key), key=lambda key: (len(key), key))


def _told(data: bytes) -> dict[str, dict[str, bytes]]:
    told = json.loads(data)
    return {how: {name: base64.b64decode(text) for name, text in parts.items()} for how, parts in told.items()}


def _any_version(read: Any, served: dict[str, bytes], newest_root: str, signed: bool) -> Any:
    last = int(newest_root.removeprefix("metadata/").partition(".")[0])

    def reading(key: str, start: int, size: int) -> Any:
        role = key.rpartition(".json")[0].rpartition(".")[2]
        if key.startswith("metadata/") and role in ("targets", "snapshot") and role in served:
            return iter([served[role][start:]])
        if signed and "root" in served and key == f"metadata/{last + 1}.root.json":
            return iter([served["root"]])
        return read(key, start, size)

    return reading


def _same_keys() -> Callable[[], Ed25519PrivateKey]:
    """Keys that are the same in every run, so that a seed names an input."""
    numbers = itertools.count()
    return lambda: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % next(numbers)).digest())
