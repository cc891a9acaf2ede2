"""Questions that would never end, or would take all memory, are ended, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rayotel.errors import QueryError, StorageDenied
from rayotel.lake.storage.opening import open_storage
from rayotel.query import worker
from rayotel.query.lake import Lake
from rayotel.query.place import Form
from rayotel.query.process.limits import OVERHEAD_BYTES, Limits
from support.harness import RAYOTEL, WAIT_SECONDS, environment, gauge_request, wait_until
from support.lakes import commit

pytestmark = pytest.mark.system
MEMORY_BYTES, SECONDS, CORES = 256 << 20, 2, os.cpu_count() or 1
# libraries, which processes share, and what is taken between two looks
SHARED_BYTES = 192 << 20
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, stdin=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stderr.decode(), used.ru_maxrss * 1024,
                  used.ru_utime + used.ru_stime, len(done.stdout)]))
"""


class Ended(NamedTuple):
    """How a command ended; `peak_bytes` of its largest process, CPU of all together."""

    code: int
    words: str
    peak_bytes: int
    cpu_seconds: float
    output_bytes: int


@pytest.fixture
def spills(tmp_path: Path) -> Path:
    """Where questions spill."""
    (tmp_path / "spills").mkdir()
    return tmp_path / "spills"


@pytest.fixture
def settings(tmp_path: Path, spills: Path) -> dict[str, str]:
    """A lake of one point, with small bounds."""
    commit(open_storage(str(tmp_path / "lake")), 1, gauge_request(1.0))
    return environment(
        {
            "RAYOTEL_STORAGE": str(tmp_path / "lake"),
            "RAYOTEL_QUERY_MEMORY_BYTES": str(MEMORY_BYTES),
            "RAYOTEL_QUERY_TIMEOUT_SECONDS": str(SECONDS),
            "TMPDIR": str(spills),
        }
    )


def asked(settings: dict[str, str], sql: str, *options: str) -> Ended:
    """A question on the command line, to its end."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *RAYOTEL, "query", sql, "--format", "csv", *options],
        env=settings,
        capture_output=True,
        check=True,
        timeout=WAIT_SECONDS,
    )
    return Ended(*json.loads(done.stdout))


ATTACKS = (
    "SELECT repeat('x', 3000000000)",
    "SELECT length(repeat('x', 3000000000))",
    "SELECT levenshtein(repeat('ab', 200000), repeat('cd', 200000))",
    "SELECT count(*) FROM (SELECT unnest(range(100000000)) AS x)",
    "SELECT list_transform(range(100000000), x -> x::VARCHAR || repeat('y', 100))",
    "SELECT list_sort(range(100000000))",
    "SELECT count(*) FROM range(10000000) AS a, range(10000000) AS b WHERE a.range + b.range = -1",
    "SELECT histogram(range) FROM range(1000000000)",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) SELECT max(s) FROM t",
    "SELECT repeat('9', 300000000)::BIGNUM",
    "SELECT printf('%2000000000d', 1)",
    "SELECT regexp_replace(repeat('a', 100000000), 'a', repeat('b', 100), 'g')",
    "SELECT * FROM range(1000000000) ORDER BY hash(range) OFFSET 999999999",
    "SELECT json(repeat('[', 100000000))",
    "SELECT map_from_entries(list_transform(range(10000000), x -> (x, x)))",
    "SELECT sleep_ms(1000000)",
)


@pytest.mark.parametrize("sql", ATTACKS)
def test_a_question_ends_in_its_bounds(settings: dict[str, str], spills: Path, sql: str) -> None:
    """By its time or by its memory, with an error that says so and names the setting."""
    ended = asked(settings, sql)
    assert ended.code == 1
    # where a library finds no memory for itself, it ends the process
    reasons = ("longer than", "Out of Memory", "may have needed more memory")
    assert any(reason in ended.words for reason in reasons)
    assert "RAYOTEL_QUERY_TIMEOUT_SECONDS" in ended.words or "RAYOTEL_QUERY_MEM" in ended.words
    assert "Traceback" not in ended.words
    assert ended.peak_bytes < MEMORY_BYTES + OVERHEAD_BYTES + SHARED_BYTES
    assert ended.cpu_seconds < 5 * SECONDS * CORES
    assert list(spills.iterdir()) == []


def test_a_large_answer_costs_neither_side_its_size(settings: dict[str, str]) -> None:
    """What is on its way is bounded, whatever there is of it."""
    patient = {**settings, "RAYOTEL_QUERY_TIMEOUT_SECONDS": "600"}
    sql = "SELECT repeat('x', 1000) AS x FROM range(300000)"
    ended = asked(patient, sql)
    assert (ended.code, ended.output_bytes) == (0, 3 + 300_000 * 1002), ended.words
    assert ended.peak_bytes < MEMORY_BYTES + OVERHEAD_BYTES + SHARED_BYTES


def mine(spills: Path) -> set[int]:
    """Processes that were started with this directory for what they spill."""
    found = set()
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={spills}\0".encode() in Path(entry.path, "environ").read_bytes():
                found.add(int(entry.name))
    return found


LONG = "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range + b.range < 0"


@contextlib.contextmanager
def long_question(settings: dict[str, str], spills: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A question that runs, spill directory and all."""
    patient = {**settings, "RAYOTEL_QUERY_TIMEOUT_SECONDS": "800"}
    process = subprocess.Popen(
        [*RAYOTEL, "query", LONG],
        env=patient,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: len(mine(spills)) == 3 and list(spills.iterdir()))
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_of_a_command_that_is_ended(
    settings: dict[str, str], spills: Path, number: signal.Signals
) -> None:
    """Ctrl-C, a polite end, one without a chance to clean up, a terminal that is closed."""
    with long_question(settings, spills) as process:
        process.send_signal(number)
        code = process.wait(WAIT_SECONDS)
        assert code == (1 if number == signal.SIGINT else -number)
        wait_until(lambda: not mine(spills) and not list(spills.iterdir()))


def test_a_question_ends_when_nobody_reads_the_answer(
    settings: dict[str, str], spills: Path
) -> None:
    """`| head` closes the pipe: the question ends before it has written anything."""
    with long_question(settings, spills) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(WAIT_SECONDS) == 1
        assert not mine(spills)
        assert list(spills.iterdir()) == []
        process.stdout = None


def test_a_worker_dies_with_its_supervisor(settings: dict[str, str], spills: Path) -> None:
    """Whoever kills the supervisor leaves no question behind, and the command says so."""
    with long_question(settings, spills) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert process.wait(WAIT_SECONDS) == 1
        wait_until(lambda: not mine(spills))


# -- one lake that is asked by a long-lived process ------------------------------------------------

LIMITS = Limits(MEMORY_BYTES, 2, 600)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """A lake of one point."""
    storage = open_storage(str(tmp_path / "lake"))
    commit(storage, 1, gauge_request(1.0))
    with contextlib.closing(Lake(storage, LIMITS)) as opened:
        yield opened


def rows(lake: Lake, sql: str, **parameters: object) -> list[dict[str, Any]]:
    """The rows of a question."""
    with lake.ask(sql, None, parameters) as result:
        return result.rows()


def test_questions_share_a_supervisor_and_nothing_else(lake: Lake) -> None:
    """What one did in its process, the next does not see."""
    change = "CREATE TABLE t AS SELECT 1 AS a; SET threads = 1; SET VARIABLE v = 'x'; SELECT 1 AS a"
    with lake.ask(change, unlocked=True) as result:
        assert result.rows() == [{"a": 1}]
    with pytest.raises(QueryError, match="t does not exist"):
        rows(lake, "FROM t")
    assert rows(lake, "SELECT getvariable('v') AS v") == [{"v": None}]
    assert rows(lake, "SELECT current_setting('threads') AS n") == [{"n": 2}]


def test_several_threads_ask_at_once(lake: Lake) -> None:
    """Each gets its own answer or its own error."""

    def ask(number: int) -> int:
        if number % 5 == 4:
            with pytest.raises(QueryError, match=f"nope{number}"):
                rows(lake, f"SELECT nope{number}")
        return int(rows(lake, "SELECT $n::INT AS n", n=number)[0]["n"])

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(24))) == list(range(24))


def test_a_question_that_is_let_go_is_ended(lake: Lake) -> None:
    """Whoever closes a result does not wait for the rest of it."""
    with lake.ask("SELECT range AS n FROM range(100000000000)") as result:
        assert next(result.batches())["n"][0].as_py() == 0
    assert rows(lake, "SELECT 1 AS a") == [{"a": 1}]


def test_a_supervisor_that_was_killed_is_replaced(lake: Lake) -> None:
    """The next question is answered."""
    assert rows(lake, "SELECT 1 AS a") == [{"a": 1}]
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    for child in map(int, children):
        if b"supervision" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
    with contextlib.suppress(QueryError):
        rows(lake, "SELECT 1 AS a")
    assert rows(lake, "SELECT 1 AS a") == [{"a": 1}]


def test_a_row_that_is_huge_is_refused(lake: Lake) -> None:
    """The asker never holds more than a bound; large rows of many come one by one."""
    with pytest.raises(QueryError, match="a row of the answer is larger than 64 MiB"):
        rows(lake, "SELECT repeat('x', 100000000) AS x")
    with lake.ask("SELECT repeat('x', 5000000) AS x FROM range(10)") as result:
        sizes = [batch.nbytes for batch in result.batches()]
    assert len(sizes) == 10
    assert max(sizes) < 2 * worker.ROWS_BYTES


def test_errors_are_what_they_are_in_another_process(tmp_path: Path) -> None:
    """Class, message and hint come along."""
    bad = Lake(open_storage(str(tmp_path / "none")), LIMITS)
    with contextlib.closing(bad), pytest.raises(QueryError) as raised:
        rows(bad, "FROM raymetrics")
    assert "rayotel streams" in str(raised.value.hint)
    (tmp_path / "file").write_text("x")
    broken = Lake(open_storage(str(tmp_path / "file")), LIMITS)
    with contextlib.closing(broken), pytest.raises((StorageDenied, Exception)) as failed:
        rows(broken, "FROM raymetrics")
    assert "Traceback" not in str(failed.value)


FORMATS = ("table", "json", "ndjson", "csv", "markdown", "parquet")
VALUES = (
    "FROM test_all_types()",
    "SELECT MAP {'a': INTERVAL 1 DAY} AS v",
    "SELECT union_value(a := 1) AS v",
    "SELECT MAP {'infinity'::DATE: 1} AS v",
    "SELECT TIME_NS '12:00:00.123456789' AS v",
    "SELECT 1::VARIANT AS v",
    "SELECT [[DATE 'infinity'], NULL]::DATE[1][2] AS v",
)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_type_is_written_or_refused(lake: Lake, format_: str) -> None:
    """A value that a format has no place for is an error with a hint."""
    for sql in VALUES:
        words = ""
        try:
            with lake.ask_for_text(Form(format_), sql) as text:
                assert b"".join(text.pieces())
        except QueryError as error:
            words = error.message
        assert "Traceback" not in words
        assert not words or "cannot be written as" in words or "VARIANT" in words


def test_no_half_written_file_remains(settings: dict[str, str], tmp_path: Path) -> None:
    """All types to Parquet: an error with a hint, and the directory is as it was."""
    output = tmp_path / "out" / "types.parquet"
    output.parent.mkdir()
    options = ("--format", "parquet", "--output", str(output))
    ended = asked(settings, "FROM test_all_types()", *options)
    assert ended.code == 1
    assert ended.words.startswith("error: the answer cannot be written as parquet")
    assert "hint: " in ended.words
    assert list(output.parent.iterdir()) == []
