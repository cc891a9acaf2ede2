"""Several servers on one lake: a stream holds one signal for all of them."""

from __future__ import annotations

from pathlib import Path

from rayotel.errors import StorageError
from rayotel.lake import catalog
from rayotel.lake.storage.opening import open_storage
from support.event_bodies import of_numbers
from support.harness import JSON, PROTOBUF, Server, ask, gauge_request, wait_until


def post_points(server: Server, stream: str) -> int:
    """The status of a request of metrics."""
    return server.post(gauge_request(1.0), {**PROTOBUF, "X-P-Stream": stream}).status_code


def post_events(server: Server, stream: str, *numbers: int) -> int:
    """The status of a request of events."""
    return server.post(of_numbers(list(numbers)), JSON, f"/v1/events?stream={stream}").status_code


def streams_of(lake: Path) -> list[str]:
    """The streams that have parts; none while the lake is away."""
    try:
        return catalog.streams(open_storage(str(lake)))
    except StorageError:
        return []


def rows(lake: Path, stream: str) -> int:
    """How many rows a stream has."""
    (row,) = ask(open_storage(str(lake)), f'SELECT count(*) AS n FROM "{stream}"')
    return int(row["n"])


def test_the_second_server_obeys_the_first(tmp_path: Path) -> None:
    """A stream that one server took for metrics takes no events on another, in any case."""
    lake = tmp_path / "lake"
    env = {"RAYOTEL_STORAGE": str(lake)}
    with Server(tmp_path / "a", env=env) as first, Server(tmp_path / "b", env=env) as second:
        assert post_points(first, "Shared") == 200
        wait_until(lambda: (lake / "_rayotel" / "claims" / "shared").is_dir())
        refused = second.post(of_numbers([1]), JSON, "/v1/events?stream=shared")
        assert refused.status_code == 400
        assert "holds metrics, not events" in refused.text
        assert post_points(second, "shared") == 200
        assert first.stop() == second.stop() == 0
    assert rows(lake, "Shared") + rows(lake, "shared") >= 2


def test_two_that_took_a_stream_while_the_lake_was_away_lose_nothing(tmp_path: Path) -> None:
    """One of the signals keeps the stream; the rows of the other are in <stream>-<signal>."""
    lake = tmp_path / "mount" / "lake"
    (tmp_path / "mount").write_text("not a directory yet")
    env = {"RAYOTEL_STORAGE": str(lake)}
    with Server(tmp_path / "a", env=env) as first, Server(tmp_path / "b", env=env) as second:
        assert post_points(first, "shared") == 200
        assert post_events(second, "shared", 1, 2) == 200
        (tmp_path / "mount").unlink()
        wait_until(lambda: post_points(first, "other") == 200 and "other" in streams_of(lake))
        assert first.stop() == second.stop() == 0
        losers = [one for one in (first, second) if "rows are stored elsewhere" in one.log()]
        assert len(losers) == 1
    by_stream = {stream: rows(lake, stream) for stream in streams_of(lake)}
    assert by_stream.pop("other") >= 1
    assert by_stream in ({"shared": 1, "shared-events": 2}, {"shared": 2, "shared-metrics": 1})
    with Server(tmp_path / "a", env=env) as first, Server(tmp_path / "b", env=env) as second:
        statuses = [post_points(first, "shared"), post_events(second, "shared", 3)]
    assert sorted(statuses) == [200, 400]
