"""A worker that lets users sleep while nobody talks to the memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from nestmem.agent.controller import Memory
from nestmem.agent.sleep import SleepReport, described
from nestmem.errors import InputError, SleepBusy
from nestmem.store.records import Scope


class IdleSleeper:
    """A thread that calls `memory.sleep` for each user with something new, once the memory was left alone for
    `after_seconds`. A turn that comes meanwhile is answered as ever; the next user's sleep then waits again.

    `reports`: the last report of each user. `errors`: the last failure of each; `Memory.status` shows it too. A failed
    sleep is tried again after the next quiet time, whatever it failed of. `error`: the last failure that was no one
    user's. Use it as a context manager, or `start` and `stop` it.
    """

    def __init__(self, memory: Memory, *, after_seconds: float, check_seconds: float = 1.0) -> None:
        if not after_seconds > 0 or not check_seconds > 0:
            raise InputError(
                f"after_seconds is {after_seconds} and check_seconds {check_seconds}; expected more than 0 seconds"
            )
        self.memory = memory
        self.after_seconds = after_seconds
        self.check_seconds = min(check_seconds, after_seconds)
        self.reports: dict[Scope, SleepReport] = {}
        self.errors: dict[Scope, str] = {}
        self.error: str | None = None
        self._slept_at = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> IdleSleeper:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the thread. InputError when it runs already."""
        if self._thread is not None:
            raise InputError("this idle sleeper runs already; stop() it first")
        self._stopping.clear()
        self._thread = threading.Thread(target=self._work, name="nestmem-sleep", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> None:
        """Lets the thread end, after the sleep that is under way; to be called before the ledger is closed."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            self._thread = None

    def quiet(self) -> bool:
        """Whether the memory was left alone for long enough, and was used since the last time that this slept."""
        touched = self.memory.touched
        return touched > self._slept_at and time.monotonic() - touched >= self.after_seconds

    def sleep_all(self) -> None:
        """Sleeps for every user with something new, until the memory is used again."""
        began = time.monotonic()
        for owner in self.memory.ledger.scopes():
            if self._stopping.is_set() or self.memory.touched > began:
                return
            failure = failure_of(self._sleep, owner)
            if failure is not None:
                self.errors[owner] = self.memory.sleeper.failed(owner, failure)
        self._slept_at = began

    def _sleep(self, owner: Scope) -> None:
        with suppress(SleepBusy):
            if self.memory.sleeper.due(owner):
                self.reports[owner] = self.memory.sleep(owner)
                self.errors.pop(owner, None)

    def _work(self) -> None:
        while not self._stopping.wait(self.check_seconds):
            if self.quiet():
                failure = failure_of(self.sleep_all)
                self.error = described(failure) if failure is not None else None


def failure_of(work: Callable[..., None], *arguments: object) -> BaseException | None:
    """Does the work in a thread of its own and returns what it raised, None when all went well.

    Nobody waits for an idle worker: what a model raises there (out of memory, a broken kernel) must neither be lost
    nor keep the other users from sleeping.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="nestmem-sleep") as pool:
        return pool.submit(work, *arguments).exception()
