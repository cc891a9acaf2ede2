"""Arrays that grow at their end."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

_FIRST_ROOM = 256
Kind = TypeVar("Kind", bound=np.generic)


class Grown(Generic[Kind]):
    """An array that values are added to. It doubles, so that each is moved few times."""

    def __init__(self, kind: type[Kind]) -> None:
        self._room: npt.NDArray[Kind] = np.empty(_FIRST_ROOM, kind)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def held(self) -> npt.NDArray[Kind]:
        """All values so far: a view, until more are added."""
        return self._room[: self._length]

    def add(self, values: npt.NDArray[Kind]) -> None:
        """Put values behind those that are held."""
        after = self._length + len(values)
        if after > len(self._room):
            room = np.empty(max(after, 2 * len(self._room)), self._room.dtype)
            room[: self._length] = self.held
            self._room = room
        self._room[self._length : after] = values
        self._length = after
