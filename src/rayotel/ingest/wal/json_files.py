"""Small files of the WAL's directory that hold JSON: replaced as a whole, and durable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rayotel import durable
from rayotel.errors import WalError

Kept = TypeVar("Kept")


def keep(path: Path, content: object) -> None:
    """Give a file new content. Raises WalError."""
    try:
        durable.replace_file(path, json.dumps(content, indent=0, sort_keys=True).encode())
    except OSError as error:
        raise WalError(f"cannot write '{path}': {error.strerror or error}") from None


def kept(path: Path, parse: Callable[[Any], Kept], *, hint: str) -> Kept | None:
    """What `parse` makes of a file's content; None where there is no file.

    Raises WalError where it cannot be read, or `parse` finds something else than it expects.
    """
    try:
        return parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise WalError(f"'{path}' cannot be read", hint=hint) from None
