"""The `rayotel` command run in this process: the same words and exit codes, without its start."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from rayotel.cli.main import main
from support.harness import environment


def rayotel(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; tests/system compares this with a real process."""
    is_server = arguments[:1] == ("serve",) and "--help" not in arguments
    assert not is_server, "a server needs a process of its own"
    out, words = io.BytesIO(), io.BytesIO()
    with (
        mock.patch.dict(os.environ, environment(env), clear=True),
        mock.patch("sys.argv", ["rayotel", *arguments]),
        mock.patch.object(sys.modules["__main__"], "__package__", "", create=True),
        mock.patch("sys.stdin", _text(io.BytesIO(stdin.encode()))),
        mock.patch("sys.stdout", _text(out)) as stdout,
        mock.patch("sys.stderr", _text(words)) as stderr,
        contextlib.chdir(cwd or Path.cwd()),
    ):
        code = _exit_code()
        stdout.flush()
        stderr.flush()
    return subprocess.CompletedProcess(["rayotel", *arguments], code, _read(out), _read(words))


def _read(content: io.BytesIO) -> str:
    return content.getvalue().decode().replace("\r\n", "\n").replace("\r", "\n")  # as subprocess


def _text(content: io.BytesIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(content, "utf-8", errors="surrogateescape", write_through=True)


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    else:
        code = 0
    assert isinstance(code, int)
    return code
