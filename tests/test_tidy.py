"""The source's own law: who may import whom, who owns which library, how long things may get."""

from __future__ import annotations

import ast
import contextlib
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rayotel"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 500

# Rooms from the lowest to the highest: a module imports from its own room and from lower lines, so
# rooms of one line never meet. A name without a room is a module at the top.
ORDER: tuple[tuple[str, ...], ...] = (
    ("__init__", "errors", "model", "durable", "shipped"),
    ("config", "logs"),
    ("lake/storage",),
    ("lake",),
    ("lake/rows", "lake/merge", "telemetry", "replay"),
    ("lake/upkeep", "http"),
    ("ingest/decode/limits", "query/ray", "query/output", "query/process", "query/sql"),
    ("ingest/decode/otlp", "query"),
    ("ingest/decode/otlp/fast",),
    ("ingest/decode", "ingest/wal"),
    ("ingest/commit", "ingest/receive"),
    ("ingest",),
    ("web",),
    ("server", "demo"),
    ("cli",),
    ("__main__",),
)
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
# what may never meet, whatever their ranks
STRANGERS = (("ingest", "query"),)
MAX_FILES_IN_A_ROOM = 12
OWNERS = {
    "boto3": {"lake/storage/s3.py"},
    "botocore": {"lake/storage/s3.py"},
    "duckdb": {
        "query/session.py", "query/translate.py", "query/httpfs.py",
        "query/sql/guard.py", "query/sql/dialect.py",
        "query/sql/syntax.py", "query/sql/mentions.py",
    },
    "uvloop": {"server.py"},
    "resource": {"http/descriptors.py", "query/process/limits.py", "lake/merge/process.py"},
    "ssl": {"http/certificate.py"},
    "click": {"cli/"},
    "prometheus_client": {"telemetry.py"},
    "httpx": {"replay.py", "demo.py"},
    "google": {
        "ingest/decode/otlp/messages.py", "ingest/decode/otlp/json.py", "http/errors.py",
    },
    "orjson": {"ingest/decode/events.py"},
    "fcntl": {
        "ingest/wal/journal.py", "lake/upkeep/alone.py", "lake/storage/directory.py",
        "query/process/supervision.py",
    },
    "rich": {"cli/options.py", "query/output/table.py"},
    "tomllib": {"config/sources.py", "query/ray/metric_facts.py"},
    "sqlite3": {"lake/cache.py"},
}  # fmt: skip


def name_of(path: Path) -> str:
    """A module's path inside the package."""
    return path.relative_to(SOURCE).as_posix()


def room_of(module: str) -> str:
    """The room of a module, with slashes between rooms; a module at the top is its own."""
    return module.rpartition("/")[0] or module.removesuffix(".py")


def imported_room(dotted: str) -> str:
    """The room of what an import names, which may be a module or something in it."""
    names = dotted.split(".")[1:]
    while names and not SOURCE.joinpath(*names).with_suffix(".py").is_file():
        names.pop()
    return room_of("/".join(names)) if names else "__init__"


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downward_only(path: Path) -> None:
    """No module imports from a room of its own rank or above, sub-rooms included."""
    room = room_of(name_of(path))
    for imported in imports(path):
        if imported.split(".")[0] == "rayotel":
            other = imported_room(imported)
            assert other == room or RANKS[other] < RANKS[room], f"{room} imports {imported}"
            for pair in STRANGERS:
                assert {room.split("/")[0], other.split("/")[0]} != set(pair), imported


def test_no_import_goes_in_a_circle() -> None:
    """Modules of one room import each other in one direction too."""
    names = {name_of(path).removesuffix(".py").replace("/", "."): path for path in MODULES}
    known = {f"rayotel.{name}": path for name, path in names.items()}
    edges = {
        module: {
            next((k for k in (one, one.rpartition(".")[0]) if k in known), module)
            for one in imports(path)
        }
        - {module}
        for module, path in known.items()
    }
    while leaves := {module for module, targets in edges.items() if not targets}:
        edges = {m: targets - leaves for m, targets in edges.items() if m not in leaves}
    assert not edges, "these import each other, or import those that do"


def test_no_room_is_crowded() -> None:
    """A newcomer sees a room's files at a glance."""
    rooms = Counter(room_of(name_of(path)) for path in MODULES if path.name != "__init__.py")
    assert {room: n for room, n in rooms.items() if n > MAX_FILES_IN_A_ROOM} == {}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_foreign_library_has_its_owner(path: Path) -> None:
    """A library is used where it is at home, so that one place translates its errors."""
    for imported in imports(path):
        owners = OWNERS.get(imported.split(".")[0])
        is_at_home = owners is None or any(name_of(path).startswith(one) for one in owners)
        assert is_at_home, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_config_reads_the_environment(path: Path) -> None:
    """Settings have one source; the demo alone passes an environment on to its server."""
    used = "os.environ" in path.read_text("utf-8")
    assert not used or name_of(path) in {"config/sources.py", "demo.py"}


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
    for path in [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for line in path.read_text("utf-8").splitlines():
            assert not re.search(r"#\s*type: ignore(?!\[)", line), f"{path.name}: {line.strip()}"


def test_the_map_of_ranks_is_complete() -> None:
    """A new room or door must take its place in the order."""
    assert {room_of(name_of(path)) for path in MODULES} == set(RANKS)


# -- the tests themselves --------------------------------------------------------------------------

TESTS = ROOT / "tests"
NO_ROOMS = {"support", "recordings", "system"}
TEST_MODULES = sorted(TESTS.rglob("test_*.py"))


def test_tests_mirror_the_rooms() -> None:
    """A test is found where its subject is; support, recordings and system are no rooms."""
    assert TEST_MODULES
    directories = {path.relative_to(TESTS).parent.as_posix() for path in TEST_MODULES} - {"."}
    rooms = {path.relative_to(SOURCE).parent.as_posix() for path in MODULES}
    assert {one for one in directories if one.split("/")[0] not in NO_ROOMS} <= rooms
    assert not list((TESTS / "support").rglob("test_*.py"))


def test_no_test_module_imports_another() -> None:
    """What tests share is in tests/support; equal names would hide each other from mypy."""
    names = [path.stem for path in TEST_MODULES]
    assert len(names) == len(set(names))
    for path in [*TESTS.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for imported in imports(path):
            assert not re.search(r"(^|\.)test_|^conftest\b", imported), f"{path.name}: {imported}"


def test_every_expected_failure_names_its_document() -> None:
    """A known defect is strict, and a document tells users of it."""
    texts = {path.name: path.read_text("utf-8") for path in TEST_MODULES}
    marks = [
        (name, mark)
        for name, text in texts.items()
        for mark in re.findall(r"mark\.xfail\((.*?)\)\n", text, re.DOTALL)
    ]
    assert marks
    for name, mark in marks:
        found = re.search(r'reason="(docs/[a-z-]+\.md), ([a-z ]+): ([a-z ]+)"', mark)
        assert found, f"{name}: {mark}"
        assert "strict=True" in mark, f"{name}: {mark}"
        section = (
            (ROOT / found[1]).read_text("utf-8").partition(f"\n## {found[2].capitalize()}\n")[2]
        )
        assert f"- **{found[3].capitalize()}.**" in section, f"{name}: {mark}"


@pytest.mark.system  # so that the guard of fast tests is not around it
def test_a_fast_test_starts_no_process() -> None:
    """Whoever starts one without the mark `system` is stopped, also where errors are hushed up."""
    with pytest.raises(processes.ProcessStarted, match="true"), processes.forbidden():
        subprocess.run(["true"], check=True)
    with (
        pytest.raises(processes.ProcessStarted, match="true"),
        processes.forbidden(),
        contextlib.suppress(Exception),
    ):
        subprocess.run(["true"], check=True)
