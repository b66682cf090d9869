"""Debian packages and Python wheels for another processor, unpacked into a folder: no root, no chroot, no binfmt.

The packages come from wherever this machine's own apt fetches Debian, through an apt of its own state (its lists, its
cache, an empty list of installed packages), so signatures are checked and nothing is installed on this machine. The
wheels come from wherever pip fetches, at the versions that `requirements.lock` pins.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("OKKO_DEVICE_CACHE", "~/.cache/okko-device")).expanduser()

# glibc's that wheels may ask for; Bookworm has 2.36.
_PLATFORMS = (
    "manylinux_2_36",
    "manylinux_2_34",
    "manylinux_2_31",
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux2014",
    "manylinux_2_17",
)


@dataclass(frozen=True)
class Debian:
    """One suite of Debian for one architecture.

    Attributes:
        suite: "bookworm" or "trixie".
        architecture: "arm64" or "amd64".
    """

    suite: str
    architecture: str

    def unpack(self, root: Path, *names: str, dependencies: bool = True, only: tuple[str, ...] = ()) -> Path:
        """Fetches packages, with all that they depend on or alone, and unpacks them into `root`, once.

        Args:
            root: the folder.
            names: packages.
            dependencies: whether everything comes along that they depend on.
            only: if given, the only files and folders to unpack, as "usr/bin/qemu-aarch64".

        Returns:
            `root`. What was unpacked is noted beside it; the same call again does nothing.
        """
        wanted = f"{self.suite} {self.architecture} {' '.join(names)} {dependencies} {' '.join(only)}\n"
        done = root.with_name(root.name + ".unpacked")
        if done.is_file() and done.read_text() == wanted:
            return root
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for package in self._fetch(names, dependencies=dependencies):
            _unpack(package, root, only)
        done.write_text(wanted)
        return root

    def newest_kernel(self) -> str:
        """Returns the package that `linux-image-ARCHITECTURE` stands for today."""
        self._update()
        planned = self._apt("install", "--simulate", f"linux-image-{self.architecture}", output=True)
        return next(line.split()[1] for line in planned.splitlines() if line.startswith("Inst linux-image-"))

    def _fetch(self, names: tuple[str, ...], *, dependencies: bool) -> list[Path]:
        """Downloads the packages and returns the files."""
        self._update()
        folder = CACHE / "debs"
        folder.mkdir(parents=True, exist_ok=True)
        listed = [*names]
        if dependencies:
            planned = self._apt("install", "--no-install-recommends", "--simulate", *names, output=True)
            listed = [line.split()[1] for line in planned.splitlines() if line.startswith("Inst ")]
        locations = self._apt("download", "--print-uris", *listed, output=True)
        files = [folder / line.split()[1] for line in locations.splitlines() if line.startswith("'")]
        if not all(file.is_file() for file in files):
            self._apt("download", *listed, folder=folder)
        return files

    def _update(self) -> None:
        """Fetches the lists, at most once a day."""
        state = self._state
        fresh = state / "updated"
        if fresh.is_file() and time.time() - fresh.stat().st_mtime < 86400:
            return
        for part in ("lists/partial", "cache/archives/partial", "sources.list.d"):
            (state / part).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        (state / "sources.list").write_text(f"deb [signed-by={_keyring()}] {_mirror()} {self.suite} main\n")
        self._apt("update", "-qq")
        fresh.touch()

    @property
    def _state(self) -> Path:
        return CACHE / "apt" / f"{self.suite}-{self.architecture}"

    def _apt(self, *arguments: str, output: bool = False, folder: Path | None = None) -> str:
        state = self._state
        options = {
            "Dir::State": state,
            "Dir::State::lists": state / "lists",
            "Dir::State::status": state / "status",
            "Dir::Cache": state / "cache",
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": state / "sources.list.d",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "pkgCacheGen::Essential": "none",  # an empty machine is not to be filled with what each Debian needs
            "APT::Sandbox::User": "root",
        }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run(
            ["apt-get", "-q", *flags, *arguments], check=True, text=True, stdout=subprocess.PIPE, cwd=folder
        )
        return done.stdout if output else ""


def _unpack(package: Path, root: Path, only: tuple[str, ...]) -> None:
    members = [f"./{name}" for name in only]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", root, *members], stdin=archive.stdout, check=True)
    if archive.returncode:
        raise SystemExit(f"{package} cannot be unpacked; delete it and try again")


def _mirror() -> str:
    """Where this machine's own apt fetches Debian from."""
    codename = re.search(r"^VERSION_CODENAME=(\S+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    shape = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY) $(ORIGIN)"
    targets = subprocess.run(["apt-get", "indextargets", "--format", shape], check=True, text=True, capture_output=True)
    for line in targets.stdout.splitlines():
        uri, release, component, kind, *origin = line.split()
        if codename and (release, component, kind) == (codename[1], "main", "Packages") and origin in ([], ["Debian"]):
            return uri
    raise SystemExit("apt on this machine fetches no Debian: run apt-get update, or use a Debian 12 or newer")


def _keyring() -> Path:
    """The keys of Debian's archive: this machine's, or from its own apt when those are too old for Debian 13."""
    ours = Path("/usr/share/keyrings")
    if not (ours / "debian-archive-trixie-stable.gpg").is_file():
        ours = CACHE / "keyring/usr/share/keyrings"
        if not ours.is_dir():
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(["apt-get", "-q", "download", "debian-archive-keyring"], check=True, cwd=folder)
                (package,) = Path(folder).glob("*.deb")
                subprocess.run(["dpkg-deb", "-x", package, CACHE / "keyring"], check=True)
    return ours / "debian-archive-keyring.gpg"


def requirements(python: str, *extras: str) -> tuple[list[str], list[str]]:
    """What an install of okko asks for on aarch64 Linux, as `pyproject.toml` says and `requirements.lock` pins it.

    Args:
        python: version of CPython, "3.11".
        extras: beside the base install.

    Returns:
        what is asked for, and "name==version" of everything that the lock knows.
    """
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    device = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": "aarch64",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
    }
    pins = []
    for line in re.findall(r"^[A-Za-z0-9_.-]+==[^\\\n]+", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE):
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(device):
            pins.append(f"{pin.name}{pin.specifier}")
    return asked, pins


def install_wheels(site: Path, python: str, asked: list[str], pins: list[str]) -> Path:
    """Installs aarch64 wheels for CPython `python` ("3.11") into `site` with this machine's pip, once.

    Returns:
        `site`.
    """
    wanted = "\n".join((python, *asked, "", *pins, ""))
    done = site.with_name(site.name + ".installed")
    if done.is_file() and done.read_text() == wanted:
        return site
    shutil.rmtree(site, ignore_errors=True)
    site.parent.mkdir(parents=True, exist_ok=True)
    constraints = site.with_name(site.name + ".constraints")
    constraints.write_text("\n".join(pins) + "\n")
    platforms = [word for platform in _PLATFORMS for word in ("--platform", f"{platform}_aarch64")]
    _pip(
        *("install", "--no-compile", "--only-binary=:all:", "--constraint", constraints, "--target", site),
        *("--python-version", python, *platforms, *asked),
    )
    done.write_text(wanted)
    return site


def install_okko(site: Path) -> Path:
    """Builds okko's wheel from this checkout as it is now, and unpacks it into `site`.

    Returns:
        `site`.
    """
    shutil.rmtree(site, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, REPOSITORY)
        (wheel,) = Path(folder).glob("okko-*.whl")
        _pip("install", "--no-compile", "--no-deps", "--target", site, wheel)
    return site


def _pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)
