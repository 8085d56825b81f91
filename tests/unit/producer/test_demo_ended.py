"""A demo that is told to end says so, whatever the interruption became on its way out."""

from __future__ import annotations

import os
import signal

import pytest

from producer.demo import _ended_by_sigterm


def interrupted_library() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except KeyboardInterrupt as interrupt:
        raise RuntimeError("the connection was lost") from interrupt


def test_an_interruption_that_a_library_made_an_error_of_is_still_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt), _ended_by_sigterm():
        interrupted_library()


def test_an_error_that_nobody_asked_for_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError), _ended_by_sigterm():
        raise RuntimeError("a real one")
