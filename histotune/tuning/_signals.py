"""SIGINT and SIGTERM as a wish that is looked at between two steps, not as an exception in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 5.0  # seconds in which a search ends by itself; a signal after that is raised


class Signals:
    """Signals that came since `caught` began."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._first = 0.0

    def install(self) -> None:
        """Catch from now on, also after a library put its own handlers; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in CAUGHT:
                signal.signal(number, self._receive)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch signals for a while; afterwards they go where they went before."""
        before = {number: signal.getsignal(number) for number in CAUGHT}
        self.install()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and time.monotonic() - self._first > PATIENCE:
            raise KeyboardInterrupt
        self._first = self._first or time.monotonic()
        self.received.append(number)
