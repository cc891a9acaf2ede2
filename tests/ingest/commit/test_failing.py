"""A record that makes a commit fail is set aside whole; everything else goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayotel.ingest.wal.aside import ask_back
from rayotel.lake import parts
from rayotel.lake.rows import by_signal
from rayotel.model import JSON, Arrival, Record
from support import event_bodies
from support.committing import Run, Watched, aside, values
from support.harness import ask

NOW = int(time.time()) // 3600
POISON = 666
TRIES = 8  # those that fail alike, then those of which records are set aside


def broken(function: Callable[..., Any], is_poison: Callable[..., bool]) -> Callable[..., Any]:
    """A function that fails on what it should not."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if is_poison(result, *args):
            raise ZeroDivisionError("a defect")
        return result

    return wrapper


def has_value(table: Any) -> bool:
    """Whether a table has the poison's value."""
    return (
        "data_point_value" in table.column_names and POISON in table["data_point_value"].to_pylist()
    )


def at_decoding(run: Run, patch: pytest.MonkeyPatch) -> None:
    """Decoding again fails, where memory has no batches."""
    reader, segment = run.committer._reader, run.journal._current
    assert segment is not None
    segment.batches = [None] * segment.records

    def is_poison(batch: Any, record: Record) -> bool:
        return any(POISON in chunk.values["data_point_value"] for chunk in batch.chunks)

    patch.setattr(reader, "decode", broken(reader.decode, is_poison))


def at_rows(_: Run, patch: pytest.MonkeyPatch) -> None:
    """Making rows fails."""

    def is_poison(made: Any, signal: Any, batches: Any, *more: Any) -> bool:
        return any(
            POISON in chunk.values["data_point_value"] for b in batches for chunk in b.chunks
        )

    patch.setattr(by_signal, "tables", broken(by_signal.tables, is_poison))


def at_parquet(_: Run, patch: pytest.MonkeyPatch) -> None:
    """Writing Parquet fails."""
    real = parts.to_parquet

    def to_parquet(hour: Any, *more: Any) -> Any:
        pieces = list(hour.pieces)
        if any(map(has_value, pieces)):
            raise MemoryError
        return real(type(hour)(hour.hour, hour.rows, hour.schema, iter(pieces), hour.held), *more)

    patch.setattr(parts, "to_parquet", to_parquet)


def at_put(run: Run, patch: pytest.MonkeyPatch) -> None:
    """The storage's own code fails on the content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    real = run.storage.put_new

    def put_new(key: str, content: memoryview) -> bool:
        if has_value(pq.read_table(pa.BufferReader(content))):
            raise KeyError("a defect")
        return real(key, content)

    patch.setattr(run.storage, "put_new", put_new)


STEPS = [at_decoding, at_rows, at_parquet, at_put]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
@pytest.mark.parametrize("hour", [NOW, 490_000], ids=["fresh", "late"])
def test_one_record_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Callable[..., None], hour: int
) -> None:
    """Whatever step it breaks: the others become parts, it is kept, and comes back once."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    run.numbers([1, 2], hour)
    run.numbers([POISON, 3], hour)
    with monkeypatch.context() as patch:
        step(run, patch)
        assert run.step(stopping=True, tries=TRIES)
        run.numbers([4], hour)
        assert run.step(stopping=True, tries=TRIES)
    assert values(lake) == [1, 2, 3, 4]
    assert len(aside(tmp_path / "data")) == 1
    assert "rayotel_wal_records_set_aside_total 1.0" in run.telemetry.exposition().decode()
    first = ask(lake, "SELECT max(p_timestamp) AS t FROM raymetrics WHERE data_point_value = 3")
    for _ in range(2):
        ask_back(tmp_path / "data" / "wal")
        run.committer._recovery.take_in()
        assert run.step(stopping=True)
    run.end()
    assert values(lake) == [1, 2, 3, 4, POISON]
    again = ask(lake, f"SELECT p_timestamp AS t FROM raymetrics WHERE data_point_value = {POISON}")
    assert again[0]["t"] <= first[0]["t"]
    assert not lake.overwritten


def test_records_that_fail_together_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them is set aside, comes back in other company, and nothing is lost."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    run.numbers(range(6), NOW)
    with monkeypatch.context() as patch:

        def is_poison(made: Any, signal: Any, batches: Any, *more: Any) -> bool:
            return len(batches) > 4

        patch.setattr(by_signal, "tables", broken(by_signal.tables, is_poison))
        assert run.step(tries=TRIES)
        assert values(lake) == [0, 1, 2]
        ask_back(tmp_path / "data" / "wal")
        run.committer._recovery.take_in()
        assert run.finish()
    assert values(lake) == list(range(6))


def test_an_id_that_cannot_be_kept_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are stored; their ids are not remembered."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    run.take(event_bodies.of_numbers([1]), "rayevents", signal="events", content_type=JSON)
    monkeypatch.setattr(run.stored, "persist", broken(run.stored.persist, lambda *_: True))
    assert run.finish(tries=TRIES)
    assert len(ask(lake, "SELECT * FROM rayevents")) == 1


def test_what_is_set_aside_stays_so_over_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of skipped records is durable before the first part."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    run.numbers([1, POISON, 2], NOW)
    with monkeypatch.context() as patch:
        at_parquet(run, patch)
        lake.before = lambda key: None if "probes" in key else pytest.fail(key)
        run.journal.seal()
        work = run.committer._next_work(False)
        assert work is not None
        for _ in range(3):
            assert not run.committer._try(*work)
    lake.before = id
    run.end()
    assert Run(tmp_path / "data", lake).finish()
    assert values(lake) == [1, 2]


def test_arrivals_of_earlier_versions_are_read() -> None:
    """A record of 0.1.0 has no name under which it was set aside."""
    plain = {
        "signal": "metrics", "stream": "s", "content_type": "", "content_encoding": "",
        "received_unix_nano": 1, "source_ip": "", "user_agent": "",
    }  # fmt: skip
    assert Arrival(**json.loads(json.dumps(plain))).recovered_as == ""
