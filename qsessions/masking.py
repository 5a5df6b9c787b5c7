"""Replaces secrets in text from elsewhere: plain or encoded, whole or cut."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import cache

# How many characters of a secret give it away: text that was cut may hold no more of it. What is
# shorter as a whole is masked nowhere, since it would be found everywhere.
_TELLING = 8
_LETTERS_AND_DIGITS = re.compile("[0-9A-Za-z]+")


def mask(text: str, values: Iterable[str]) -> str:
    """Return `text` with every secret in it replaced by ***.

    Args:
        text: What may repeat secrets: plain, percent-encoded, as HTML, with backslashes as in a
            repr or JSON, or as base64.
        values: Secrets, or headers' values such as "Bearer x", whose first word isn't secret.
    """
    schemes = {secret: scheme for value in values for secret, scheme in _secrets(value)}
    forms = [
        (scheme, form)
        for secret, scheme in schemes.items()
        for form in _forms(secret)
        # As a rule this is the end of it: these are written in one way only.
        if all(run in text for run in _LETTERS_AND_DIGITS.findall(form[:_TELLING]))
    ]
    if not forms:
        return text
    beginning = re.compile(
        "|".join(f"(?:{_pattern(scheme)})?({_pattern(form[:_TELLING])})" for scheme, form in forms)
    )
    position = 0
    while match := beginning.search(text, position):
        begin = match.start(match.lastindex or 0)
        end = max(_end(text, begin, form) for _, form in forms)
        text = f"{text[: match.start()]}***{text[end:]}"
        position = match.start() + 3
    return text


def _secrets(value: str) -> Iterator[tuple[str, str]]:
    """Yield the secrets in a value, each with the scheme that may precede it.

    They are each long word, and all that follows the first word.
    """
    scheme, space, rest = value.partition(" ")
    for secret, before in (*((word, "") for word in value.split(" ")), (rest, scheme + space)):
        if len(secret) >= _TELLING:
            yield secret, before


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, and as base64 of itself or of a text that contains it."""
    yield secret
    raw = secret.encode(errors="replace")
    for before, first in ((0, 0), (1, 2), (2, 3)):
        # Only the characters that no neighbour has a part in.
        encoded = b64encode(bytes(before) + raw).decode()[first : (before + len(raw)) * 4 // 3]
        yield encoded
        yield encoded.translate({ord("+"): "-", ord("/"): "_"})


def _end(text: str, begin: int, form: str) -> int:
    """Return the end of what matches a secret in `text` from `begin` on, in any encoding."""
    ends = {begin}
    for character in form:
        further = {
            match.end() for way in _ways(character) for at in ends if (match := way.match(text, at))
        }
        if not further:
            break
        ends = further
    return max(ends)


def _pattern(text: str) -> str:
    return "".join(f"(?:{'|'.join(way.pattern for way in _ways(char))})" for char in text)


@cache
def _ways(character: str) -> tuple[re.Pattern[str], ...]:
    """Return patterns for the ways in which a character can be written."""
    plain = re.escape(character)
    if character.isascii() and character.isalnum():
        return (re.compile(plain),)
    # A table that takes two milliseconds, once, where a server's text is searched for a secret.
    from html.entities import html5

    code, raw = ord(character), character.encode(errors="replace")
    units = character.encode("utf-16-be", errors="replace").hex()
    numbers = [
        "".join(rf"\\{{1,4}}u{units[at : at + 4]}" for at in range(0, len(units), 4)),
        rf"\\{{1,4}}U{code:08x}",
        rf"\\{{1,4}}x{code:02x}",
        f"&#0{{0,6}}{code};?",
        f"&#x0{{0,6}}{code:x};?",
        *("".join(f"{sign}{byte:02x}" for byte in raw) for sign in ("%", r"\\{1,4}x")),
    ]
    ways = [f"(?i:{way})" for way in numbers]
    # Each level of a repr or of JSON doubles backslashes.
    ways += [plain, plain * 2, plain * 4] if character == "\\" else [rf"\\{{0,4}}{plain}"]
    ways += [f"&{name}" for name, text in html5.items() if text == character and name[-1] == ";"]
    if character == " ":
        ways.append(r"\+")
    return tuple(map(re.compile, ways))
