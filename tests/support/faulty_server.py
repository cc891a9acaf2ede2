"""`rayotel` in a process whose disk and storage fail when told to: `faulty_server.py ARGUMENTS`.

A line of JSON on standard input is a failure that begins, `null` ends it, `true` changes nothing.
Each is answered by a line with the number of calls that have met the failure so far. The calls are
found by looking: the public functions of `rayotel.durable`, the functions of `os` that those use,
and the methods of a storage in a directory. rayotel itself knows nothing of it.
"""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rayotel import durable
from rayotel.lake.storage.interface import Storage

CONTENT = "content"
NOT_CALLS = {"access", "close"}  # of a storage


@dataclass(frozen=True, slots=True)
class Failure:
    """What goes wrong: each of `calls`, `times` times or, if 0, until another fault begins.

    `error`: the name of an errno. `has_effect`: the call does its work, or half of it where it
    writes bytes, and fails nevertheless.
    """

    calls: tuple[str, ...]
    error: str
    times: int = 0
    has_effect: bool = False


class Injector:
    """Lets calls fail. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._met: Counter[str] = Counter()

    def play(self, failure: Failure | None) -> int:
        """From now on this fails, and nothing else; how many calls met what failed before."""
        with self._lock:
            met = self._met.total()
            self._failure = failure
            self._met.clear()
            return met

    @property
    def met(self) -> int:
        """How many calls have met what fails now."""
        return self._met.total()

    def _meets(self, call: str) -> Failure | None:
        with self._lock:
            failure = self._failure
            if failure is None or call not in failure.calls:
                return None
            if failure.times and self._met[call] >= failure.times:
                return None
            self._met[call] += 1
            return failure

    def wrapped(self, function: Callable[..., Any], call: str) -> Callable[..., Any]:
        """The function, which fails when its call meets the failure."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            failure = self._meets(call)
            if failure is None:
                return function(*args, **kwargs)
            if failure.has_effect:
                _do_some(function, args, kwargs)
            number = getattr(errno, failure.error)
            raise OSError(number, f"{os.strerror(number)} (played by a test)")

        return wrapper


def _do_some(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call a function; with half of its bytes where it appends or writes some to a descriptor."""
    if function is os.write:
        os.write(args[0], args[1][: len(args[1]) // 2])
        return
    if function.__module__ == durable.__name__:
        bound = inspect.signature(function).bind(*args, **kwargs)
        if CONTENT in bound.arguments and function.__name__ in ("append", "write_all"):
            content = bound.arguments[CONTENT]
            bound.arguments[CONTENT] = content[: len(content) // 2]
        args, kwargs = bound.args, bound.kwargs
    function(*args, **kwargs)


def durable_functions() -> list[str]:
    """The public functions of `durable`."""
    return sorted(
        name
        for name, function in inspect.getmembers(durable, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == durable.__name__
    )


def system_calls() -> list[str]:
    """The functions of `os` that `durable` calls and that can fail."""
    used = set(re.findall(r"\bos\.([a-z]+)\(", inspect.getsource(durable)))
    return sorted(used - {"close", "lseek"})


def storage_methods() -> list[str]:
    """The methods of a storage that do something."""
    return sorted(
        name
        for name, member in inspect.getmembers(Storage, inspect.isfunction)
        if not name.startswith("_") and name not in NOT_CALLS
    )


class _System(ModuleType):
    """`os` for `durable` alone: some of its functions are others."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def arm(injector: Injector) -> None:
    """Put the injector around all calls, before a module takes one of `durable` by its name."""
    system = _System("os")
    for name in system_calls():
        setattr(system, name, injector.wrapped(getattr(os, name), f"os.{name}"))
    for name in durable_functions():
        setattr(durable, name, injector.wrapped(getattr(durable, name), f"durable.{name}"))
    vars(durable)["os"] = system
    from rayotel.lake.storage import directory

    def as_storage(function: Callable[..., Any]) -> Callable[..., Any]:
        """No other error leaves a storage than its own."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with directory._translated(f"do '{function.__name__}'"):
                return function(*args, **kwargs)

        return wrapper

    for name in storage_methods():
        method = getattr(directory.DirectoryStorage, name)
        wrapped = as_storage(injector.wrapped(method, f"storage.{name}"))
        setattr(directory.DirectoryStorage, name, wrapped)


def obey(injector: Injector) -> None:
    """Play what standard input says, until it ends."""
    waiting = b""
    # no buffers: Python could not end while a thread holds the lock of one
    while piece := os.read(0, 65536):
        waiting += piece
        *lines, waiting = waiting.split(b"\n")
        for line in lines:
            told = json.loads(line)
            if told is not True:
                failure = Failure(**{**told, "calls": tuple(told["calls"])}) if told else None
            met = injector.met if told is True else injector.play(failure)
            os.write(1, b"%d\n" % met)


if __name__ == "__main__":
    everything = Injector()
    arm(everything)
    threading.Thread(target=obey, args=[everything], name="faults", daemon=True).start()
    from rayotel.cli.main import main

    sys.argv = ["rayotel", *sys.argv[1:]]
    main()
