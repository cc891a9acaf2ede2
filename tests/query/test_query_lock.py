"""A locked session reads its lake and does nothing else, on a directory and on S3."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow.parquet as pq
import pytest

from rayotel.errors import QueryError, StorageMissing
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import TimeRange
from rayotel.query.session import Session
from support.harness import LIMITS, S3_KEY_ID, S3_SECRET, ask, wait_until
from support.lakes import gauge, write


class Target(NamedTuple):
    """A lake with one part, and the address of a part of another lake beside it."""

    storage: Storage
    part: str
    elsewhere: str

    def content(self) -> dict[str, bytes]:
        """Every object of the lake."""
        return {o.key: self.storage.read(o.key) for o in self.storage.objects("")}


def storage_of(url: str, endpoint: str) -> Storage:
    """A lake; waits until the server knows a bucket that was made behind its back."""
    storage = open_storage(url, s3_endpoint=endpoint)

    def is_there() -> bool:
        with contextlib.suppress(StorageMissing):
            storage.folders("")
            return True
        return False

    wait_until(is_there)
    return storage


@pytest.fixture(scope="module", params=["directory", "s3"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """One lake for all attacks: each must leave it as it was."""
    endpoint, base = "", str(tmp_path_factory.mktemp("lakes"))
    if request.param == "s3":
        endpoint, directory = request.getfixturevalue("s3")
        base = "s3:/"
        for bucket in ("attacked", "elsewhere"):
            (directory / bucket).mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", S3_KEY_ID)
        environment.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        storage = storage_of(f"{base}/attacked/lake", endpoint)
        other = storage_of(f"{base}/elsewhere/lake", endpoint)
        (part,) = write(storage, gauge(1, pod="x"))
        storage.put("secret.txt", memoryview(b"beside the parts"))
        (elsewhere,) = write(other, gauge(2))
        yield Target(storage, f"{storage.url}/{part}", f"{other.url}/{elsewhere}")


READS = r"""
SELECT * FROM read_csv('/etc/passwd')
SELECT * FROM read_csv_auto('/dev/stdin')
SELECT * FROM sniff_csv('/etc/passwd')
SELECT * FROM read_text('/etc/hostname')
SELECT * FROM read_text(['{part}', '/etc/hostname'])
SELECT * FROM read_blob('/etc/hostname')
SELECT * FROM read_json('/etc/passwd')
SELECT * FROM read_text('/proc/self/environ')
SELECT * FROM '/etc/passwd'
SELECT * FROM glob('/etc/*')
SELECT * FROM glob('{lake}/**')
SELECT * FROM read_parquet('{lake}/**')
SELECT * FROM read_parquet('{lake}/raymetrics/*/*/*.parquet')
SELECT * FROM read_parquet('{elsewhere}')
SELECT * FROM parquet_metadata('{elsewhere}')
SELECT * FROM read_text('{lake}/secret.txt')
SELECT * FROM read_text('{lake}/raymetrics/../secret.txt')
SELECT * FROM read_parquet('{lake}/../../elsewhere/lake/raymetrics')
SELECT * FROM query_table('/etc/passwd')
SELECT * FROM query('SELECT * FROM read_text(''/etc/hostname'')')
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''/etc/hostname'')'))
SUMMARIZE '/etc/passwd'
DESCRIBE SELECT * FROM '/etc/passwd'
SELECT * FROM 'https://127.0.0.1:1/x.parquet'
SELECT * FROM parameters
SELECT getenv('HOME')
IMPORT DATABASE '{lake}'
"""
WRITES = r"""
COPY (SELECT 1) TO '{part}'
COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)
COPY (SELECT 1) TO '{lake}/new.parquet'
COPY (SELECT 1) TO '{out}'
COPY raymetrics TO '{out}' (FORMAT csv)
copy/**/(select 1) to '{out}'
SELECT 1; COPY (SELECT 1) TO '{out}'
EXPORT DATABASE '{out}'
EXPORT DATABASE '{lake}/x'
ATTACH '{out}'
ATTACH '{lake}/x.db'
ATTACH ':memory:' AS m
EXPLAIN ANALYZE COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)
EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'
EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{out}'
EXPLAIN ANALYZE EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'
PREPARE p AS COPY (SELECT 1) TO '{out}'
PREPARE p AS SELECT 1; EXECUTE p
EXECUTE p
WITH a AS (COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)) SELECT 1
WITH a AS (COPY (SELECT 1) TO '{out}') PIVOT (SELECT 1 AS b) ON b
EXPLAIN WITH a AS (COPY (SELECT 1) TO '{out}') SELECT 1
WITH a AS (INSERT INTO raymetrics VALUES (1) RETURNING 1) SELECT 1
SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')
SELECT * FROM query('WITH a AS (CO' || 'PY (SELECT 1) TO ''{out}'') SELECT 1')
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('WITH a AS (COPY (SELECT 1) TO ''{out}'') SELECT 1'))
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('WITH a AS (CO' || 'PY (SELECT 1) TO ''{part}'' (USE_TMP_FILE false)) SELECT 1'))
SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{out}'}})
SELECT * FROM enable_logging()
CALL enable_logging()
"""  # noqa: E501
CHANGES = r"""
INSTALL httpfs
INSTALL spatial
LOAD httpfs
LOAD '{out}'
UPDATE EXTENSIONS
SET memory_limit = '1TB'
SET allowed_paths = ['/etc/passwd']
SET enable_external_access = true
SET lock_configuration = false
SET VARIABLE x = 1
RESET memory_limit
RESET lock_configuration
PRAGMA memory_limit = '1TB'
PRAGMA enable_profiling
PRAGMA version
SELECT * FROM enable_profiling()
FROM disable_profiling()
FROM checkpoint()
FROM force_checkpoint()
FROM disable_logging()
FROM truncate_duckdb_logs()
SELECT write_log('x')
FROM duckdb_secrets()
SELECT count(*) FROM duckdb_secrets(redact = false)
FROM which_secret('s3://attacked/lake/x', 's3')
FROM query('SELECT 1')
FROM query_table('raymetrics')
FROM query_table(['raymetrics'])
PIVOT (FROM query('SELECT 1 AS a')) ON a
CREATE TABLE t (a INT)
CREATE TEMP TABLE t AS SELECT 1
CREATE OR REPLACE VIEW raymetrics AS SELECT 1
CREATE MACRO f() AS 1
CREATE SECRET s (TYPE s3)
DROP VIEW raymetrics
DROP SECRET lake
INSERT INTO raymetrics VALUES (1)
UPDATE raymetrics SET metric_name = 'x'
DELETE FROM raymetrics
TRUNCATE raymetrics
ALTER VIEW raymetrics RENAME TO x
COMMENT ON VIEW raymetrics IS 'x'
CALL pragma_version()
CHECKPOINT
VACUUM
USE memory
BEGIN
SELECT 1; SELECT 2
DETACH memory
"""


def lines(text: str) -> list[str]:
    """The lines that are not empty."""
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize(
    ("target", "attack"),
    [("directory", one) for one in lines(READS + WRITES + CHANGES)]
    # what names no place is refused the same wherever the lake is
    + [("s3", one) for one in lines(READS + WRITES) if "{" in one],
    indirect=["target"],
)
def test_a_locked_session_refuses(target: Target, attack: str, tmp_path: Path) -> None:
    """An attack is refused; the lake is as it was, nothing is written elsewhere."""
    before = target.content()
    sql = attack.format(
        part=target.part,
        lake=target.storage.url,
        elsewhere=target.elsewhere,
        out=tmp_path / "out",
    )
    with (
        Session(target.storage, TimeRange(), LIMITS) as session,
        pytest.raises(QueryError) as raised,
    ):
        session.run(sql).rows()
    assert "Python Object" not in raised.value.message
    assert target.content() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["directory"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        "SET memory_limit = '1TB'",
        "SET enable_external_access = true",
        "SET allowed_paths = ['/etc/passwd']",
        "RESET lock_configuration",
        "LOAD '{out}'",
        "INSTALL spatial",
        "ATTACH '{out}'",
        "COPY (SELECT 1) TO '{out}'",
        "FROM read_text('/etc/hostname')",
    ],
)
def test_duckdb_itself_is_locked_below_the_check(
    target: Target, statement: str, tmp_path: Path
) -> None:
    """A statement that slipped through the check would still be refused."""
    with Session(target.storage, TimeRange(), LIMITS) as session, pytest.raises(duckdb.Error):
        session.connection.execute(statement.format(out=tmp_path / "out")).fetchall()
    assert list(tmp_path.iterdir()) == []


def test_no_request_goes_to_a_server_that_sql_names(target: Target) -> None:
    """An address with options does not send signed requests to somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for option in ("s3_endpoint", "S3_ENDPOINT"):
            sql = f"FROM read_parquet('{target.part}?{option}=127.0.0.1:{port}&s3_use_ssl=false')"
            with pytest.raises(QueryError):
                ask(target.storage, sql)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "sql",
    [
        "FROM duckdb_settings()",
        "SELECT current_setting('s3_secret_access_key')",
        "FROM duckdb_secrets()",
        "FROM which_secret('s3://attacked/lake/x', 's3')",
        "FROM duckdb_variables()",
        "FROM pg_catalog.pg_settings",
        "SELECT getvariable('lake'), current_setting('s3_access_key_id')",
        "SHOW ALL TABLES",
        "FROM duckdb_logs()",
        "FROM duckdb_views()",
        "EXPLAIN ANALYZE FROM raymetrics",
    ],
)
def test_the_credentials_of_the_lake_cannot_be_read(target: Target, sql: str) -> None:
    """Whatever a session answers to a question about itself, the secret is not in it."""
    try:
        shown = json.dumps(ask(target.storage, sql), default=str)
    except QueryError as error:
        shown = f"{error.message} {error.hint}"
    assert S3_SECRET not in shown
    assert S3_KEY_ID not in shown


ALLOWED = r"""
SELECT count(*) FROM raymetrics
select data_point_value from raymetrics;
SELECT 1 -- and one at the end
WITH a AS (SELECT * FROM raymetrics) SELECT count(*) FROM a
WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT max(n) FROM t
FROM raymetrics SELECT metric_pod
FROM raymetrics
TABLE raymetrics
VALUES (1, 'a'), (2, 'b')
DESCRIBE raymetrics
DESCRIBE SELECT 1 AS a
SHOW TABLES
SHOW ALL TABLES
SUMMARIZE raymetrics
PIVOT raymetrics ON metric_pod USING count(*)
UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b
EXPLAIN SELECT * FROM raymetrics
EXPLAIN ANALYZE SELECT * FROM raymetrics
EXPLAIN ANALYSE FROM raymetrics
SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 2
SELECT lag(data_point_value) OVER (ORDER BY time_unix_nano) FROM raymetrics
SELECT sum(1) OVER w FROM raymetrics WINDOW w AS (PARTITION BY metric_name)
SELECT 'copy, insert, update, delete, merge and logging' AS words
SELECT 1 AS copy_of, 2 AS "insert", 3 AS updated -- COPY (SELECT 1) TO 'x'
SELECT count(*) FROM raymetrics WHERE metric_name LIKE '%deleted%'
WITH copied AS (SELECT 'x;y' AS a) PIVOT copied ON a
SELECT * FROM range(3) AS r(n), LATERAL (SELECT n + 1 AS m)
SELECT json_extract('{"a": 1}', '$.a') AS a, regexp_replace('a', 'a', 'b'), uuid() IS NOT NULL
SELECT epoch(now() AT TIME ZONE 'Europe/Berlin') > 0
"""


@pytest.mark.parametrize("target", ["directory"], indirect=True)
@pytest.mark.parametrize("sql", lines(ALLOWED))
def test_a_locked_session_answers_questions(target: Target, sql: str) -> None:
    """What only reads the lake is a question, also where its texts have words of writing."""
    assert ask(target.storage, sql)


def test_one_session_answers_many_questions(target: Target) -> None:
    """What one question needed does not stand in the way of the next, nor of the storage."""
    with Session(target.storage, TimeRange(), LIMITS) as session:
        for sql in lines(ALLOWED):
            assert session.run(sql).rows()


def test_comments_around_a_question_are_no_statements(target: Target) -> None:
    """A file of SQL begins and ends with comments, and its one statement with a semicolon."""
    sql = "-- what this is;\n/* and\n more */\n SELECT 1 AS a /* ; */ ; -- the end\n"
    assert ask(target.storage, sql) == [{"a": 1}]


def test_an_unlocked_session_may_write_outside(target: Target, tmp_path: Path) -> None:
    """--unlocked gives all of DuckDB: files, several statements, settings."""
    with Session(target.storage, TimeRange(), LIMITS, unlocked=True) as session:
        sql = f"COPY (SELECT metric_pod FROM raymetrics) TO '{tmp_path / 'copy.parquet'}'"
        session.run(sql).rows()
        session.run("SET threads = 1").rows()
        session.run("CREATE TABLE t AS SELECT 5 AS a").rows()
        assert session.run("SELECT a FROM t").rows() == [{"a": 5}]
        assert session.run("SELECT 1 AS a; SELECT 2 AS a").rows() == [{"a": 2}]
        with pytest.raises(QueryError, match="values does not exist"):
            session.run("FROM values")  # a name of Python's, where the SQL is run
    assert pq.read_table(tmp_path / "copy.parquet").to_pylist() == [{"metric_pod": "x"}]


def test_a_statement_that_fails_is_not_run_twice(target: Target) -> None:
    """What an unlocked session did before an error it did once, and the error is the first one."""
    with Session(target.storage, TimeRange(), LIMITS, unlocked=True) as session:
        session.run("CREATE TABLE t (a INT)").rows()
        with pytest.raises(QueryError, match="nope"):
            session.run("INSERT INTO t VALUES (1); SELECT nope FROM t")
        assert session.run("SELECT count(*) AS n FROM t").rows() == [{"n": 1}]
