"""What a machine tells about itself, read from machines made of files."""

from __future__ import annotations

import pytest

from okko_edge.board import (
    Throttled,
    clock_is_synchronised,
    has_clock_chip,
    memory_of_this_process_mb,
    read_board,
    temperature_c,
    throttled,
)

PI_4 = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/meminfo": "MemTotal:        1893956 kB\nMemFree:  100 kB\nMemAvailable:    1500000 kB\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\n',
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48200\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "run/systemd/timesync/synchronized": "",
}


@pytest.fixture
def machine(tmp_path):
    def make(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def test_a_raspberry_pi_is_recognised_by_its_device_tree(machine):
    board = read_board(machine(PI_4))
    assert (board.model, board.raspberry_pi) == ("Raspberry Pi 4 Model B Rev 1.4", True)
    assert (board.system, board.codename) == ("Debian GNU/Linux 12 (bookworm)", "bookworm")
    assert (board.memory_mb, board.available_mb) == (1939, 1536)


def test_another_machine_is_named_by_its_processor(machine):
    board = read_board(machine({"proc/cpuinfo": "model name\t: Some CPU @ 2 GHz\n"}))
    assert (board.model, board.raspberry_pi, board.memory_mb) == ("Some CPU @ 2 GHz", False, None)


def test_a_machine_that_tells_nothing_is_no_error(machine):
    root = machine({})
    assert read_board(root).model
    assert temperature_c(root) is None
    assert throttled(root) is None
    assert not clock_is_synchronised(root)
    assert not has_clock_chip(root)


def test_the_temperature_is_the_processors(machine):
    assert temperature_c(machine(PI_4)) == 48.2
    assert temperature_c(machine({"sys/class/thermal/thermal_zone0/type": "battery"})) == 48.2
    more = {"sys/class/thermal/thermal_zone1/type": "cpu-thermal", "sys/class/thermal/thermal_zone1/temp": "61000"}
    assert temperature_c(machine(more)) == 61


def test_the_bits_of_throttling_are_told_apart(machine):
    assert throttled(machine(PI_4)) == (
        Throttled.UNDER_VOLTAGE
        | Throttled.THROTTLED
        | Throttled.UNDER_VOLTAGE_SINCE_START
        | Throttled.THROTTLED_SINCE_START
    )


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("throttled=0x20000", Throttled.FREQUENCY_CAPPED_SINCE_START),
        ("throttled=0x0", Throttled(0)),
        ("VCHI failed", None),
    ],
)
def test_without_the_kernels_file_the_firmwares_tool_is_asked(machine, printed, expected):
    root = machine({"usr/bin/vcgencmd": f"#!/bin/sh\necho {printed}\n"})
    (root / "usr/bin/vcgencmd").chmod(0o755)
    assert throttled(root) == expected


def test_a_synchronised_clock_and_a_clock_chip_are_seen(machine):
    root = machine({**PI_4, "sys/class/rtc/rtc0/name": "rtc-rp1"})
    assert clock_is_synchronised(root)
    assert has_clock_chip(root)


def test_this_process_needs_some_memory_on_the_real_machine():
    assert 5 < memory_of_this_process_mb() < 4000
    assert read_board().processors >= 1
