"""The answer of every shipped question on the recordings, kept as files.

`python -m support.kept_answers`, in tests/, writes that of a new question. A file that is there
stays as it is: columns that were renamed since are listed in `renamed.toml`.
The lakes are made without a server, with the recorded times of arrival, so the answers are the
same on every machine. Numbers are kept to nine digits: sums of doubles depend on their order.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from rayotel import replay
from rayotel.ingest.decode.decoder import Decoder
from rayotel.lake.signal import SIGNALS, Signal
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import JSON, PROTOBUF, Arrival, Record, TimeRange
from rayotel.query.ray import questions
from rayotel.query.session import Limits, Session
from rayotel.replay import RecordedRequest
from support.harness import EVENTS_RECORDING, RECORDING, RECORDINGS
from support.lakes import RECEIVER, part_name, put

ANSWERS = RECORDINGS / "answers"
RENAMED: dict[str, dict[str, str]] = tomllib.loads((ANSWERS / "renamed.toml").read_text("utf-8"))
LAKES: dict[str, Sequence[Path]] = {
    "metrics": (RECORDING,),
    "events": (EVENTS_RECORDING,),
    "both": (RECORDING, EVENTS_RECORDING),
}
FIRST_ARRIVAL_UNIX = 1_795_191_037
LIMITS = Limits(memory_bytes=1 << 30, threads=1, timeout_seconds=600)


def commit_recordings(
    storage: Storage, recordings: Iterable[Path], requests_of_a_segment: int | None = None
) -> None:
    """Commit recordings, each as one segment or as segments of so many requests."""
    number = 0
    for directory in recordings:
        requests = replay.load(directory).requests
        signal = next(one for one in SIGNALS if one.path == requests[0].path)
        decoder = Decoder(max_inflated_body_bytes=1 << 26, max_series_cached_bytes=1 << 28)
        known: set[str] = set()
        size = requests_of_a_segment or len(requests)
        for first in range(0, len(requests), size):
            number += 1
            records = [_record(signal, one) for one in requests[first : first + size]]
            span = part_name(number, stream=signal.default_stream, receiver=RECEIVER)
            put(storage, signal, [decoder.decode(record) for record in records], span, known)


def _record(signal: Signal, request: RecordedRequest) -> Record:
    """A request as it came, without its compression."""
    received = FIRST_ARRIVAL_UNIX * 10**9 + round(request.at * 1e6) * 1000
    content_type = PROTOBUF if signal.is_otlp else JSON
    arrival = Arrival(
        signal.name, signal.default_stream, content_type, "identity", received, "127.0.0.1", ""
    )
    return Record(arrival, request.plain_body())


def answer(storage: Storage, question: questions.ShippedQuery) -> str:
    """The answer to a question with its own parameters as CSV; a null is nothing at all."""
    with Session(storage, TimeRange(), LIMITS, mentioned_in=question.sql) as session:
        result = session.run(question.sql, question.bind({}))
        names = result.schema.names
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for row in result.rows():
            writer.writerow([_text(row[name]) for name in names])
    return out.getvalue()


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, list | dict):
        return json.dumps(value, default=str)
    return str(value)


def kept(lake: str, name: str) -> str:
    """The answer that is kept, under today's names of columns."""
    header, _, rows = path_of(lake, name).read_text("utf-8").partition("\n")
    renamed = RENAMED.get(name, {})
    return ",".join(renamed.get(column, column) for column in header.split(",")) + "\n" + rows


def path_of(lake: str, name: str) -> Path:
    """Where the answer to a question on a lake is kept."""
    return ANSWERS / lake / f"{name}.csv"


def main() -> None:
    """Write the answers that are not there."""
    for lake, recordings in LAKES.items():
        with tempfile.TemporaryDirectory() as directory:
            storage = open_storage(directory)
            commit_recordings(storage, recordings)
            for question in questions.all_queries():
                path = path_of(lake, question.name)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(answer(storage, question), "utf-8")
                    print(path.relative_to(ANSWERS), file=sys.stderr)


if __name__ == "__main__":
    main()
