"""Requests to stop: Ctrl-C, and what schedulers send (SIGTERM, SIGUSR1). Nothing is imported that takes time: it
listens before anything else loads.

An interruption is what a signal asked for, and nothing else: a KeyboardInterrupt that no signal announced is the doing
of whoever raised it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CTRL_C = 130  # 128 + SIGINT, as shells have it
TRY_AGAIN = 75  # EX_TEMPFAIL: the same command goes on; schedulers requeue on it
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class AtOnce(KeyboardInterrupt):
    """Raised by the handler itself, where there is nothing to bring to an end first, or at a second Ctrl-C."""


class Requests:
    """What signals have asked of this process.

    Attributes
    ----------
    number : the first signal that came; None before one did.
    patient : whether the first signal only asks, for work that looks at ``asked`` between its steps and saves what it
        reached. Otherwise it interrupts at once.
    goes_on : whether the command under way keeps what it reached, so that the same command goes on from there.
    ending : whether the exit code is decided, so that what comes now changes nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.patient = self.goes_on = self.ending = False
        self._pressed = 0
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        return self.number is not None

    @property
    def exit_code(self) -> int:
        return CTRL_C if self.number == signal.SIGINT else TRY_AGAIN

    @property
    def name(self) -> str:
        """ "SIGTERM"; "" before a signal came."""
        return "" if self.number is None else signal.Signals(self.number).name

    def install(self, *, courteous: bool) -> None:
        """Listen. ``courteous``: a handler that somebody has set for a scheduler's signal stays."""
        for number in _SIGNALS:
            held = signal.getsignal(number)
            if not courteous or number == signal.SIGINT or held == signal.SIG_DFL:
                self._before[number] = held
                signal.signal(number, self._hear)

    def end(self) -> None:
        """Stop listening for good, the exit code being decided: schedulers repeat their signals, and Python's own end
        takes its handlers away first."""
        self.ending = True
        for number in self._before.keys() - {signal.SIGINT}:
            signal.signal(number, signal.SIG_IGN)

    def close(self) -> None:
        """Stop listening."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _hear(self, number: int, frame: Any) -> None:
        """A scheduler may repeat itself, which changes nothing; a second Ctrl-C is somebody who will not wait."""
        again = self.number is not None
        self._pressed += number == signal.SIGINT
        if self._pressed > 2:  # whatever runs has swallowed two
            os._exit(CTRL_C)
        # also while the first is followed: what it interrupts may be writing its last lines
        if self.ending or (again and number != signal.SIGINT):
            return
        self.number = number
        if again or not self.patient:
            raise AtOnce


_listening: Requests | None = None


def listen() -> Requests:
    """Hear every signal from now on until the process ends."""
    global _listening
    _listening = Requests()
    _listening.install(courteous=False)
    return _listening


def keeps_what_it_reached() -> None:
    """Said by a command that goes on where it was stopped, when it is given again."""
    if _listening is not None:
        _listening.goes_on = True


@contextmanager
def between_steps() -> Iterator[Callable[[], bool]]:
    """Meanwhile a signal asks to stop at the next step, and a second Ctrl-C interrupts at once. Yields what says
    whether one came."""
    global _listening
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield _listening.asked if _listening is not None else lambda: False
        return
    requests, only_here = _listening, _listening is None
    if requests is None:
        requests = _listening = Requests()
        requests.install(courteous=True)
    requests.patient = True
    try:
        yield requests.asked
    finally:
        requests.patient = False
        if only_here:
            requests.close()
            _listening = None


def is_interruption(error: BaseException) -> bool:
    """Whether an error is a request to stop, or its consequence, rather than a failure of the code that raised it.

    True for whatever is raised once a signal asked to stop: it takes worker processes down, too. Where nobody listens
    to signals, a KeyboardInterrupt is taken for what it usually is.
    """
    return _listening.asked() if _listening is not None else isinstance(error, KeyboardInterrupt)
