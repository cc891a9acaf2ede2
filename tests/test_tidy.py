"""The source's own law: who may import whom, who owns which library, how long things may get."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rayotel"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 500

# A module imports only from ranks below its own, or from its own room.
RANKS = {
    "errors": 0, "model": 0, "__init__": 0, "config": 1, "telemetry": 1, "asgi": 2,
    "lake": 2, "replay": 2, "ingest": 3, "query": 3, "web": 4, "app": 5, "demo": 5,
    "console": 4, "tending": 5, "cli": 6, "__main__": 7,
}  # fmt: skip
OWNERS = {
    "boto3": {"lake/storage_s3.py"},
    "botocore": {"lake/storage_s3.py"},
    "duckdb": {"query/session.py", "query/guard.py", "query/dialect.py", "query/extension.py"},
    "uvicorn": {"app.py"},
    "click": {"cli.py", "console.py", "tending.py"},
    "prometheus_client": {"telemetry.py"},
    "httpx": {"replay.py", "demo.py"},
    "google": {"ingest/wire.py", "ingest/otlp_json.py", "ingest/answers.py"},
    "orjson": {"ingest/ray_events.py"},
    "fcntl": {"ingest/journal.py", "lake/compactor.py"},
    "rich": {"console.py", "query/table.py"},
    "tomllib": {"config.py", "query/knowledge.py"},
    "sqlite3": {"lake/cache.py"},
}


def name_of(path: Path) -> str:
    """A module's path inside the package."""
    return path.relative_to(SOURCE).as_posix()


def room_of(module: str) -> str:
    """The room, or the module itself at the top level."""
    return module.split("/")[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downward_only(path: Path) -> None:
    """No module imports from a room of its own rank or above; ingest and query never meet."""
    room = room_of(name_of(path))
    for imported in imports(path):
        parts = imported.split(".")
        if parts[0] != "rayotel":
            continue
        other = parts[1] if len(parts) > 1 and parts[1] in RANKS else "__init__"
        assert other == room or RANKS[other] < RANKS[room], f"{room} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_foreign_library_has_its_owner(path: Path) -> None:
    """A library is used where it is at home, so that one place translates its errors."""
    for imported in imports(path):
        owners = OWNERS.get(imported.split(".")[0])
        assert owners is None or name_of(path) in owners, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_config_reads_the_environment(path: Path) -> None:
    """Settings have one source; the demo alone passes an environment on to its server."""
    used = "os.environ" in path.read_text("utf-8")
    assert not used or name_of(path) in {"config.py", "demo.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_and_modules_stay_readable(path: Path) -> None:
    """A function fits a screen, a module an afternoon."""
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_things_are_described(path: Path) -> None:
    """Every module, public class, function and method says what it is for."""
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "the module"
    scopes: list[ast.Module | ast.ClassDef] = [tree]
    scopes += [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for scope in scopes:
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                described = node.name.startswith("_") or ast.get_docstring(node)
                assert described, node.name


def test_no_grab_bags() -> None:
    """No module is named for having no purpose."""
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_type_ignores_name_their_code() -> None:
    """A type check is switched off for one named reason at a time."""
    for path in [*MODULES, *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for line in path.read_text("utf-8").splitlines():
            assert not re.search(r"#\s*type: ignore(?!\[)", line), f"{path.name}: {line.strip()}"


def test_the_map_of_ranks_is_complete() -> None:
    """A new room or door must take its place in the order."""
    assert {room_of(name_of(path)) for path in MODULES} == set(RANKS)
