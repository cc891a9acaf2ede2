"""DuckDB's httpfs extension, which reads S3.

The extra `rayotel[s3]` contains the signed binary in a package, so no internet is needed. Without
it, DuckDB downloads the extension itself, once, into the user's home.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import duckdb

from rayotel.errors import QueryError

_PACKAGE = "duckdb_extension_httpfs"


def load_httpfs(connection: duckdb.DuckDBPyConnection) -> None:
    """Load httpfs from the package that matches this DuckDB, else let DuckDB install it."""
    packaged = _packaged()
    try:
        if packaged is not None:
            connection.load_extension(str(packaged))
            return
        connection.execute("INSTALL httpfs")
        connection.execute("LOAD httpfs")
    except duckdb.Error as error:
        raise QueryError(
            f"DuckDB {duckdb.__version__} has no httpfs extension, which reading S3 needs:"
            f" {str(error).partition(chr(10))[0]}",
            hint="pip install 'rayotel[s3]' brings it without any download at run time",
        ) from None


def _packaged() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place, "extensions", f"v{duckdb.__version__}", "httpfs.duckdb_extension")
        if path.is_file():
            return path
    return None
