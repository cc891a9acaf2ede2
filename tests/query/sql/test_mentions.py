"""A wide stream's view has the columns that a question can need, and few others."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange
from rayotel.query import session as opening
from rayotel.query.session import Session
from support.harness import LIMITS
from support.lakes import START, gauge, write

HOURS, LABELS_AN_HOUR = 15, 400


def stored(directory: Path, labels_an_hour: int) -> Storage:
    """Fifteen hours, each with labels of its own."""
    storage = open_storage(str(directory / str(labels_an_hour)))
    for hour in range(HOURS):
        labels = {f"L{hour}_{n}": f"v{n}" for n in range(labels_an_hour)}
        moment = START + hour * NANOSECONDS_PER_HOUR
        write(storage, gauge(hour, at=moment, **labels), first=hour + 1)
    return storage


def cpu_seconds(storage: Storage, sql: str) -> float:
    """What a question costs."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    with Session(storage, TimeRange(), LIMITS, mentioned_in=sql) as session:
        session.run(sql).rows()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_question_about_ten_of_thousands_of_columns_is_quick(tmp_path: Path) -> None:
    """It costs not much more than where there are no others (2.5 times; with all of them, 20)."""
    sql = f"SELECT {', '.join(f'metric_L{hour}_7' for hour in range(10))} FROM raymetrics"
    wide, narrow = stored(tmp_path, LABELS_AN_HOUR), stored(tmp_path, 10)
    few = min(cpu_seconds(narrow, sql) for _ in range(3))
    assert min(cpu_seconds(wide, sql) for _ in range(3)) < 5 * few


def shown(storage: Storage, sql: str) -> list[tuple[object, ...]]:
    """The rows of a question, with the names of its columns first."""
    with Session(storage, TimeRange(), LIMITS, mentioned_in=sql) as session:
        result = session.run(sql)
        return [tuple(result.schema.names), *(tuple(row.values()) for row in result.rows())]


NAMED = r"""
SELECT metric_L3_5 FROM raymetrics WHERE metric_L3_5 IS NOT NULL
SELECT "METRIC_l3_5", t.Metric_L4_1 FROM raymetrics AS t ORDER BY ALL
WITH a AS (SELECT metric_L3_5 AS x, time_unix_nano FROM raymetrics) SELECT * FROM a ORDER BY ALL
SELECT max(metric_L3_5) FILTER (metric_L4_1 IS NULL) FROM raymetrics GROUP BY metric_L5_1 ORDER BY 1
SELECT a.metric_L3_5 FROM raymetrics a JOIN raymetrics b USING (metric_L3_5)
SELECT * FROM (SELECT metric_L3_5, metric_name FROM raymetrics) ORDER BY ALL
SELECT x, count(*) FROM (SELECT metric_L3_5 AS x FROM raymetrics) GROUP BY ALL ORDER BY ALL
SELECT metric_L3_5 FROM raymetrics UNION ALL SELECT metric_L4_1 FROM raymetrics ORDER BY ALL
SELECT (SELECT max(metric_L3_5) FROM raymetrics AS u WHERE u.metric_name = t.metric_name) FROM raymetrics t
SELECT metric_L3_5, instance_key, minute FROM ray_samples ORDER BY ALL
SELECT metric_L3_5, increase FROM metric_increase('raymetrics', 'm') ORDER BY ALL
EXPLAIN ANALYZE SELECT metric_L3_5 FROM raymetrics
SELECT n, metric_L3_5 FROM raymetrics, range(2) AS r(n) ORDER BY ALL
"""  # noqa: E501
UNNAMED = r"""
SELECT * FROM raymetrics
FROM raymetrics
TABLE raymetrics
SELECT t.* FROM raymetrics AS t
SELECT * EXCLUDE (metric_L3_5) FROM raymetrics
SELECT * REPLACE (1 AS metric_L3_5) FROM raymetrics
SELECT * LIKE 'metric_L3_%' FROM raymetrics
SELECT COLUMNS('L3_[5-7]$') FROM raymetrics
SELECT max(COLUMNS(c -> c LIKE 'metric_L3%')) FROM raymetrics
SELECT metric_name FROM raymetrics WHERE COLUMNS('L3_5$') IS NULL
DESCRIBE raymetrics
SHOW raymetrics
SUMMARIZE raymetrics
SELECT raymetrics FROM raymetrics
SELECT to_json(t) FROM raymetrics AS t
SELECT metric_name FROM raymetrics ORDER BY COLUMNS('L3_5$'), metric_name
UNPIVOT (FROM raymetrics) ON COLUMNS('L3_') INTO NAME n VALUE v
PIVOT raymetrics ON metric_name USING count(*)
SELECT count(*) FROM raymetrics NATURAL JOIN raymetrics AS u
SELECT a FROM raymetrics AS t(a)
WITH a AS (FROM raymetrics) SELECT * FROM a
SELECT count(*) FROM information_schema.columns
SELECT count(*) FROM duckdb_columns()
SELECT count(*) FROM pragma_table_info('raymetrics')
SELECT * FROM ray_samples
FROM ray_samples
SELECT s.* FROM ray_samples AS s
FROM metric_latest('raymetrics', 'm')
FROM metric_increase('raymetrics', 'm')
SELECT * FROM main.raymetrics
FROM metric_labels('raymetrics', range_begins(), [])
FROM (FROM raymetrics) UNION ALL BY NAME (FROM raymetrics)
FROM raymetrics SELECT metric_name, unnest(raymetrics)
"""


def lines(text: str) -> list[str]:
    """The lines that are not empty."""
    return [line for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A few labels; what is wide is a matter of the bound."""
    storage = open_storage(str(tmp_path_factory.mktemp("small")))
    for hour in (3, 4, 5):
        labels = {f"L{hour}_{n}": f"v{n}" for n in range(9)}
        moment = START + hour * NANOSECONDS_PER_HOUR
        write(storage, gauge(hour, hour + 1, at=moment, **labels), first=hour + 1)
    yield storage
    storage.close()


@pytest.mark.parametrize("sql", lines(NAMED + UNNAMED))
def test_the_answer_is_the_same_as_with_all_columns(
    small: Storage, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stars, names in quotes and other cases, macros and views, tables as values."""
    whole = shown(small, sql)
    monkeypatch.setattr(opening, "MANY_COLUMNS", 0)
    chosen = shown(small, sql)
    if not sql.startswith(("EXPLAIN", "SUMMARIZE")):  # which tell times and estimates
        assert chosen[0] == whole[0]
        assert sorted(map(repr, chosen)) == sorted(map(repr, whole))
    assert len(chosen) == len(whole)


@pytest.mark.parametrize("sql", lines(NAMED))
def test_a_view_has_only_what_is_named(
    small: Storage, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that names its columns does not pay for the others."""
    monkeypatch.setattr(opening, "MANY_COLUMNS", 0)
    with Session(small, TimeRange(), LIMITS, mentioned_in=sql) as session:
        described = session.run("DESCRIBE raymetrics").rows()
    names = {row["column_name"] for row in described}
    assert "metric_L3_5" in names
    assert "metric_L3_4" not in names
