#!/usr/bin/python3.11
"""The first process of an emulated machine: mounts what programs expect, loads drivers, runs a program, ends."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import termios
import time
import traceback
from pathlib import Path

_INIT_MODULE = 105  # the number of the system call on aarch64
_RESTART = 0x01234567  # the emulator ends instead
# One camera whose picture comes through an HDMI cable from one output: what is written there is what the camera shows.
VIVID = b"n_devs=1 node_types=0x101 num_inputs=1 input_types=3 num_outputs=1 output_types=1"
libc = ctypes.CDLL("libc.so.6", use_errno=True)


def mount(kind: str, place: str) -> None:
    Path(place).mkdir(parents=True, exist_ok=True)
    libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None)


def load_modules() -> None:
    for name in Path("/modules/order").read_text().split():
        code = Path(f"/modules/{name}.ko").read_bytes()
        options = VIVID if name == "vivid" else b""
        if libc.syscall(_INIT_MODULE, code, ctypes.c_ulong(len(code)), options):
            print(f"module {name}: {errno.errorcode.get(ctypes.get_errno())}", flush=True)


def main() -> None:
    for kind, place in (
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/root"),
    ):
        mount(kind, place)
    # The answers that come over this line must not be sent back.
    attributes = termios.tcgetattr(0)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, attributes)
    load_modules()
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/site:/guest", "HOME": "/root", "LANG": "C.UTF-8"}
    program = subprocess.Popen(["/usr/bin/python3.11", "-u", *sys.argv[1:]], env=environment)
    while True:
        pid, status = os.wait()  # whatever has lost its parent ends here too
        if pid == program.pid:
            print(f"the program ended with {os.waitstatus_to_exitcode(status)}", flush=True)
            return


try:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
except BaseException:
    traceback.print_exc()
sys.stdout.flush()
time.sleep(0.5)
libc.sync()
libc.reboot(_RESTART)
time.sleep(60)
