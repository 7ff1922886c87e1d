"""Words that every room needs for its sentences, and how text of strangers is printed."""

from __future__ import annotations

import re
import sys
from html import escape

__all__ = ["counted", "in_markdown", "say", "visible"]

# What moves a cursor, changes colours, breaks a line or turns the direction of reading, and bytes that are no text.
_HIDDEN = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_ANY = re.compile(f"[{_HIDDEN}]")
_MARKDOWN = re.compile(r"([\\`*\[\]|])")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    Args:
        number: 0 or more.
        noun: for one.
        plural: for others; None: with an s.

    >>> counted(1, "image"), counted(2400, "image"), counted(2, "box", "boxes")
    ('1 image', '2,400 images', '2 boxes')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def visible(text: object, *, keep: str = "") -> str:
    """Text of strangers (names of files and classes, a run's own files) as it may be printed: nothing in it acts.

    Control characters, which a terminal obeys, changes of the direction of reading, and the bytes of file names that
    are no text are written as Python would write them.

    Args:
        text: anything with a ``str``.
        keep: characters that stay.

    >>> visible("cat\\x1b[2J.png"), visible("caf\\udce9"), visible("été 🐈")
    ('cat\\\\x1b[2J.png', 'caf\\\\xe9', 'été 🐈')
    """

    def spelled(match: re.Match[str]) -> str:
        code = ord(match[0])
        if match[0] in keep:
            return match[0]
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(match[0])[1:-1]

    return _ANY.sub(spelled, str(text))


def say(*lines: object, error: bool = False) -> None:
    """Print lines in which there may be text of strangers: `visible`, but for line ends and tabs.

    Args:
        lines: each on a line of its own.
        error: to standard error.
    """
    for line in lines:
        print(visible(line, keep="\n\t"), file=sys.stderr if error else sys.stdout, flush=True)


def in_markdown(text: object) -> str:
    """Text of strangers for Markdown: `visible`, and neither HTML nor Markdown to whoever shows it.

    >>> in_markdown("<img src=x>|a_b")
    '&lt;img src=x&gt;\\\\|a_b'
    """
    return _MARKDOWN.sub(r"\\\1", escape(visible(text), quote=False))
