"""okko's picamera2 camera, run by real picamera2 and real libcamera of Debian 13, which is what Raspberry Pi OS has.

libcamera's virtual camera shows marbles of the sample set. It runs in a root of its own: Debian packages unpacked into
the cache, picamera2 from PyPI compiled there, entered through a user namespace, so nothing is installed on this machine
and nobody needs to be root. What the virtual camera lacks beside a real one is added in `guest.py`, not in okko.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packages import CACHE, REPOSITORY, Debian, install_okko

HERE = Path(__file__).resolve().parent
PHOTOS = REPOSITORY / "train/samples/marbles/one_rig"
SHOWN = ("KO/ri00001.jpg", "OK/ri00000.jpg")
SIZE = (320, 240)
PICAMERA2 = "picamera2==0.3.38"
# What a system has that one cannot do without, Python with libcamera, and what compiles python-prctl for picamera2.
PACKAGES = (
    *("base-files", "base-passwd", "bash", "ca-certificates", "coreutils", "mount", "util-linux"),
    *("python3", "python3-pip", "python3-libcamera", "libcamera-ipa"),
    *("gcc", "libc6-dev", "libcap-dev", "python3-dev"),
)
_CAMERA = """%YAML 1.1
---
"Virtual0":
  supported_formats:
  - width: {width}
    height: {height}
    frame_rates: [30, 60]
  frames:
    path: "/opt/photos/"
  location: "CameraLocationBack"
  model: "marbles"
"""
# The host's network and certificates, and its pip's settings; nothing else of the host is seen inside.
_ENTER = """
for each in dev proc sys; do mount --rbind /$each "$0/$each"; done
exec chroot "$0" /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin LC_ALL=C.UTF-8 "$@"
"""


def inside(root: Path, *command: str, **environment: str) -> None:
    """Runs a command in the root; raises CalledProcessError if it fails."""
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    settings = [f"{name}={value}" for name, value in (pip | environment).items()]
    enter = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c", _ENTER, str(root))
    subprocess.run([*enter, *settings, "nice", *command], check=True)


def build() -> Path:
    """Makes the root, once; afterwards only okko and the files of this folder are renewed."""
    root = Debian("trixie", "amd64").unpack(CACHE / "camera", *PACKAGES)
    certificates = root / "etc/ssl/certs/ca-certificates.crt"
    certificates.parent.mkdir(parents=True, exist_ok=True)
    for file in (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pip.conf")):
        if file.is_file():
            shutil.copy(file, root / str(file).lstrip("/"))
    (root / "opt").mkdir(exist_ok=True)
    done = root / "opt/installed"
    if not done.is_file() or done.read_text() != PICAMERA2:
        pip = ("python3", "-m", "pip", "install", "--quiet", "--break-system-packages", "--root-user-action=ignore")
        inside(root, *pip, "--target=/opt/site", "--upgrade", PICAMERA2, "msgspec")
        done.write_text(PICAMERA2)
    install_okko(root / "opt/okko")
    for file in ("guest.py", "dma_heap.c"):
        shutil.copy(HERE / file, root / "opt" / file)
    inside(root, "gcc", "-Wall", "-Wextra", "-O1", "-shared", "-fPIC", "-o", "/opt/dma_heap.so", "/opt/dma_heap.c")
    shutil.rmtree(root / "opt/photos", ignore_errors=True)
    (root / "opt/photos").mkdir()
    for index, photo in enumerate(SHOWN):
        shutil.copy(PHOTOS / photo, root / f"opt/photos/{index}.jpg")
    description = root / "usr/share/libcamera/pipeline/virtual/virtual.yaml"
    description.parent.mkdir(parents=True, exist_ok=True)
    description.write_text(_CAMERA.format(width=SIZE[0], height=SIZE[1]))
    return root


def main() -> int:
    """Builds what is missing and runs `guest.py`; its exit code is this one's."""
    root = build()
    try:
        inside(
            root,
            *("timeout", "120", "python3", "/opt/guest.py", "/opt/photos", str(SIZE[0]), str(SIZE[1])),
            LD_PRELOAD="/opt/dma_heap.so",
            LIBCAMERA_LOG_LEVELS="*:FATAL",
            PYTHONPATH="/opt/site:/opt/okko",
        )
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
