"""A process that is killed, crashes, hangs or runs out of memory is an error, and no more."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from export.tensorrt import isolation
from export.tensorrt.isolation import DiedError, StalledError, isolated
from s2d_trt.errors import OptionError


def fill(size: int) -> int:
    return (b"x" * size).count(b"x")


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)


def refuse() -> None:
    raise OptionError("not like this; like that")


def hang() -> None:
    threading.Event().wait()


def test_the_answer_comes_back_with_the_memory_that_it_took():
    small, large = (isolated(fill, size << 20) for size in (1, 200))
    assert large[0] == 200 << 20
    assert large[1] - small[1] > 190 << 20


def test_a_users_mistake_comes_back_as_itself():
    with pytest.raises(OptionError, match="not like this; like that"):
        isolated(refuse)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_killed_is_an_error_that_names_the_signal(number):
    with pytest.raises(DiedError, match=signal.Signals(number).name) as caught:
        isolated(end_by, int(number))
    assert caught.value.signal_number == number


def test_a_process_that_leaves_by_itself_is_an_error_too():
    with pytest.raises(DiedError, match="exit code 3"):
        isolated(os._exit, 3)


def test_a_process_that_waits_for_ever_is_ended(monkeypatch):
    monkeypatch.setattr(isolation, "STALLED_SECONDS", 0.5)
    with pytest.raises(StalledError, match="no CPU time"):
        isolated(hang)
