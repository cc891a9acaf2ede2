"""The shipped questions, asked of a lake."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest

from rayotel.lake.storage.interface import Storage
from rayotel.model import TimeRange
from rayotel.query.ray import questions
from rayotel.query.session import Session
from support.harness import LIMITS

QUESTIONS = {one.name: one for one in questions.all_queries()}
every_question = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
Rows = list[dict[str, Any]]


_answers: dict[Hashable, tuple[list[str], Rows]] = {}


def asked(storage: Storage, name: str, **parameters: str) -> Rows:
    """The rows of a shipped question."""
    _, rows = _answer(storage, name, parameters)
    return [dict(row) for row in rows]


def columns(storage: Storage, name: str) -> list[str]:
    """The columns of its answer, also where it has no rows."""
    names, _ = _answer(storage, name, {})
    return list(names)


def _answer(storage: Storage, name: str, parameters: dict[str, str]) -> tuple[list[str], Rows]:
    """Columns and rows; kept, because as long as a lake holds the same, its answer is the same."""
    objects = tuple((one.key, one.size_bytes, one.written_unix) for one in storage.objects(""))
    key = (storage.url, objects, name, tuple(parameters.items()))
    if key not in _answers:
        question = QUESTIONS[name]
        with Session(storage, TimeRange(), LIMITS, mentioned_in=question.sql) as session:
            result = session.run(question.sql, question.bind(parameters))
            _answers[key] = result.schema.names, result.rows()
    return _answers[key]
