"""Ctrl-C at hundreds of moments of calls with secrets."""

from __future__ import annotations

from tests.support.secrets import seen_when_interrupted


def test_ctrl_c_at_hundreds_of_moments_shows_no_secret() -> None:
    """At each of these moments, no local of our frames shows a secret."""
    assert seen_when_interrupted(300) == []
