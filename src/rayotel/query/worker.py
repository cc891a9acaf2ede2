"""What runs in a question's own process: a session, whose answer goes to a socket.

The supervisor imports this module and forks. A question comes as one message; `process/frames.py`
has the messages of the answer.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from rayotel.errors import QueryError, RayotelError
from rayotel.query.output import formats
from rayotel.query.place import Form, Place, Question, cache_of, opened
from rayotel.query.process import frames
from rayotel.query.ray.definitions import Streams
from rayotel.query.result import Result
from rayotel.query.session import Session

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TEXT_BYTES = 64 * 1024
ROWS_BYTES = 4 * 1024 * 1024
MAX_ROW_BYTES = 64 * 1024 * 1024

Opener = Callable[[Question, str], Session]


def prepared(place: Place) -> Callable[[socket.socket, str], None]:
    """What serves one question of a lake on a socket, with a directory for what it spills."""
    opener = _opener(place)

    def serve(sock: socket.socket, spill: str) -> None:
        with contextlib.suppress(ConnectionError, EOFError):  # nobody wants to know it any more
            # from the process that asks
            question: Question = pickle.loads(frames.receive(sock)[1])  # noqa: S301
            try:
                with opener(question, spill) as session:
                    said = _answer(sock, session, question)
                frames.send(sock, frames.END, json.dumps(said).encode())
            except RayotelError as error:
                _fail(sock, error)
            except MemoryError:
                _fail(sock, place.limits.too_much())
            except ConnectionError:
                raise
            except Exception:
                content = json.dumps({"message": traceback.format_exc()})
                frames.send(sock, frames.ERROR, content.encode())

    return serve


def _fail(sock: socket.socket, error: RayotelError) -> None:
    content = {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    frames.send(sock, frames.ERROR, json.dumps(content).encode())


def _opener(place: Place) -> Opener:
    """How a session is opened; what every question needs is made once."""
    try:
        storage = opened(place)
        reads = Streams(place.metrics_stream, place.events_stream)
    except RayotelError as error:
        return _refusing(error)
    cache = cache_of(place)

    def begun(question: Question, spill: str) -> Session:
        return Session(
            storage,
            question.range,
            place.limits,
            mentioned_in=question.sql,
            unlocked=question.unlocked,
            cache=cache,
            reads=reads,
            spill_directory=spill,
        )

    return begun


def _refusing(error: RayotelError) -> Opener:
    def refused(*_: object) -> Session:
        raise error

    return refused


def _answer(sock: socket.socket, session: Session, question: Question) -> dict[str, object]:
    """Run it and send what comes; what is to be said at the end."""
    result = session.run(question.sql, question.parameters)
    result.begin()
    if question.form is not None:
        frames.send(sock, frames.BEGUN)
        return {"shown": _send_text(sock, result, question.form)}
    frames.send(sock, frames.BEGUN, _ipc(result.schema, None))
    for batch in result.batches():
        for rows in _bounded(batch):
            frames.send(sock, frames.ROWS, _ipc(result.schema, rows))
    return {}


def _ipc(schema: pa.Schema, batch: pa.RecordBatch | None) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        if batch is not None:
            writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows in pieces of ROWS_BYTES, or of one row. Raises QueryError for one that is huge."""
    if batch.nbytes <= ROWS_BYTES:
        yield batch
    elif batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _bounded(batch.slice(0, half))
        yield from _bounded(batch.slice(half))
    elif batch.nbytes <= MAX_ROW_BYTES:
        yield batch
    else:
        raise QueryError(f"a row of the answer is larger than {MAX_ROW_BYTES >> 20} MiB")


def _send_text(sock: socket.socket, result: Result, form: Form) -> int | None:
    """The result in a format; how many rows a table shows where it leaves some out."""
    shown = None
    with io.BufferedWriter(_Texts(sock), TEXT_BYTES) as out:
        try:
            if form.format == "table":
                from rayotel.query.output.table import write_table

                text = io.TextIOWrapper(out, "utf-8", errors="backslashreplace", newline="")
                shown = write_table(result.schema, result.batches(), text, width=form.width)
                text.flush()
                text.detach()
            else:
                formats.STREAMING[form.format](result.schema, result.batches(), out)
        except (RayotelError, ConnectionError, MemoryError):
            raise
        except Exception as error:  # a type, or a value, that this format has no place for
            raise QueryError(
                f"the answer cannot be written as {form.format}:"
                f" {type(error).__name__}: {str(error)[:500]}",
                hint="cast the column to VARCHAR, or choose another --format",
            ) from None
        out.flush()
    return shown


class _Texts(io.RawIOBase):
    """A file whose content is sent as messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._position = 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes that were sent."""
        return self._position

    def write(self, content: ReadableBuffer) -> int:
        """Send it all."""
        view = memoryview(content).cast("B")
        for first in range(0, len(view), ROWS_BYTES):
            frames.send(self._sock, frames.TEXT, view[first : first + ROWS_BYTES])
        self._position += len(view)
        return len(view)
