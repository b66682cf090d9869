"""Trains the sample bundle twice, so that float32 and int8 can both be tried on other processors.

`okko train` ships the better of the two; here the choice is made for it, and everything else is the product's own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from packages import CACHE, REPOSITORY

from okko_models.manifest import SCHEMA_VERSION

if TYPE_CHECKING:
    from okko_train.variants import Measured

PHOTOS = REPOSITORY / "train/samples/marbles/one_rig"


def trained(precision: str) -> Path:
    """Returns a bundle in the cache that ships as "float32" or "int8"; trains it if there is none of today's format."""
    out = CACHE / "bundles" / f"{precision}-{SCHEMA_VERSION}"
    if not out.is_dir():
        subprocess.run([sys.executable, __file__, precision, out], check=True, stdout=subprocess.DEVNULL)
    return out


def _train(precision: str, out: Path) -> None:
    from okko_train import candidates

    def choose(float32: Measured, int8: Measured) -> Measured:
        return {"float32": float32, "int8": int8}[precision]

    candidates.choose = choose
    out.parent.mkdir(parents=True, exist_ok=True)
    sys.argv = ["okko", "train", str(PHOTOS), "-o", str(out), "--workers", "1"]
    from okko.cli import main

    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise


if __name__ == "__main__":
    _train(sys.argv[1], Path(sys.argv[2]))
