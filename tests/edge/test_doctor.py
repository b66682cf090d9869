"""The doctor: what it says of healthy and sick machines, and of models that crash."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import replace

import msgspec
import pytest
from click.testing import CliRunner

from okko_edge.board import Board, Throttled
from okko_edge.commands.doctor import doctor
from okko_edge.config.reading import read
from okko_edge.doctor import hardware, machine, model, probe, software
from okko_edge.doctor.findings import State, conclusion
from okko_edge.doctor.probe import Failed, Measured
from okko_edge.settings import GateSettings, JournalSettings, OutboxSettings, Settings, SortingSettings
from tests.edge.fakes import make_bundle

NOVEMBER_2026 = 1795000000.0
PI = Board(
    model="Raspberry Pi 5 Model B Rev 1.0",
    system="Debian GNU/Linux 13 (trixie)",
    codename="trixie",
    kernel="6.12",
    machine="aarch64",
    bits=64,
    processors=4,
    memory_mb=4000,
    available_mb=3000,
    python="3.13.5",
    raspberry_pi=True,
)
MEASURED = Measured(
    bundle="marbles 1",
    precision="int8",
    model_mb=4.0,
    onnxruntime="1.31.1",
    threads=1,
    golden_frames=4,
    golden_difference=1e-7,
    start_s=1.2,
    runs=100,
    p50_ms=30.0,
    p95_ms=31.0,
    p99_ms=32.0,
    frames_per_s=33.0,
    rss_mb=90.0,
)


def healthy(root, throttled="0"):
    files = {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "45000",
        "sys/devices/platform/soc/soc:firmware/get_throttled": throttled,
        "run/systemd/timesync/synchronized": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def by_name(lines):
    return {line.name: line for line in lines}


def looked(root, board=PI, unix_s=NOVEMBER_2026):
    return by_name(machine.look(root, board=board, unix_s=unix_s))


def test_of_a_healthy_pi_every_line_is_ok_and_none_gives_advice(tmp_path):
    lines = looked(healthy(tmp_path))
    assert {line.state for line in lines.values()} == {State.OK}
    assert not any(line.advice for line in lines.values())
    assert set(lines) == {"board", "64-bit", "system", "python", "memory", "temperature", "power", "speed", "clock"}


@pytest.mark.parametrize(
    ("changes", "name", "state", "said"),
    [
        ({"bits": 32}, "64-bit", State.FAIL, "Raspberry Pi OS (64-bit)"),
        ({"codename": "bullseye"}, "system", State.WARN, "bookworm and trixie"),
        ({"python": "3.9.2"}, "python", State.FAIL, "3.11 to 3.13"),
        ({"python": "3.14.0"}, "python", State.FAIL, "3.11 to 3.13"),
        ({"available_mb": 100}, "memory", State.FAIL, "150 MB"),
        ({"available_mb": 200}, "memory", State.WARN, "desktop"),
        ({"available_mb": None}, "memory", State.WARN, "free -m"),
    ],
)
def test_what_is_wrong_with_the_system_is_said_with_what_to_do(tmp_path, changes, name, state, said):
    line = looked(healthy(tmp_path), board=replace(PI, **changes))[name]
    assert line.state is state
    assert said in line.advice


@pytest.mark.parametrize(("celsius", "state"), [(69, State.OK), (70, State.WARN), (80, State.FAIL)])
def test_heat_is_judged_by_where_a_pi_slows_down(tmp_path, celsius, state):
    (healthy(tmp_path) / "sys/class/thermal/thermal_zone0/temp").write_text(str(celsius * 1000))
    assert looked(tmp_path)["temperature"].state is state


@pytest.mark.parametrize(
    ("bits", "power", "speed"),
    [
        (Throttled(0), State.OK, State.OK),
        (Throttled.UNDER_VOLTAGE | Throttled.UNDER_VOLTAGE_SINCE_START, State.FAIL, State.OK),
        (Throttled.UNDER_VOLTAGE_SINCE_START, State.WARN, State.OK),
        (Throttled.THROTTLED, State.OK, State.FAIL),
        (Throttled.FREQUENCY_CAPPED_SINCE_START, State.OK, State.WARN),
        (Throttled.SOFT_TEMPERATURE_LIMIT, State.OK, State.FAIL),
    ],
)
def test_what_happens_now_fails_and_what_happened_before_warns(tmp_path, bits, power, speed):
    lines = looked(healthy(tmp_path, f"{bits:x}"))
    assert (lines["power"].state, lines["speed"].state) == (power, speed)


def test_a_pi_whose_firmware_is_silent_is_told_so_and_another_machine_is_not(tmp_path):
    assert looked(tmp_path)["power"].state is State.WARN
    assert "power" not in looked(tmp_path, board=replace(PI, raspberry_pi=False))


@pytest.mark.parametrize("unix_s", [0.0, 4102444800.0])
def test_a_clock_in_1970_or_2100_is_noticed(tmp_path, unix_s):
    line = looked(healthy(tmp_path), unix_s=unix_s)["clock"]
    assert line.state is State.WARN
    assert "cannot be" in line.said
    assert "timedatectl" in line.advice


def test_a_clock_without_network_is_a_warning_that_names_a_clock_module_unless_there_is_one(tmp_path):
    (healthy(tmp_path) / "run/systemd/timesync/synchronized").unlink()
    line = looked(tmp_path)["clock"]
    assert line.state is State.WARN
    assert "clock module" in line.advice
    (tmp_path / "sys/class/rtc/rtc0").mkdir(parents=True)
    assert "clock module" not in looked(tmp_path)["clock"].advice


def test_missing_packages_and_versions_known_to_crash_are_named():
    versions = {"numpy": "2.3", "onnxruntime": "1.21.0", "pillow": "12", "msgspec": "0.20"}
    lines = list(software.packages(versions.get))
    assert [line.state for line in lines] == [State.FAIL, State.FAIL]
    assert "click" in lines[0].said
    assert "illegal instruction" in lines[1].said
    assert "onnxruntime!=1.21.0" in lines[1].advice


def test_the_packages_of_this_machine_are_fine():
    (line,) = software.packages()
    assert line.state is State.OK
    assert "onnxruntime 1." in line.said


def test_a_place_that_cannot_be_written_fails_and_nothing_is_left_behind(tmp_path):
    settings = Settings(journal=JournalSettings(path=str(tmp_path / "new" / "journal.sqlite"), max_mb=1))
    (line,) = software.places(settings, state=tmp_path)
    assert line.state is State.OK
    assert list(tmp_path.iterdir()) == []
    (line,) = software.places(Settings(), state=healthy(tmp_path) / "proc")
    assert line.state is State.OK
    nowhere = Settings(journal=JournalSettings(path="/proc/okko/journal.sqlite"))
    (line,) = software.places(nowhere, state=tmp_path)
    assert line.state is State.FAIL
    assert "nothing remembered" in line.said


def test_a_disk_too_small_for_what_may_be_kept_is_a_warning(tmp_path):
    settings = Settings(
        journal=JournalSettings(max_mb=1), outbox=OutboxSettings(enabled=True, folder=str(tmp_path), max_mb=1e9)
    )
    lines = by_name(software.places(settings, state=tmp_path))
    assert lines["journal"].state is State.OK
    assert lines["outbox"].state is State.WARN
    assert "lower its limit" in lines["outbox"].advice


def test_a_configuration_is_judged_with_lines_and_keys(tmp_path):
    (tmp_path / "okko.toml").write_text('[dashboard]\nlisten = "0.0.0.0:80"\n[outbox]\nbucket = "s3://b"\n')
    lines = list(software.configuration(read(tmp_path / "okko.toml")))
    assert [line.state for line in lines] == [State.FAIL, State.WARN]
    assert "line 2: dashboard.listen" in lines[0].said
    (line,) = software.configuration(read(None))
    assert line.state is State.OK


def test_a_bundle_is_measured_in_a_process_of_its_own(bundle):
    measured = probe.run(bundle.path, threads=1, seconds=0.05)
    assert isinstance(measured, Measured)
    assert (measured.bundle, measured.precision, measured.threads) == ("brightness 1", "float32", 1)
    assert measured.golden_frames == 1
    assert measured.golden_difference < 1e-4
    assert 0 < measured.p50_ms <= measured.p95_ms <= measured.p99_ms
    assert measured.start_s > 0
    assert measured.rss_mb > 20


def test_a_bundle_that_computes_something_else_here_fails_without_a_crash(tmp_path):
    wrong = make_bundle(tmp_path / "wrong.okko", golden=0.5)
    failed = probe.run(wrong.path, threads=1, seconds=0.05)
    assert failed == Failed(failed.reason, crashed=False)
    assert "golden frames differ" in failed.reason
    assert "does not exist" in probe.run(tmp_path / "none", threads=1, seconds=0.05).reason


@pytest.fixture
def interpreter(tmp_path):
    """Returns a function that makes a stand-in for python that does what a shell script says."""

    def make(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("""echo '{"stage": "import"}'; kill -ILL $$""", "died of SIGILL while onnxruntime was being imported"),
        ("""echo '{"stage": "load"}'; kill -SEGV $$""", "died of SIGSEGV while the model was being loaded"),
        ("kill -KILL $$", "died of SIGKILL before it began"),
        ("""echo '{"stage": "golden"}'; echo cpuinfo; echo boom >&2; exit 3""", "ended with 3 while the golden frames"),
        ("exec sleep 5", "no result within"),
    ],
)
def test_a_crash_is_reported_with_how_far_it_came(interpreter, tmp_path, script, reason):
    failed = probe.run(tmp_path, threads=1, seconds=0.1, python=interpreter(script), patience_s=0.5)
    assert failed.crashed
    assert reason in failed.reason


def test_a_real_illegal_instruction_in_the_process_is_survived(bundle, interpreter):
    program = "import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7); m.write(b'\\x0f\\x0b\\0\\0' * 9)"
    call = "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"
    failed = probe.run(
        bundle.path, threads=1, seconds=0.1, python=interpreter(f'exec {sys.executable} -c "{program}; {call}"')
    )
    assert "died of SIG" in failed.reason


def fake(results):
    def run(bundle, *, threads, seconds):
        result = results[bundle.name][threads]
        return replace(MEASURED, threads=threads, p50_ms=result) if isinstance(result, float) else result

    return run


def test_an_illegal_instruction_is_explained_and_its_cure_named(tmp_path):
    died = Failed("the process died of SIGILL while onnxruntime was being imported", crashed=True)
    (line,) = model.look([tmp_path / "a"], Settings(), processors=4, run=fake({"a": {1: died}}))
    assert line.state is State.FAIL
    assert "compiled for another processor" in line.advice
    assert "onnxruntime!=1.21.0" in line.advice


def test_several_bundles_are_compared_and_threads_recommended(tmp_path):
    results = {"float": {1: 60.0, 2: 35.0, 3: 26.0, 4: 22.0}, "int8": {1: 20.0}}
    lines = by_name(model.look([tmp_path / "float", tmp_path / "int8"], Settings(), processors=4, run=fake(results)))
    assert "int8 is 3.0 times as fast here" in lines["models"].said
    assert lines["threads"].state is State.WARN
    assert lines["threads"].advice == "set sorting.threads = 3"
    settings = Settings(sorting=SortingSettings(threads=3))
    lines = by_name(model.look([tmp_path / "float"], settings, processors=4, run=fake(results)))
    assert lines["threads"].state is State.OK


@pytest.mark.parametrize(
    ("times", "processors", "threads"),
    [
        ({1: 10.0}, 1, 1),
        ({1: 10.0, 2: 5.0}, 2, 1),  # the second processor is left to the camera
        ({1: 10.0, 2: 9.9, 3: 9.8, 4: 9.7}, 4, 1),  # not worth it
        ({1: 10.0, 2: 9.5, 3: 6.0, 4: 5.0}, 4, 3),
        ({1: 10.0, 2: 6.0, 3: 5.8, 4: 5.0}, 4, 2),
    ],
)
def test_a_further_thread_must_be_worth_it_and_one_processor_stays_free(times, processors, threads):
    assert model.recommend(times, processors) == threads


def test_a_model_slower_than_the_deadline_fails(tmp_path):
    settings = Settings(sorting=SortingSettings(deadline_s=0.03))
    lines = by_name(model.look([tmp_path / "a"], settings, processors=1, run=fake({"a": {1: 31.0}})))
    assert lines["latency"].state is State.FAIL
    assert "sorting.deadline_s" in lines["latency"].advice


def test_a_gate_that_cannot_move_here_fails_and_one_that_never_moves_warns():
    settings = msgspec.structs.replace(Settings(), gate=GateSettings(kind="servo:18"))
    assert {line.state for line in hardware._gate(settings.gate)} == {State.FAIL}
    assert [line.state for line in hardware._gate(GateSettings(kind="none"))] == [State.WARN]


def invoke(*arguments, **environ):
    return CliRunner().invoke(doctor, [str(argument) for argument in arguments], env={"OKKO_CONFIG": "", **environ})


def test_the_command_says_a_line_a_thing_and_ends_with_1_if_one_fails(bundle, photos, tmp_path):
    (tmp_path / "okko.toml").write_text(
        f'bundle = "{bundle.path}"\n[camera]\nsource = "sim:{photos}"\n[journal]\npath = "{tmp_path}/j"\nmax_mb = 1\n'
    )
    ran = invoke("--config", tmp_path / "okko.toml")
    assert ran.exit_code == 0, ran.output
    assert "ok    camera        sim:" in ran.output
    assert "1 golden frames repeated" in ran.output
    assert "This device can sort" in ran.output
    (tmp_path / "okko.toml").write_text("[camera]\nwidht = 5")
    ran = invoke("--config", tmp_path / "okko.toml", "--json")
    told = json.loads(ran.output)
    assert (ran.exit_code, told["ok"]) == (1, False)
    (line,) = [line for line in told["lines"] if line["name"] == "config"]
    assert line["state"] == "fail"
    assert "did you mean camera.width?" in line["said"]


def test_every_line_that_is_not_ok_says_what_to_do(tmp_path):
    told = json.loads(invoke(tmp_path / "none.okko", "--json", HOME=os.fspath(tmp_path)).output)
    assert [line for line in told["lines"] if line["state"] != "ok" and not line["advice"]] == []


def test_the_conclusion_counts():
    line = next(machine.look(board=PI, unix_s=NOVEMBER_2026))
    assert "all fine" in conclusion([line])
    assert "1 of 2 things could be better" in conclusion([line, replace(line, state=State.WARN)])
    assert "1 of 2 things stand in the way" in conclusion([line, replace(line, state=State.FAIL)])
