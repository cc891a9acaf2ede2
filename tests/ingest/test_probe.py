"""A start proves the libraries before the server listens."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayotel.errors import BrokenInstallation
from rayotel.ingest import probe
from rayotel.ingest.decode.limits import inflate
from rayotel.lake.signal import SIGNALS
from support.harness import WAIT_SECONDS, environment, free_port

BROKEN_SERVER = """
import sys
from rayotel.cli.main import main
from rayotel.lake import parts

def broken(*_, **__):
    raise TypeError("unexpected keyword argument 'max_rows_per_page'")

parts.to_parquet = broken
sys.argv[0] = "rayotel"
main()
"""


def test_these_libraries_pass() -> None:
    """With versions that pyproject.toml allows, nothing is wrong."""
    probe.prove()


def test_every_signal_is_proven() -> None:
    """A new signal has a body of its own."""
    assert {one.signal.name for one in probe._probes()} == {signal.name for signal in SIGNALS}


def as_pyarrow_22(writer: Callable[..., Any]) -> Callable[..., Any]:
    """A writer that does not know an option."""

    def write(*_: Any, **__: Any) -> Any:
        raise TypeError("unexpected keyword argument 'max_rows_per_page'")

    return write


def with_another_value(writer: Callable[..., Any]) -> Callable[..., Any]:
    """A writer that writes something else without an error."""

    class Changing:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._inner = writer(*args, **kwargs)

        def __enter__(self) -> Changing:
            self._inner.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self._inner.__exit__(*error)

        def write_table(self, table: pa.Table, *args: Any, **kwargs: Any) -> None:
            if "data_point_sum" in table.column_names:
                at = table.column_names.index("data_point_sum")
                zeros = pa.array(np.zeros(len(table)))
                table = table.set_column(at, table.schema.field(at), zeros)
            self._inner.write_table(table, *args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    return Changing


@pytest.mark.parametrize("broken", [as_pyarrow_22, with_another_value])
def test_a_writer_of_parquet_is_proven(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Any]
) -> None:
    """One that fails, and one that writes another value, name pyarrow and its version."""
    monkeypatch.setattr("rayotel.lake.parts.pq.ParquetWriter", broken(pq.ParquetWriter))
    with pytest.raises(BrokenInstallation) as caught:
        probe.prove()
    assert f"pyarrow {pa.__version__}" in (caught.value.hint or "")


def lenient(body: bytes, _: int) -> Iterator[bytes]:
    """Takes a byte behind the end, as isal 1.8 does."""
    inflater = zlib.decompressobj()
    yield inflater.decompress(body)
    if len(inflater.unused_data) > 1:
        raise inflate.MalformedBody


def changing(body: bytes, _: int) -> Iterator[bytes]:
    """Gives other bytes."""
    yield zlib.decompress(body)[::-1]


@pytest.mark.parametrize("broken", [lenient, changing])
def test_inflating_is_proven(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[bytes, int], Iterator[bytes]]
) -> None:
    """A body that is changed, or does not end where its bytes end, is found."""
    monkeypatch.setitem(inflate._INFLATERS, "deflate", broken)
    with pytest.raises(BrokenInstallation, match="deflate") as caught:
        probe.prove()
    assert "isal" in (caught.value.hint or "")


def test_every_encoding_is_proven() -> None:
    """A new encoding has a body of its own."""
    assert {encoding for encoding, _ in probe._PACKERS} == {*inflate.ENCODINGS} - {"identity"}


def test_a_server_on_broken_libraries_does_not_start(tmp_path: Path) -> None:
    """It exits with 1 and a hint before it takes a port or a data directory."""
    data_dir = tmp_path / "data"
    command = ["serve", "--port", str(free_port()), "--data-dir", str(data_dir)]
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_SERVER, *command],
        capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
        env=environment({"PATH": os.environ["PATH"]}),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "error: cannot turn points into Parquet and back: TypeError" in done.stderr
    assert f"hint: another version of a library may help: pyarrow {pa.__version__}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not data_dir.exists()
