"""Signals that come at a bad moment, sent by this very process to itself."""

from __future__ import annotations

import os
import signal

import pytest

from app.commands.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_must_not_be_cut_in_two_ends_first(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    steps = []
    with Interrupts() as interrupts:

        def work() -> None:
            for step in range(3):
                with interrupts.undisturbed():
                    if step == 1:
                        os.kill(os.getpid(), number)
                    steps.append(step)

        with pytest.raises(KeyboardInterrupt):
            work()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert steps == [0, 1]
    assert signal.getsignal(number) is before
