"""Settings from file, environment and flags; what is refused, and how a server refuses to start."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from support.command import rayotel
from support.harness import Server, free_port, rayotel_process

SECRET = "hunter2-SWORDFISH"


def lake_of(directory: Path, *flags: str, **env: str) -> str:
    """Where `rayotel streams`, run in a directory, looked for the lake."""
    done = rayotel("streams", *flags, env={"RAYOTEL_CONFIG": "", **env}, cwd=directory)
    assert done.returncode == 0, done.stderr
    return done.stderr.split("'")[1]


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """Defaults, then rayotel.toml of the working directory, then RAYOTEL_*, then flags."""
    base = str(tmp_path)
    assert lake_of(tmp_path) == f"{base}/rayotel-data/lake"
    (tmp_path / "rayotel.toml").write_text('data_dir = "of-the-file"\n')
    assert lake_of(tmp_path) == f"{base}/of-the-file/lake"
    env = {"RAYOTEL_DATA_DIR": "of-the-environment"}
    assert lake_of(tmp_path, **env) == f"{base}/of-the-environment/lake"
    assert lake_of(tmp_path, "--data-dir", "of-the-flag", **env) == f"{base}/of-the-flag/lake"


def test_a_storage_wins_over_the_data_directory(tmp_path: Path) -> None:
    """`storage` names the lake itself, wherever each of the two comes from."""
    (tmp_path / "rayotel.toml").write_text('storage = "the-lake"\n')
    assert lake_of(tmp_path, "--data-dir", "data") == f"{tmp_path}/the-lake"
    assert lake_of(tmp_path, "--storage", "other", "--data-dir", "data") == f"{tmp_path}/other"


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    """Compose files pass on what the user left out as an empty text."""
    (tmp_path / "rayotel.toml").write_text('data_dir = "of-the-file"\n')
    assert lake_of(tmp_path, RAYOTEL_DATA_DIR="").endswith("/of-the-file/lake")


def test_a_file_elsewhere_is_named_by_a_variable(tmp_path: Path) -> None:
    """RAYOTEL_CONFIG takes the place of the file in the working directory."""
    (tmp_path / "rayotel.toml").write_text('data_dir = "here"\n')
    (tmp_path / "other.toml").write_text('data_dir = "there"\n')
    assert lake_of(tmp_path, RAYOTEL_CONFIG="other.toml").endswith("/there/lake")


def refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """The command failed with the code, these words and no secret."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    for word in words:
        assert word in done.stderr


FILES = {
    "an unknown setting": (f'pasword = "{SECRET}"', "'pasword'"),
    "a wrong type": (f'port = "{SECRET}"', "'port'"),
    "no TOML": (f'password = "{SECRET}', "not TOML"),
    "a truth for a number": ("port = true", "'port'"),
    "a text for a truth": (f'insecure = "{SECRET}"', "'insecure'"),
    "a list for a number": (f'query_threads = ["{SECRET}"]', "'query_threads'"),
    "a table for a text": (f'[storage]\npath = "{SECRET}"', "'storage'"),
    "a list for a text": (f'password = ["{SECRET}"]\nusername = "u"', "'password'"),
    "a fraction for a whole number": ("port = 80.5", "'port'"),
}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        *(pytest.param(*one, id=name) for name, one in FILES.items()),
    ],
)
def test_a_wrong_file_is_refused_without_its_values(
    content: str, word: str, tmp_path: Path
) -> None:
    """The error names the setting; a value may be a password put in the wrong place."""
    (tmp_path / "rayotel.toml").write_text(content)
    env = {"RAYOTEL_CONFIG": str(tmp_path / "rayotel.toml"), "RAYOTEL_DATA_DIR": str(tmp_path)}
    refused(rayotel("streams", env=env), word)


def test_a_file_that_is_not_there_is_refused() -> None:
    """A file that was named must exist."""
    refused(rayotel("streams", env={"RAYOTEL_CONFIG": "/nowhere.toml"}), "/nowhere.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", SECRET),
        ("PORT", "70000"),
        ("INSECURE", SECRET),
        ("COMMIT_INTERVAL_SECONDS", SECRET),
        ("COMMIT_INTERVAL_SECONDS", "nan"),
        ("COMMIT_INTERVAL_SECONDS", "0"),
        ("QUERY_MEMORY_BYTES", "-1"),
        ("STORAGE", f"{SECRET}://b"),
        ("STORAGE", f"s3://{SECRET}?x"),
        ("USERNAME", SECRET),
        ("PASSWORD", SECRET),
        ("WAL_SEGMENT_BYTES", "999999999999999"),
        ("HOST", SECRET),
    ],
)
def test_a_wrong_variable_is_refused_without_its_value(
    name: str, value: str, tmp_path: Path
) -> None:
    """A setting that cannot be used is named, before anything starts; its value is not."""
    base = {"RAYOTEL_DATA_DIR": str(tmp_path / "data"), "RAYOTEL_PORT": str(free_port())}
    env = {**base, f"RAYOTEL_{name}": value}
    refused(rayotel_process("serve", env=env), f"'{name.lower()}'" if name != "HOST" else "host")
    assert not (tmp_path / "data").exists()


def test_a_wrong_flag_is_refused(tmp_path: Path) -> None:
    """As a wrong variable is."""
    flags = ("--port", "65536", "--data-dir", str(tmp_path / "data"))
    refused(rayotel_process("serve", *flags), "'port'")
    assert not (tmp_path / "data").exists()


def test_a_user_with_a_colon_is_refused(tmp_path: Path) -> None:
    """HTTP Basic cannot carry it."""
    env = {"RAYOTEL_USERNAME": "a:b", "RAYOTEL_PASSWORD": SECRET}
    refused(
        rayotel_process("serve", "--port", "0", "--data-dir", str(tmp_path), env=env), "'username'"
    )


# -- a server that does not start -----------------------------------------------------------------


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """Exit code 1: somebody else may leave. The hint names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = rayotel_process("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
    refused(done, f"port {port}", "in use", "--port", code=1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_nobody_listens_to_the_world_without_credentials(tmp_path: Path, host: str) -> None:
    """Beyond loopback anybody could write: exit code 2 and both ways out."""
    done = rayotel_process("serve", "--host", host, "--port", "0", "--data-dir", str(tmp_path))
    refused(done, "without credentials", "RAYOTEL_PASSWORD", "--insecure")


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (("--insecure",), {}),
        ((), {"RAYOTEL_USERNAME": "u", "RAYOTEL_PASSWORD": SECRET}),
        ((), {"RAYOTEL_INSECURE": "yes"}),
    ],
)
def test_a_server_listens_to_the_world_when_told(
    tmp_path: Path, flags: tuple[str, ...], env: dict[str, str]
) -> None:
    """With credentials, or by --insecure."""
    with Server(tmp_path / "data", "--host", "0.0.0.0", *flags, env=env) as server:
        assert SECRET not in server.log()
        assert server.stop() == 0


def test_two_servers_do_not_share_a_data_directory(server: Server) -> None:
    """The second says so and ends with 1; the first goes on."""
    second = ("serve", "--port", str(free_port()), "--data-dir", str(server.data_dir))
    refused(rayotel_process(*second), str(server.data_dir), "another", code=1)
    assert server.get("/api/v1/readiness").status_code == 200


def test_a_data_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file in its place: words, not a traceback."""
    (tmp_path / "file").write_text("x")
    place = str(tmp_path / "file" / "data")
    done = rayotel_process("serve", "--port", str(free_port()), "--data-dir", place)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert place in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
