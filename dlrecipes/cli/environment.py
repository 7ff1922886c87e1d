"""What a command sets up in its process: a user's modules can be imported, an output without a reader is left alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from dlrecipes.errors import UserError
from dlrecipes.functional.words import visible

__all__ = ["flush_output", "import_from_here", "reader_is_gone", "refuse_bytes"]


def import_from_here() -> None:
    """Make the current folder importable. Last in the search, so that a file there cannot hide a package."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


def refuse_bytes(argv: Sequence[str]) -> None:
    """Paths that are no text cannot be kept in a run's settings.

    Raises:
        UserError: an argument has bytes that are no UTF-8.
    """
    for word in argv:
        if any("\udc80" <= letter <= "\udcff" for letter in word):
            raise UserError(
                f"{visible(word)}: this name has bytes that are no UTF-8 text, shown as \\x..; rename it, for example "
                "by `convmv -f latin1 -t utf8 --notest`, or give a link to it that has another name."
            )


def flush_output() -> None:
    """Now, where a ``BrokenPipeError`` can still be caught, and not when Python ends."""
    if sys.stdout is not None:  # closed by the shell
        sys.stdout.flush()


def reader_is_gone(remedy: str = "") -> int:
    """After a ``BrokenPipeError``, as behind ``| head``: say so on stderr, and let Python's own last flush be silent.

    Returns:
        141, the exit code of a process that SIGPIPE ended.
    """
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with contextlib.suppress(OSError):  # stderr may be the same pipe
        print(f"error: stopped, since nobody reads the output any more; {remedy}".rstrip("; "), file=sys.stderr)
    return 141
