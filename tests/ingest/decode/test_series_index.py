"""Rows do not depend on what is remembered of earlier commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayotel.lake.rows import stream_memory
from rayotel.lake.rows.stream_memory import StreamMemories, StreamMemory
from rayotel.model import MetricBatch, Points, Series
from support.lakes import part, tables_by_hour
from support.otlp_reference import ARRIVAL, ARRIVED, HOUR
from support.otlp_strategies import few

COLUMNS = [
    "metric_Version", "metric_version", "metric_VERSION", "metric_a", "metric_b", "resource_a",
    "metric_\x00", "B",
]  # fmt: skip
TEXTS = ["", "1", "2", "x"]
FIXED = [
    {"metric_name": name, "metric_type": kind, "metric_unit": unit, "is_monotonic": monotonic}
    for name in ("m", "a_metric", "M")
    for kind, unit, monotonic in (("gauge", None, None), ("sum", "s", True), ("sum", None, False))
]
Sent = Sequence[MetricBatch]


@st.composite
def series(draw: st.DrawFn) -> Series:
    """A series as the decoder makes it: of names that are alike but for case one has a column."""
    found = draw(st.lists(st.tuples(st.sampled_from(COLUMNS), st.sampled_from(TEXTS)), max_size=5))
    first: dict[str, tuple[str, str]] = {}
    spare = []
    for pair in sorted(found, key=lambda one: one[0]):
        if first.setdefault(pair[0].lower(), pair) is not pair:
            spare.append(pair)
    labels = tuple(sorted(first.values()))
    # copies: contexts hold what is fixed apart, and equal content makes no difference
    fixed = dict(draw(st.sampled_from(FIXED)))
    identity = hash((labels, tuple(spare), str(fixed["metric_name"]))) % 2**62
    return Series(identity, fixed, labels, tuple(spare))


@st.composite
def commits(draw: st.DrawFn) -> list[Sent]:
    """Commits of batches, which share series one by one and by whole tuples."""
    made = draw(st.lists(series(), min_size=1, max_size=12))
    again = [Series(one.series_id, one.fixed, one.labels, one.spare) for one in made]
    anyone = st.sampled_from([*made, *again])
    shared = draw(st.lists(st.lists(anyone, max_size=8).map(tuple), min_size=1, max_size=5))
    return [
        [draw(batches(shared, number)) for number in range(draw(st.integers(0, 3)))]
        for _ in range(draw(st.integers(1, 5)))
    ]


@st.composite
def batches(draw: st.DrawFn, shared: list[tuple[Series, ...]], number: int) -> MetricBatch:
    """A batch of some points at a few times, in one or two hours."""
    some = draw(st.sampled_from(shared))
    chunks = []
    if some:
        places = draw(st.lists(st.integers(0, len(some) - 1), max_size=10))
        moments = st.integers(ARRIVED, ARRIVED + 2) | st.just(ARRIVED - HOUR)
        times = [draw(moments) for _ in places]
        values = {"data_point_value": np.arange(len(places)) + 100.0 * number}
        chunk = Points(
            "number", np.array(places, np.int32), np.array(times, np.int64), None, None, values
        )
        chunks.append(chunk)
    return MetricBatch(ARRIVAL, some, chunks)


def written(sent: Sent, memory: StreamMemory) -> dict[int, bytes]:
    """The bytes of each hour's part."""
    tables = tables_by_hour(sent, memory)
    return {hour: bytes(part(table)) for hour, table in tables.items()}


@few
@given(commits(), st.sampled_from([0, 1, 2, 512]))
def test_a_part_has_the_same_bytes_whatever_came_before(made: list[Sent], columns: int) -> None:
    """A commit that is done again after a crash, with nothing remembered, gives the same part.

    Which labels have a column is remembered, up to the bound; so both have the same of these.
    """
    memory, other = StreamMemory(columns), StreamMemory(columns)
    for sent in made:
        assert written(sent, memory) == written(sent, other)
        other.forget_series()


@few
@given(commits())
def test_an_index_of_many_commits_gives_what_one_of_all_gives(made: list[Sent]) -> None:
    """In whichever order series came to be known, a part of all of them is the same."""
    everything = [batch for sent in made for batch in sent]
    memory = StreamMemory(512)
    for sent in made:
        tables_by_hour(sent, memory)
    assert written(everything, memory) == written(everything, StreamMemory(512))


def gauges(first: int, last: int, name: str = "m") -> MetricBatch:
    """A batch with a point for each of these series, which differ in one label."""
    fixed = {"metric_name": name, "metric_type": "gauge"}
    some = tuple(
        Series(number, fixed, (("metric_worker", f"{number:06d}"),))
        for number in range(first, last)
    )
    count = len(some)
    places, times = np.arange(count, dtype=np.int32), np.full(count, ARRIVED)
    values = {"data_point_value": np.ones(count)}
    return MetricBatch(ARRIVAL, some, [Points("number", places, times, None, None, values)])


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_memory, "MAX_SERIES_INDEX_BYTES", 1 << 20)


@pytest.mark.usefixtures("_small")
def test_what_is_remembered_is_bounded() -> None:
    """Series that come once and never again are forgotten, over all streams together."""
    memories = StreamMemories(512)
    largest = 0
    for number in range(40):
        with memories.of(f"s{number % 3}") as memory:
            tables_by_hour([gauges(number * 200, number * 200 + 200)], memory)
        largest = max(largest, sum(memories.sizes()))
    assert 1 << 19 < largest <= 1 << 20


@pytest.mark.usefixtures("_small")
def test_a_commit_beyond_the_bound_is_not_remembered() -> None:
    """Its rows are made all the same."""
    memories = StreamMemories(512)
    with memories.of("s") as memory:
        (table,) = tables_by_hour([gauges(0, 5000)], memory).values()
    assert table.num_rows == 5000
    assert sum(memories.sizes()) == 0


def test_an_index_is_not_used_again_after_an_error() -> None:
    """Half of what a commit adds would be wrong for each commit after it."""
    memories = StreamMemories(512)
    broken = Series(1, {}, ())  # without a name of a metric
    batch = gauges(0, 3)
    bad = MetricBatch(ARRIVAL, (*batch.series, broken), batch.chunks)
    with pytest.raises(KeyError), memories.of("s") as memory:
        tables_by_hour([bad], memory)
    with memories.of("s") as memory:
        assert written([batch], memory) == written([batch], StreamMemory(512))


def test_runs_that_meet_are_put_in_order() -> None:
    """Series that came apart, some of them twice, stand in one order when they meet."""
    memory = StreamMemory(512)
    sent = [gauges(0, 50), gauges(25, 30), gauges(100, 101), gauges(25, 75), gauges(9, 11, "a")]
    for one in sent:
        tables_by_hour([one], memory)
    # requests of one moment with equal points would be one
    sent = [
        replace(one, arrival=replace(ARRIVAL, received_unix_nano=ARRIVED + 1000 * number))
        for number, one in enumerate(sent)
    ]
    (table,) = tables_by_hour(sent, memory).values()
    names = zip(table["metric_name"].to_pylist(), table["metric_worker"].to_pylist(), strict=True)
    found = list(names)
    assert found == sorted(found)
    assert len(found) == 50 + 5 + 1 + 50 + 2
    assert written(sent, memory) == written(sent, StreamMemory(512))
