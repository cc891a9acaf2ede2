"""Where settings come from, highest first: command-line flags, `RAYOTEL_<NAME>` environment
variables, `rayotel.toml` (in the working directory, or where `RAYOTEL_CONFIG` points), defaults.

Only this module reads the environment. Credentials for S3 come the usual AWS way and are read by
boto3. Values never appear in an error: one of them may be a password put in the wrong place.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rayotel.config import memory
from rayotel.config.settings import Settings
from rayotel.errors import UsageError

CONFIG_FILE = "rayotel.toml"
_ABOUT: dict[str, Mapping[str, Any]] = {item.name: item.metadata for item in fields(Settings)}
# a text with blanks between its members, or, in the file, a list
_LISTS = frozenset({"drop_metrics", "drop_labels"})
_DEFAULTS = {name: about["default"] for name, about in _ABOUT.items()}
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from flags (those that are not None), the environment and `rayotel.toml`."""
    given = {**_from_others(), **_from_file(), **_from_environment()}
    given.update({name: value for name, value in (flags or {}).items() if value is not None})
    plain = {name: _value(name, raw) for name, raw in given.items()}
    if "memory_bytes" in plain:
        plain = {**memory.shares(plain["memory_bytes"], _DEFAULTS), **plain}
    return Settings(**plain)


def _from_others() -> dict[str, Any]:
    """Defaults that come from what other programs are told."""
    values = {"s3_region": os.environ.get("AWS_REGION", "")}
    if caches := os.environ.get("XDG_CACHE_HOME"):
        values["cache_dir"] = str(Path(caches) / "rayotel")
    return values


def _from_environment() -> dict[str, Any]:
    given = {name: os.environ.get(f"RAYOTEL_{name.upper()}") for name in _ABOUT}
    # an empty variable means "not set": compose files pass on what the user left out that way
    return {name: value for name, value in given.items() if value}


def _from_file() -> dict[str, Any]:
    named = os.environ.get("RAYOTEL_CONFIG")
    path = Path(named or CONFIG_FILE)
    if not named and not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is not TOML: {error}") from None
    unknown = sorted(set(content) - set(_ABOUT))
    if unknown:
        raise UsageError(
            f"'{path}' has no setting '{unknown[0]}'", hint="see 'rayotel serve --help' for all"
        )
    return content


def _value(name: str, raw: Any) -> Any:
    """A setting's value, from what a file, a variable or a flag holds."""
    kind = type(_ABOUT[name]["default"])
    if name in _LISTS and isinstance(raw, list):
        if not all(isinstance(member, str) and member.strip() for member in raw):
            raise UsageError(f"setting '{name}' is a list with something else than patterns in it")
        raw = " ".join(raw)
    try:
        plain = _PLAIN[kind](raw)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UsageError(f"setting '{name}' is not a valid {_WORDS[kind]}") from None
    parse: Callable[[str, str], Any] | None = _ABOUT[name]["parse"]
    # an empty text is the default, as an empty variable is
    return plain if parse is None else parse(name, plain or _ABOUT[name]["default"])


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise TypeError
    return raw


def _whole(raw: Any) -> int:
    if isinstance(raw, bool | float):
        raise TypeError
    return int(raw)


def _number(raw: Any) -> float:
    if isinstance(raw, bool):
        raise TypeError
    return float(raw)


def _truth(raw: Any) -> bool:
    return raw if isinstance(raw, bool) else _TRUTHS[_text(raw).strip().lower()]


_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: _whole, float: _number, bool: _truth, str: _text,
}  # fmt: skip
_WORDS: dict[type, str] = {
    int: "whole number", float: "number", bool: "true or false", str: "text",
}  # fmt: skip
