"""Keeps tests without the mark `system` from starting processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

STARTS = frozenset(
    {
        *("subprocess.Popen", "os.system", "os.exec", "os.spawn", "os.posix_spawn"),
        *("os.fork", "os.forkpty", "pty.spawn"),
    }
)
tried: list[str] = []
_forbidden = False


class ProcessStarted(AssertionError):
    """A test without the mark `system` started a process."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _forbidden and event in STARTS:
        tried.append(f"{event} {arguments[:2]}")
        raise ProcessStarted(f"{tried[-1]}: mark this test `system`")


sys.addaudithook(_audit)


@contextlib.contextmanager
def forbidden() -> Iterator[None]:
    """No process may be started; one that was, and was hushed up, is an error at the end."""
    global _forbidden
    tried.clear()
    _forbidden = True
    try:
        yield
    finally:
        _forbidden = False
    if tried:
        raise ProcessStarted(f"{tried[0]}: mark this test `system`")
