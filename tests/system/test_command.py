"""The `rayotel` command as a process: bytes, pipes, and that nothing depends on being one."""

from __future__ import annotations

import subprocess

import pytest

from rayotel.lake.storage.opening import open_storage
from support.command import rayotel
from support.harness import RAYOTEL, environment, rayotel_process
from support.lakes import gauge, write


@pytest.fixture(scope="module")
def recent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data directory with a point."""
    data_dir = tmp_path_factory.mktemp("command") / "data"
    write(open_storage(str(data_dir / "lake")), gauge(1.5, Name="ü"))
    return str(data_dir)


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("--version",), ""),
        (("query", "FROM raymetrics", "--format", "csv"), ""),
        (("query", "SELECT 'ü' AS a", "--format", "json"), ""),
        (("query", "FROM raymetrics SELECT metric_label_Name"), ""),
        (("query", "-", "--format", "ndjson"), "SELECT 'ü' AS a"),
        (("query", "SELECT 1 FORM x"), ""),
        (("query", "SELECT 1", "--since", "1x"), ""),
        (("streams", "nope"), ""),
        (("frobnicate",), ""),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_process_says_what_a_call_says(
    recent: str, arguments: tuple[str, ...], stdin: str
) -> None:
    """Most tests call the command in their own process: its code, output and words are the same."""
    more = ("--data-dir", recent) if arguments[0] in ("query", "streams") else ()
    called = rayotel(*arguments, *more, stdin=stdin)
    ran = rayotel_process(*arguments, *more, stdin=stdin)
    words = ran.stderr.replace("python -m rayotel", "rayotel")
    assert (ran.returncode, ran.stdout, words) == (
        called.returncode, called.stdout, called.stderr,
    )  # fmt: skip
    assert ran.stdout or ran.stderr


@pytest.mark.parametrize(
    ("sql", "options", "code"),
    [
        ("SELECT '\udcff' AS a", (), 1),
        ("SELECT DATE 'infinity' AS a", (), 0),
        ("SELECT INTERVAL 1 HOUR AS a", ("--format", "parquet"), 0),
        ("FROM raymetrics", ("--to", "0001-01-01T00:00", "--since", "1h"), 2),
    ],
)
def test_nothing_ends_in_a_traceback(
    recent: str, sql: str, options: tuple[str, ...], code: int
) -> None:
    """Whatever is asked, there is an answer or an error in words."""
    command = [*RAYOTEL, "query", sql, "--data-dir", recent, *options]
    done = subprocess.run(command, capture_output=True, env=environment(), check=False)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_gets_no_traceback(recent: str) -> None:
    """`rayotel query ... | head` ends quietly, in every format."""
    for format_ in ("csv", "json", "table"):
        command = [*RAYOTEL, "query", "FROM range(300000)", "--data-dir", recent]
        with subprocess.Popen(
            [*command, "--format", format_],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment(),
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            words = process.stderr.read().decode()
        assert "Traceback" not in words
        assert "Exception" not in words
