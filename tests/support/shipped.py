"""The shipped questions, asked of a lake."""

from __future__ import annotations

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


def asked(storage: Storage, name: str, **parameters: str) -> Rows:
    """The rows of a shipped question."""
    question = QUESTIONS[name]
    with Session(storage, TimeRange(), LIMITS, mentioned_in=question.sql) as session:
        return session.run(question.sql, question.bind(parameters)).rows()


def columns(storage: Storage, name: str) -> list[str]:
    """The columns of its answer, also where it has no rows."""
    question = QUESTIONS[name]
    with Session(storage, TimeRange(), LIMITS, mentioned_in=question.sql) as session:
        names: list[str] = session.run(question.sql, question.bind({})).schema.names
        return names
