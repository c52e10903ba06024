"""The watchdog barks once where a loop is stuck, and only there."""

import threading
import time

import pytest

from gptjax.train.config import TrainConfig
from gptjax.train.watchdog import Watchdog


def wait_for_the_lock(lock):
    """Stands in for a collective that never comes back."""
    lock.acquire()


def test_a_loop_that_is_stuck_is_described_once_and_goes_on(tmp_path, capfd):
    lock = threading.Lock()
    with Watchdog(0.1, tmp_path, 40) as watchdog:
        watchdog.step(41)
        with lock:
            other = threading.Thread(target=wait_for_the_lock, args=(lock,))
            other.start()
            time.sleep(0.5)
        other.join()
        watchdog.step(42)
    err = capfd.readouterr().err
    assert err.count("warning: process 0 has done no step for 0.1 s, since step 41;") == 1
    kept = (tmp_path / "stacks-0.txt").read_text()
    assert kept.splitlines()[0] == err.splitlines()[0]
    for text in (err, kept):
        assert "wait_for_the_lock" in text
        assert "test_a_loop_that_is_stuck" in text


def test_it_barks_again_at_another_step(tmp_path, capfd):
    with Watchdog(0.1, tmp_path, 0) as watchdog:
        for step in (1, 2):
            watchdog.step(step)
            time.sleep(0.3)
    err = capfd.readouterr().err
    assert "since step 1;" in err
    assert "since step 2;" in err


def test_steps_that_are_done_in_time_and_pauses_are_left_alone(tmp_path, capfd):
    """Neither the time before the first step counts, nor an evaluation or a checkpoint."""
    with Watchdog(0.3, tmp_path, 0) as watchdog:
        time.sleep(0.5)
        for step in range(8):
            with watchdog.paused():
                time.sleep(0.5 if step == 4 else 0)
            time.sleep(0.05)
            watchdog.step(step)
    assert capfd.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_without_a_time_there_is_no_thread(tmp_path, capfd):
    before = threading.active_count()
    with Watchdog(None, tmp_path, 0) as watchdog:
        watchdog.step(1)
        assert threading.active_count() == before


def test_a_step_costs_next_to_nothing(tmp_path):
    """A hundred thousandth of a second is much."""
    with Watchdog(600.0, tmp_path, 0) as watchdog:
        start = time.perf_counter()
        for step in range(10_000):
            with watchdog.paused():
                pass
            watchdog.step(step)
        assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds):
    assert TrainConfig(watchdog_seconds=seconds).validate() == [
        f"watchdog_seconds={seconds} is no time; choose seconds above 0, or None"
    ]
