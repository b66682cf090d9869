"""An emulated machine: builds what it boots, runs it, and answers what its programs ask about the chips from outside.

A program inside prints a line "@" with JSON. {"ask": "register", "address": A} is answered with what the chip holds at
that address of the machine's bus, read by the emulator, not by the program's own kernel; {"ask": "input", "line": N,
"level": L} drives an input line of the GPIO chip. Everything else is passed on.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from initramfs import Initramfs, kernel_modules
from packages import CACHE, Debian, install_okko, install_wheels, requirements

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = "3.11"
_CHIP_WITH_INPUTS = "pl061"
# PyPI has the C library's wheel; Debian 12 and 13 have no package of it, Raspberry Pi OS has.
_BESIDE_THE_EDGE = ["lgpio>=0.2.2", "linuxpy>=0.20"]
_LEFT_OUT = (
    *(r"^usr/share/(doc|man|locale|lintian|perl)", r"^usr/lib/aarch64-linux-gnu/(perl|gconv)", r"/tests?/", r"\.exe$"),
    *(r"^usr/lib/python3\.11/(idlelib|ensurepip|lib2to3|pydoc_data|turtledemo)", r"^site/(setuptools|bin)/", r"^var/"),
    *(r"^site/onnxruntime/(transformers|tools|quantization|datasets)/", r"^usr/bin/(?!python3\.11$)"),
)


@dataclass(frozen=True)
class Pieces:
    """What every emulated machine is made of, unpacked in the cache."""

    qemu: Path
    kernel: Path
    root: Path
    site: Path
    okko: Path

    @classmethod
    def fetch(cls) -> Pieces:
        """Fetches what is not there yet."""
        kernels = Debian("trixie", "arm64")
        asked, pins = requirements(PYTHON, "edge")
        pieces = cls(
            qemu=Debian("trixie", "amd64").unpack(CACHE / "qemu-system", "qemu-system-arm", "device-tree-compiler"),
            kernel=kernels.unpack(CACHE / "kernel", kernels.newest_kernel(), dependencies=False),
            root=Debian("bookworm", "arm64").unpack(CACHE / "bookworm-arm64", f"python{PYTHON}", "libstdc++6"),
            site=install_wheels(CACHE / "site-pi3b", PYTHON, [*asked, *_BESIDE_THE_EDGE], pins),
            okko=install_okko(CACHE / "okko-pi3b"),
        )
        if sys.version_info[:2] == (3, 11):  # byte code of another version would not be used
            for folder in (pieces.root / f"usr/lib/python{PYTHON}", pieces.site, pieces.okko):
                _compile(folder)
        return pieces

    def tool(self, name: str) -> list[str | Path]:
        """Returns the beginning of a command line for a program of the emulator's packages, which is not installed."""
        libraries = self.qemu / "usr/lib/x86_64-linux-gnu"
        return [self.qemu / "usr/lib64/ld-linux-x86-64.so.2", "--library-path", libraries, self.qemu / "usr/bin" / name]

    @property
    def firmware(self) -> list[str | Path]:
        """The emulator's options that say where its own files are."""
        return ["-L", self.qemu / "usr/share/qemu"]

    @property
    def image(self) -> Path:
        """The kernel."""
        (image,) = self.kernel.glob("boot/vmlinuz-*")
        return image

    def device_tree(self, name: str) -> Path:
        """Returns a board's device tree, out of the kernel's package."""
        (tree,) = self.kernel.glob(f"usr/lib/linux-image-*/**/{name}.dtb")
        return tree

    def write_disk(self, path: Path, modules: list[str], files: dict[str, Path]) -> None:
        """Writes the machine's disk: the root, the wheels, okko, kernel modules, and files or folders under a name."""
        with Initramfs(path) as disk:
            for device, number in (("dev/console", (5, 1)), ("dev/null", (1, 3)), ("dev/urandom", (1, 9))):
                disk.add_device(device, *number)
            loaded = kernel_modules(self.kernel, modules)
            for name, code in loaded.items():
                disk.add(f"modules/{name}.ko", code)
            disk.add("modules/order", "\n".join(loaded).encode())
            for name, source in files.items():
                if source.is_dir():
                    disk.add_tree(source, name)
                else:
                    disk.add(name, source.read_bytes(), 0o755)
            disk.add_tree(self.okko, "site", leave_out=_LEFT_OUT)
            disk.add_tree(self.site, "site", leave_out=_LEFT_OUT)
            disk.add_tree(self.root, leave_out=_LEFT_OUT)


class Machine:
    """A running machine.

    Args:
        pieces: what it is made of.
        arguments: of the emulator: board, kernel, disk.
        log: everything that the machine says goes here.
        limit_s: it is ended after so long.

    Attributes:
        finished: whether its program ended as it should.
    """

    def __init__(self, pieces: Pieces, arguments: list[str | Path], log: Path, *, limit_s: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="okko-machine-")
        self._log = log.open("w", encoding="utf-8")
        self.finished = False
        monitor, test = (Path(self._folder.name) / name for name in ("monitor", "test"))
        self._process = subprocess.Popen(
            [
                *pieces.tool("qemu-system-aarch64"),
                *(*pieces.firmware, "-display", "none", "-monitor", "none", "-no-reboot"),
                *("-qmp", f"unix:{monitor},server=on,wait=off"),
                *("-qtest", f"unix:{test},server=on,wait=off", "-qtest-log", "none"),
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._sockets = {"monitor": monitor, "test": test}
        self._limit = threading.Timer(limit_s, self._process.kill)
        self._limit.start()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.cancel()
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def says(self) -> Iterator[dict[str, object]]:
        """Yields what the programs inside report, until the machine ends; answers their questions."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            print(text, file=self._log, flush=True)
            self.finished |= text == "the program ended with 0"
            _, at, told = text.partition("@{")
            if not at:
                continue
            said = json.loads("{" + told)
            if "ask" in said:
                self._answer(said)
            else:
                yield said

    def _answer(self, asked: dict[str, int]) -> None:
        if asked["ask"] == "register":
            answer = self._register(asked["address"])
        else:
            self._drive(asked["line"], asked["level"])
            answer = 0
        assert self._process.stdin is not None
        self._process.stdin.write(f"{answer}\n".encode())
        self._process.stdin.flush()

    def _register(self, address: int) -> int:
        said = self._test(f"readl 0x{address:x}")
        return int(said.split()[1], 16)

    def _drive(self, line: int, level: int) -> None:
        if not hasattr(self, "_chip"):
            (self._chip,) = self._find(_CHIP_WITH_INPUTS)
        self._test(f"set_irq_in {self._chip} unnamed-gpio-in {line} {level}")

    def _test(self, command: str) -> str:
        """Sends a command of the emulator's test protocol."""
        if not hasattr(self, "_tester"):
            self._tester = socket.socket(socket.AF_UNIX)
            self._tester.connect(str(self._sockets["test"]))
            self._tester_lines = self._tester.makefile("r")
        self._tester.sendall(f"{command}\n".encode())
        said = next(line for line in self._tester_lines if not line.startswith("IRQ"))
        if not said.startswith("OK"):
            raise RuntimeError(f"{command}: {said}")
        return said

    def _find(self, kind: str) -> list[str]:
        """Returns the paths of all parts of the machine that are of a type."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._sockets["monitor"]))
        lines = connection.makefile("rw")
        lines.readline()

        def ask(command: str, **arguments: str) -> object:
            lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            lines.flush()
            return next(said["return"] for line in lines if "return" in (said := json.loads(line)))

        ask("qmp_capabilities")
        parts = ask("qom-list", path="/machine/unattached")
        assert isinstance(parts, list)
        found = [f"/machine/unattached/{part['name']}" for part in parts if part["type"] == f"child<{kind}>"]
        connection.close()
        return found


def _compile(folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash", folder],
        check=False,  # test files with bad syntax on purpose
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )
