"""Leases: one holder at a time, expiry without comparing clocks, a holder that lost its lease writes nothing more."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from standins import call, make_spec, write_record

from harness import launch, lease, plan, record
from harness.errors import UserError

TARGET = "standins:stand_in_cell"
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setenv("VDD_LEASE_TTL", "0.8")


def elsewhere(held):
    """Make a lease look as if another machine held it: its process cannot be looked up from here."""
    held.said |= {"machine": "another boot", "host": "elsewhere", "pid": 1}
    os.pwrite(held.handle, lease.encoded(held.said), 0)
    return held


def wait_until_free(watch, seconds=10):
    ends = time.monotonic() + seconds
    while not watch.free():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_one_holder_at_a_time_and_a_successor_after_release(tmp_path):
    first = lease.Watch(tmp_path / "cell").take()
    assert first is not None and lease.Watch(tmp_path / "cell").take() is None
    first.release()
    second = lease.Watch(tmp_path / "cell").take()
    assert second.generation == 2 and not second.after_death
    assert [p.name for p in (tmp_path / "cell").iterdir()] == ["lease-000002"]  # older generations are gone
    second.release()


def test_a_lease_that_is_kept_alive_never_expires_and_one_that_is_not_does(tmp_path):
    held = elsewhere(lease.Watch(tmp_path).take())
    held.start()
    watch, ends = lease.Watch(tmp_path), time.monotonic() + 2.5  # three times the TTL
    while time.monotonic() < ends:
        assert watch.take() is None
        time.sleep(0.1)
    held.stopped.set()  # a machine that has gone
    began = time.monotonic()
    wait_until_free(watch)
    assert time.monotonic() - began > 0.5
    taken = watch.take()
    assert taken.generation == 2 and taken.after_death
    with pytest.raises(lease.LeaseLost):
        held.check()
    taken.check()
    taken.release()


@pytest.mark.parametrize("skew", [-86_400, 86_400])
def test_clocks_of_different_machines_are_not_compared(tmp_path, skew):
    held = elsewhere(lease.Watch(tmp_path).take())
    os.utime(held.path, (time.time() + skew,) * 2)  # a server whose clock is a day off
    watch = lease.Watch(tmp_path)
    assert not watch.free()
    time.sleep(0.3)
    assert not watch.free()
    wait_until_free(watch)
    held.release()


def test_an_observer_that_was_itself_asleep_begins_again(tmp_path):
    elsewhere(lease.Watch(tmp_path).take())
    watch = lease.Watch(tmp_path)
    assert not watch.free()
    time.sleep(1.0)  # longer than the TTL without a look
    assert not watch.free()


def test_a_dead_process_of_this_machine_is_noticed_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("VDD_LEASE_TTL", "3600")
    code = f"""
import os, signal
from harness import lease
assert lease.Watch(__import__("pathlib").Path({str(tmp_path)!r})).take()
os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    taken = lease.Watch(tmp_path).take()
    assert taken.generation == 2 and taken.after_death
    taken.release()


def test_a_process_id_that_was_given_to_another_process_is_no_sign_of_life(tmp_path):
    held = lease.Watch(tmp_path).take()
    os.pwrite(held.handle, lease.encoded(held.said | {"start": "1"}), 0)  # this process id, another process
    assert lease.Watch(tmp_path).free()


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 512, b"[]", b'{"token": 1}'])
def test_a_torn_lease_expires_like_any_other(tmp_path, damage, monkeypatch):
    monkeypatch.setattr(lease, "DEFAULT_TTL", 0.5)
    lease.path_of(tmp_path, 1).write_bytes(damage)
    watch = lease.Watch(tmp_path)
    assert not watch.free()
    wait_until_free(watch)
    watch.take().release()


def test_the_observer_withdraws_when_the_holder_beats_after_all(tmp_path, monkeypatch):
    held = elsewhere(lease.Watch(tmp_path).take())
    watch = lease.Watch(tmp_path)
    wait_until_free_without_taking = watch.free
    wait_until_free(watch)
    assert wait_until_free_without_taking()
    created = lease.create

    def create(path, said):
        handle = created(path, said)
        held.beat()  # between the creation and the second look
        return handle

    monkeypatch.setattr(lease, "create", create)
    assert watch.take() is None
    assert not lease.path_of(tmp_path, 2).exists()
    held.check()
    held.release()


def test_a_late_claim_below_a_newer_generation_withdraws(tmp_path, monkeypatch):
    first = lease.Watch(tmp_path).take()
    first.release()
    created = lease.create

    def create(path, said):  # meanwhile others claimed and gave back twice
        monkeypatch.setattr(lease, "create", created)
        for _ in range(2):
            lease.Watch(tmp_path).take().release()
        return created(path, said)

    monkeypatch.setattr(lease, "create", create)
    assert lease.Watch(tmp_path).take() is None
    assert [p.name for p in tmp_path.iterdir()] == ["lease-000003"]


def test_without_hard_links_the_claim_is_an_exclusive_creation(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    held = lease.Watch(tmp_path).take()
    assert held is not None and lease.Watch(tmp_path).take() is None
    held.release()


def contend(folder, results, count):
    for i in range(count):
        while (held := lease.Watch(Path(folder) / str(i)).take()) is None:
            time.sleep(0.001)
        with lease.held(held):
            trace = Path(folder) / f"{i}.trace"
            before = trace.read_text() if trace.exists() else ""
            time.sleep(0.002)
            lease.guard()
            trace.write_text(before + f"{os.getpid()}\n")  # an update is lost where two hold it
        results.put((i, os.getpid()))


def test_eight_processes_on_the_same_leases_lose_no_update(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=contend, args=(str(tmp_path), results, 12)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    for i in range(12):
        assert len(set((tmp_path / f"{i}.trace").read_text().split())) == 8


def test_nothing_is_written_under_a_lost_lease(tmp_path):
    held = elsewhere(lease.Watch(tmp_path / "w").take())
    with lease.held(held):
        held.stopped.set()
        watch = lease.Watch(tmp_path / "w")
        wait_until_free(watch)
        taken = watch.take()
        with pytest.raises(lease.LeaseLost):
            record.write_atomic(tmp_path / "file", "late")
        assert not (tmp_path / "file").exists() and not list(tmp_path.glob("*.part"))
    taken.check()
    taken.release()
    record.write_atomic(tmp_path / "file", "no lease, no guard")


@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "1e9"])
def test_a_bad_setting_is_refused(value, monkeypatch):
    monkeypatch.setenv("VDD_LEASE_TTL", value)
    with pytest.raises(UserError, match="VDD_LEASE_TTL"):
        lease.ttl_setting()
    assert call("--tasks", "toy", "--methods", "beso", "--dry-run") == 2


# the launcher


def run(out, specs, workers, needs=None):
    events = []
    return launch.launch(specs, needs or {}, workers, lambda *event: events.append(event), TARGET), events


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cell_of_another_run_is_waited_for_while_the_others_go_on(tmp_path, workers):
    keys = [f"avoiding/cd/{i}" for i in range(3)]
    held = elsewhere(lease.Watch(record.work_path(tmp_path, keys[0])).take())
    held.start()

    def finish():
        while not all(record.record_path(tmp_path, key).exists() for key in keys[1:]):
            time.sleep(0.05)
        write_record(tmp_path, *keys[0].split("/")[:2], 0)
        held.release()

    other = threading.Thread(target=finish)
    other.start()
    results, events = run(tmp_path, [make_spec(tmp_path, key) for key in keys], workers)
    other.join()
    assert results == dict.fromkeys(keys, "")
    assert ("wait", keys[0], "elsewhere, process 1") in events and ("done", keys[0], "by another run") in events
    assert keys[0] not in (tmp_path / "trace.txt").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cell_whose_holder_died_elsewhere_is_taken_over(tmp_path, workers):
    elsewhere(lease.Watch(record.work_path(tmp_path, "avoiding/cd/0")).take())
    results, _ = run(tmp_path, [make_spec(tmp_path, "avoiding/cd/0")], workers)
    assert results == {"avoiding/cd/0": ""}


def test_a_failure_in_the_other_run_is_this_runs_failure_too(tmp_path):
    key = "avoiding/cd/0"
    held = elsewhere(lease.Watch(record.work_path(tmp_path, key)).take())
    held.start()

    def fail():
        time.sleep(0.5)
        launch.write_failure(make_spec(tmp_path, key), "FloatingPointError", "loss")
        held.release()

    other = threading.Thread(target=fail)
    other.start()
    results, _ = run(tmp_path, [make_spec(tmp_path, key)], 1)
    other.join()
    assert results == {key: "FloatingPointError: loss (in another run)"}
    assert not (tmp_path / "trace.txt").exists()


def test_a_done_record_is_never_replaced_by_a_blocked_or_dead_one(tmp_path):
    write_record(tmp_path, "avoiding", "vdd_ve", 0)
    assert launch.give_up(make_spec(tmp_path, "avoiding/vdd_ve/0"), "Blocked", "needs x") == ""
    assert record.state(tmp_path, "avoiding/vdd_ve/0", "h").name == "done"


def test_another_configurations_record_that_appeared_meanwhile_is_left_alone(tmp_path):
    path = write_record(tmp_path, "avoiding", "cd", 0, config_hash="other")
    before = path.read_bytes()
    for workers in (0, 1):
        results, _ = run(tmp_path, [make_spec(tmp_path, "avoiding/cd/0")], workers)
        assert results["avoiding/cd/0"] and path.read_bytes() == before


def test_a_runner_that_was_stopped_for_long_gives_its_cell_up(tmp_path):
    """SIGSTOP in the middle of a cell; another runner takes it; the first goes on, notices, and writes nothing."""
    script = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent), str(ROOT)]!r}
from standins import make_spec
from harness.launch import run_logged
print("why:", run_logged({TARGET!r}, make_spec({str(tmp_path)!r}, "avoiding/cd/0", sleep=1.0)))
"""
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "trace.txt").exists():
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGSTOP)
        path = lease.path_of(record.work_path(tmp_path, "avoiding/cd/0"), 1)
        said = json.loads(path.read_bytes())  # as seen from another machine
        path.write_bytes(lease.encoded(said | {"machine": "another"}))
        results, _ = run(tmp_path, [make_spec(tmp_path, "avoiding/cd/0")], 1)
        assert results == {"avoiding/cd/0": ""}
        written = record.record_path(tmp_path, "avoiding/cd/0").stat().st_mtime_ns
        os.kill(first.pid, signal.SIGCONT)
        out, _ = first.communicate(timeout=30)
    finally:
        first.kill()
    assert out == "why: \n"  # the cell is done, by the other
    assert record.record_path(tmp_path, "avoiding/cd/0").stat().st_mtime_ns == written
    log = (record.work_path(tmp_path, "avoiding/cd/0") / "log.txt").read_text()
    assert "stopped: another runner has taken over" in log


# plans and tables


def test_a_record_that_another_run_repaired_is_not_set_aside(tmp_path):
    cell = plan.Cell("avoiding", "cd", 0, "scratch", {}, plan.Data("s", "i"), None, "h")
    path = write_record(tmp_path, "avoiding", "cd", 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    made = plan.Plan(tuple(plan.with_states([cell], tmp_path)), "smoke", tmp_path)
    assert made.cells[0].state.name == "corrupt"
    path.write_bytes(whole)  # by another run, meanwhile
    assert plan.settle(made, False) == [] and path.read_bytes() == whole
    path.write_bytes(whole[:50])
    held = lease.Watch(record.work_path(tmp_path, cell.key)).take()
    assert "another run is at it" in plan.settle(made, False)[0]
    held.release()
    assert "set aside as 0.json.corrupt-1" in plan.settle(made, False)[0]


def set_aside_many(folder, count):
    for i in range(count):
        try:
            record.set_aside(Path(folder) / "0.json", "corrupt")
        except FileNotFoundError:
            (Path(folder) / "0.json").write_text(f"{os.getpid()} {i}")


def test_files_set_aside_at_once_replace_none(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=set_aside_many, args=(str(tmp_path), 60)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    numbers = sorted(int(p.name.rpartition("-")[2]) for p in tmp_path.glob("0.json.corrupt-*"))
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 20
