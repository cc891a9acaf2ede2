"""Threads that the system knows by Python's names, as Python 3.14 does it.

On PYTHONPATH of a server that is measured: /proc then tells which thread spent what. A thread that
a library starts has the name of the one that started it.
"""

import ctypes
import sys
import threading
from typing import Any

PR_SET_NAME = 15


def _name_threads() -> None:
    libc = ctypes.CDLL(None)
    thread: Any = threading.Thread
    bootstrap = thread._bootstrap_inner

    def named_bootstrap(self: threading.Thread) -> None:
        libc.prctl(PR_SET_NAME, self.name.encode()[:15], 0, 0, 0)
        bootstrap(self)

    thread._bootstrap_inner = named_bootstrap


if sys.version_info < (3, 14):
    _name_threads()
