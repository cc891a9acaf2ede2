"""How many examples of a property are tried: all of them, or the share that fast tests have."""

from __future__ import annotations

import hypothesis

FAST_SHARE = 5


def load_profiles() -> None:
    """Make `--hypothesis-profile=fast` known; nobody's machine is asked to be quick."""
    whole = hypothesis.settings(deadline=None)
    hypothesis.settings.register_profile("whole", whole)
    few = whole.max_examples // FAST_SHARE
    hypothesis.settings.register_profile("fast", whole, max_examples=few)
    hypothesis.settings.load_profile("whole")


def examples(number: int) -> int:
    """The number, or the share of it."""
    is_fast = hypothesis.settings.get_current_profile_name() == "fast"
    return number // FAST_SHARE if is_fast else number
