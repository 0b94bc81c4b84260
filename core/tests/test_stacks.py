"""Where threads are."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Generator

import pytest

from postbus.stacks import as_text, current_frames, stack_within


@pytest.fixture
def collecting_often() -> Generator[list[str]]:
    """Collect garbage at nearly every object that is made; note the functions in which that happens."""
    seen: list[str] = []
    before = gc.get_threshold()

    def note(phase: str, info: object) -> None:
        seen.append(sys._getframe(1).f_code.co_name)

    gc.callbacks.append(note)
    gc.set_threshold(1, 1, 1)
    try:
        yield seen
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(note)


def test_no_garbage_is_collected_while_frames_are_made(collecting_often: list[str]) -> None:
    """CPython 3.11.7 has a lock meanwhile that what is thrown away may wait for, so that the process would hang."""
    threads = [threading.Thread(target=threading.Event().wait, args=(0.5,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    del collecting_often[:]

    frames = current_frames()

    assert "current_frames" not in collecting_often
    assert {thread.ident for thread in threads} <= frames.keys()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("is_enabled", [True, False])
def test_who_does_without_the_collector_still_does(is_enabled: bool) -> None:
    """It is afterwards as it was before."""
    was_enabled = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        current_frames()
        assert is_enabled == gc.isenabled()
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_stack_is_what_a_function_has_called() -> None:
    """The innermost comes last; there is nothing for a thread that is elsewhere."""

    def inner() -> list[str]:
        stack = stack_within(outer.__code__, threading.get_ident())
        return [frame.f_code.co_name for frame in stack]

    def outer() -> list[str]:
        return inner()

    assert ["inner", "stack_within"] == outer()[:2]
    assert [] == stack_within(outer.__code__, threading.get_ident())
    assert "in test_a_stack_is_what_a_function_has_called" in as_text([sys._getframe()])
