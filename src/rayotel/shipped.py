"""Files that come with rayotel and are no Python: in the installed package, or in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent.parent
# where a checkout has what lies elsewhere in the wheel; see pyproject.toml
_IN_CHECKOUT = {"recordings": "tests/recordings"}


def shipped_directory(name: str) -> Path:
    """A directory by its name in the wheel, such as `queries` or `recordings/cluster`."""
    installed = _PACKAGE / "_shipped"
    if installed.is_dir():
        return installed / name
    top, _, rest = name.partition("/")
    return _CHECKOUT / _IN_CHECKOUT.get(top, top) / rest
