"""The service on a Pi: what its unit promises, and what the install script does and refuses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PI = Path(__file__).parents[2] / "infra" / "pi"


@pytest.fixture(scope="module")
def unit():
    """The unit's settings: a list of values a name."""
    found: dict[str, list[str]] = {}
    for line in (PI / "okko.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_shellcheck_has_nothing_to_say():
    scripts = [path for path in PI.iterdir() if path.read_text().startswith("#!/bin/sh")]
    assert {path.name for path in scripts} == {"check", "install", "uninstall"}
    tool = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([tool, "-o", "check-unassigned-uppercase", *scripts], capture_output=True, text=True)
    assert done.stdout == done.stderr == ""
    assert all(os.access(path, os.X_OK) for path in scripts)


def test_sorting_starts_without_a_network(unit):
    ordering = " ".join(unit["After"] + unit.get("Wants", []) + unit.get("Requires", []))
    assert "network" not in ordering
    assert "network" not in unit["WantedBy"][0]


def test_a_stuck_path_and_a_dead_program_are_started_again_within_a_second_but_not_for_ever(unit):
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) <= 10
    assert unit["Restart"] == ["always"]
    assert unit["RestartSec"] == ["1"]
    assert int(unit["StartLimitBurst"][0]) > 0
    assert unit["StartLimitIntervalSec"] == ["1h"]


def test_the_disk_is_read_only_but_for_the_state_and_pwm(unit):
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["ReadWritePaths"] == ["-/sys/devices/platform"]
    assert unit["StateDirectory"] == ["okko"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == [""]


def test_only_the_devices_that_sorting_needs_can_be_opened(unit):
    assert unit["DevicePolicy"] == ["closed"]
    devices = {value.split()[0] for value in unit["DeviceAllow"]}
    assert devices == {"char-gpiochip", "char-video4linux", "char-media", "char-dma_heap", "char-vcio"}
    assert unit["SupplementaryGroups"] == ["gpio video"]


def test_the_journals_default_place_is_the_services_state(unit):
    environment = dict(pair.split("=", 1) for line in unit["Environment"] for pair in shlex.split(line))
    assert environment["XDG_STATE_HOME"] == "%S"
    # lgpio makes a pipe in its working folder, and cannot work where it may not.
    assert environment["LG_WD"] == unit["WorkingDirectory"][0] == "%t/okko"
    assert unit["RuntimeDirectory"] == ["okko"]


def test_the_unit_starts_what_the_script_installs(unit):
    script = (PI / "install").read_text()
    assert unit["ExecStart"] == ["/opt/okko/current/bin/okko run --config /etc/okko/okko.toml"]
    assert "opt=/opt/okko" in script
    assert '"$release/bin/okko" config example >/etc/okko/okko.toml.new' in script


def test_the_rules_give_gpio_and_pwm_to_the_group_gpio():
    rules = [line for line in (PI / "99-okko.rules").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.match(r'SUBSYSTEM=="\w+", ', rule) for rule in rules)
    (gpio,) = [rule for rule in rules if "gpiochip" in rule]
    assert 'GROUP="gpio"' in gpio
    (pwm,) = [rule for rule in rules if "pwmchip" in rule]
    # A channel appears when it is exported, which the kernel reports as a change of its chip.
    assert 'ACTION=="add|change"' in pwm
    assert "chgrp -R gpio /sys%p" in pwm


@pytest.fixture
def machine(tmp_path):
    """Returns a function that runs a script with stand-ins for the system's tools, and records what they were told."""
    tools = tmp_path / "bin"
    tools.mkdir()

    def put(name, body):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n{body}\n')
        (tools / name).chmod(0o755)

    for name in ("apt-get", "groupadd", "useradd", "usermod", "userdel", "systemctl", "udevadm", "install", "mv", "rm"):
        put(name, "exit 0")
    put("dpkg-query", "exit 1")
    put("apt-cache", "exit 0")

    def run(script, *arguments, architecture="arm64", user="0"):
        put("dpkg", f"echo {architecture}")
        put("id", f"echo {user}")
        done = subprocess.run(
            [PI / script, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{tools}:{Path(sys.executable).parent}:/usr/bin:/bin"},
        )
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        told = {call.split()[0] for call in calls} - {"dpkg", "dpkg-query", "apt-cache", "id"}
        return done, told

    return run


@pytest.mark.parametrize("architecture", ["armhf", "armel", "i386"])
def test_a_32_bit_system_is_refused_with_what_to_do_before_anything_is_written(machine, architecture):
    done, told = machine("install", architecture=architecture)
    assert done.returncode == 1
    assert f"32-bit ({architecture})" in done.stderr
    assert "Raspberry Pi OS (64-bit)" in done.stderr
    assert told == set()


def test_a_dry_run_shows_every_step_and_takes_none(machine):
    done, told = machine("install", "--dry-run", user="1000")
    assert (done.returncode, told) == (0, set())
    for step in (
        "apt-get install -y --no-install-recommends python3-venv python3-picamera2 python3-lgpio",
        "-m venv --system-site-packages /opt/okko/releases/",
        "[edge]",
        "mv -T /opt/okko/current.new /opt/okko/current",
        "okko.service /etc/systemd/system/okko.service",
        "99-okko.rules /etc/udev/rules.d/99-okko.rules",
    ):
        assert step in done.stdout
    assert "nothing was changed" in done.stdout
    assert "dtoverlay=pwm-2chan" in done.stdout


def test_every_place_that_is_written_is_one_that_the_help_names(machine):
    named = set(re.findall(r"(?<= )/[\w/.-]+", machine("install", "--help")[0].stdout))
    steps = re.findall(r"would (?:run|write): (.*)", machine("install", "--dry-run")[0].stdout)
    written = {
        word
        for step in steps
        if not step.startswith(("apt-get", "groupadd", "usermod", "udevadm", "systemctl"))
        for word in step.split()
        if word.startswith(("/opt", "/etc", "/var", "/usr", "/lib", "/boot", "/home"))
    }
    written -= {"/usr/sbin/nologin"}  # the shell of a user who never logs in
    assert written
    for place in written:
        assert any(place.startswith(str(Path(name).parent)) or name.startswith(place) for name in named), (
            f"{place} is not among {named}"
        )


def test_wheels_are_installed_without_the_network(machine, tmp_path):
    (tmp_path / "wheels").mkdir()
    done, _ = machine("install", "--dry-run", "--wheels", tmp_path / "wheels")
    assert done.returncode == 1
    assert "holds no okko-*.whl" in done.stderr
    (tmp_path / "wheels" / "okko-1-py3-none-any.whl").write_text("")
    done, _ = machine("install", "--dry-run", "--wheels", tmp_path / "wheels")
    assert f"--no-index --find-links {tmp_path / 'wheels'} okko[edge]" in done.stdout


def test_only_root_may_install_and_wrong_flags_are_bad_usage(machine):
    done, told = machine("install", user="1000")
    assert (done.returncode, told) == (1, set())
    assert "sudo" in done.stderr
    assert machine("install", "--force")[0].returncode == 2
    assert machine("uninstall", "--force")[0].returncode == 2
    assert machine("uninstall", user="1000")[0].returncode == 1


def test_what_a_device_needs_for_updates_is_installed_with_it(machine):
    done, told = machine("install", "--dry-run", "--with", "registry,cloud", user="1000")
    assert (done.returncode, told) == (0, set())
    assert "[edge,registry,cloud]" in done.stdout


def test_uninstalling_keeps_the_journal_unless_told_otherwise(machine):
    kept = machine("uninstall", "--dry-run")[0].stdout
    assert "rm -rf /opt/okko" in kept
    assert "rm -rf /etc/okko /var/lib/okko" not in kept
    assert "kept" in kept
    assert "rm -rf /etc/okko /var/lib/okko" in machine("uninstall", "--dry-run", "--purge")[0].stdout
