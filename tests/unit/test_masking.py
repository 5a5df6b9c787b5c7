"""What a server repeats of a secret is masked, however it writes it."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from html import escape
from urllib.parse import quote, quote_plus

from hypothesis import given, strategies as st

from qsessions.masking import mask
from tests.support.tables import table


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


WRITTEN: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent-encoded": lambda secret: quote(secret, safe=""),
    "percent-encoded but for slashes": quote,
    "percent-encoded in small letters": lambda secret: (
        quote(secret, safe="").lower() if secret.lower() == secret else quote(secret, safe="")
    ),
    "a form": quote_plus,
    "HTML": escape,
    "HTML by numbers": lambda secret: "".join(
        c if c.isalnum() and c.isascii() else f"&#{ord(c)};" for c in secret
    ),
    "repr": lambda secret: repr(secret)[1:-1],
    "repr of bytes": lambda secret: repr(secret.encode())[2:-1],
    "repr of a repr": lambda secret: repr(repr(secret)[1:-1])[1:-1],
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "base64": lambda secret: _base64(secret).rstrip("="),
    "base64 for URLs": lambda secret: urlsafe_b64encode(secret.encode()).decode().rstrip("="),
    "base64 in a URL": lambda secret: quote(_base64(secret).rstrip("="), safe=""),
}
TELLING = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=8)


@given(TELLING)
def test_any_form(secret: str) -> None:
    """Of a secret in any form no more is left than what its last byte shares with what follows it."""
    for form, write in WRITTEN.items():
        masked = mask(f"<{write(secret)}>", [secret])
        assert masked.startswith("<***"), form
        assert masked.endswith(">"), form
        assert len(masked) <= len("<***>") + 2, form


@table("before", ["", "x", "xy"])
def test_base64_of_something_around_a_secret(before: str) -> None:
    """A secret is found in the base64 of something that it stands in, as a password in basic
    authentication.
    """
    masked = mask(_base64(f"{before}pass/word?and~more>x"), ["pass/word?and~more>"])
    assert masked.count("***") == 1
    assert len(masked) <= len("***") + 7


@given(TELLING, st.booleans())
def test_any_mask(secret: str, scheme: bool) -> None:
    """Wherever a secret stands, with its scheme or without, nothing of it is left."""
    value = f"Bearer {secret}" if scheme else secret
    assert mask(f"{secret} {value}  {secret}", [value]) == "*** ***  ***"


@table(
    ("value", "text", "masked"),
    [
        ("short", "short", "short"),
        ("Bearer short", "Bearer short", "Bearer short"),
        ("correct horse battery staple", "horse battery staple!", "***!"),
        ("Token planted-token", "Token planted-token", "***"),
        ("planted-token x", "planted-token", "***"),
        ("planted-token", "plante", "plante"),
        ("planted-token", "planted-…", "***…"),
        ("planted-token", r"planted\x2dtok…", "***…"),
    ],
)
def test_mask(value: str, text: str, masked: str) -> None:
    """What is secret in a value are its long words and all that follows the first; eight characters
    of it are enough to tell.
    """
    assert mask(text, [value]) == masked
