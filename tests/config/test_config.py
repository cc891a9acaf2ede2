"""Settings as values: what each text means, what is refused by every command, what help shows."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path

import pytest

from rayotel import config
from rayotel.config import Settings, values
from rayotel.errors import UsageError
from rayotel.model import Policy
from support.command import rayotel

SECRET = "hunter2-SWORDFISH"
WRONG = {
    "RETENTION": SECRET,
    "RETENTION_BY_STREAM": f"raylogs {SECRET}",
    "DROP_METRICS": f"{SECRET} **",
    "DROP_LABELS": f"{SECRET}*:inst*",
    "METRICS_STREAM": f"{SECRET}!",
    "EVENTS_STREAM": "raymetrics",
    "STORAGE": f"gs://{SECRET}/prefix",
    "S3_ENDPOINT": f"{SECRET}:9000",
    "S3_REGION": f"{SECRET}!",
    "EVENTS_TOKEN": f"{SECRET}!",
    "LOG_LEVEL": SECRET,
    "LOG_FORMAT": SECRET,
    "PORT": SECRET,
    "CACHE_BYTES": SECRET,
}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without settings; the directory of its rayotel.toml, which is not there."""
    monkeypatch.delenv("RAYOTEL_CONFIG")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_no_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading raises what exits with 2, names the setting and shows no value."""
    monkeypatch.setenv(f"RAYOTEL_{name}", WRONG[name])
    with pytest.raises(UsageError) as raised:
        config.load()
    assert f"'{name.lower()}'" in raised.value.message
    assert SECRET not in f"{raised.value.message}{raised.value.hint}"
    assert raised.value.exit_code == 2


def test_every_command_refuses_a_setting_that_cannot_be_meant() -> None:
    """Also one that it does not need: a typing error shows at once."""
    done = rayotel("streams", env={"RAYOTEL_RETENTION": "abc"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: setting 'retention' ")
    assert "\nhint: " in done.stderr
    assert "abc" not in done.stderr


def test_texts_become_values(loaded: Path) -> None:
    """Paths, patterns, policies: nothing that uses a setting parses it."""
    (loaded / "rayotel.toml").write_text(
        'drop_metrics = ["a_*", "b"]\n'
        'drop_labels = "pid, ray_*:x"\n'
        'retention = "30d 1.5TB"\n'
        'retention_by_stream = "raylogs: 7d; audit:"\n'
        'log_level = "Warning"\n'
        'cache_dir = ""\n'
        'data_dir = "~/data"\n'
    )
    settings = config.load({"storage": "s3://bucket/prefix", "port": 0})
    assert settings.drop_metrics == ("a_*", "b")
    assert settings.drop_labels == ("pid", "ray_*:x")
    assert settings.policies.of("raymetrics") == Policy(30, 1_500_000_000_000)
    assert settings.policies.of("raylogs") == Policy(7)
    assert settings.policies.of("audit") == Policy()
    assert settings.log_level == "warning"
    assert settings.data_dir == Path("~/data").expanduser()
    assert settings.cache_dir == Path("~/.cache/rayotel").expanduser()
    assert settings.storage_url == "s3://bucket/prefix"


def test_defaults_are_values_of_their_texts(loaded: Path) -> None:
    """Nothing set is what Settings are without arguments."""
    assert config.load() == Settings()
    assert Settings().policies.keep_everything
    assert Settings().storage_url == str(Path("rayotel-data") / "lake")


def test_what_others_are_told_is_the_last_resort(
    loaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_REGION and XDG_CACHE_HOME hold where no source of rayotel's own says otherwise."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(loaded / "caches"))
    assert config.load().s3_region == "eu-west-1"
    assert config.load().cache_dir == loaded / "caches" / "rayotel"
    (loaded / "rayotel.toml").write_text('s3_region = "us-west-2"\ncache_dir = "mine"\n')
    assert config.load().s3_region == "us-west-2"
    assert config.load().cache_dir == Path("mine")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("30d", "30d"), ("500MB 7d", "7d 0.5GB"), ("", "for ever"), ("2TB", "2000GB")],
)
def test_a_policy_shows_what_it_keeps(text: str, shown: str) -> None:
    """As a setting could write it."""
    assert str(values.policy("retention", text)) == shown


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:9000", "https://s3.example.com", "http://[::1]:9000/path", ""]
)
def test_an_endpoint_is_a_url(text: str) -> None:
    """With a scheme and a host; a port and a path may follow."""
    assert values.endpoint("s3_endpoint", text) == text


@pytest.mark.parametrize(
    "text",
    ["ftp://host", "http://:9000", "http://h:x", "http://h:0", "http://h?q=1", "http://a b", "h"],
)
def test_anything_else_is_no_endpoint(text: str) -> None:
    """It is said before anything is opened."""
    with pytest.raises(UsageError, match="'s3_endpoint' is not a URL"):
        values.endpoint("s3_endpoint", text)


def test_each_setting_is_described_in_one_section() -> None:
    """Names are those of the fields; the settings of a section stand together."""
    rows = config.descriptions()
    assert [row.name for row in rows] == [item.name for item in dataclasses.fields(Settings)]
    sections = [section for section, _ in itertools.groupby(rows, lambda row: row.section)]
    assert len(sections) == len(set(sections))
    assert all(row.description and row.default for row in rows)


def test_help_shows_every_section() -> None:
    """`rayotel serve --help` has each setting below the title of its section."""
    words = rayotel("serve", "--help").stdout
    for section, rows in itertools.groupby(config.descriptions(), lambda row: row.section):
        block = words.partition(f"\n  {section}:\n")[2].partition("\n\n")[0]
        assert all(f"    {row.name} (default {row.default})" in block for row in rows)


def test_levels_are_those_of_the_logger() -> None:
    """Each level that a setting can name is one that messages have."""
    for level in ("debug", "info", "warning", "error"):
        assert isinstance(logging.getLevelName(level.upper()), int)
