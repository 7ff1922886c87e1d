"""Decoding every image once, in parallel, and remembering the outcome by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from rich.console import Console
from rich.progress import track

from dlrecipes.data.audit.near_duplicates import fingerprint
from dlrecipes.data.loading.decode import decode_image
from dlrecipes.errors import UserError

__all__ = ["ImageFacts", "cache_folder", "probe_images"]

# Raise when what is stored, or how an image is decoded, changes: older caches are then ignored.
_VERSION = 2


@dataclass(frozen=True)
class ImageFacts:
    """What decoding an image file showed.

    Attributes:
        width, height: pixels as stored; 0 if it could not be decoded.
        digest: hash of the decoded pixels, so that a copy with other metadata is still a copy.
        orientation: EXIF orientation, 1 if none.
        error: empty, or why there are no pixels.
        missing: there is no such file.
        fingerprint: by which near copies are found; 0 if none.
    """

    width: int = 0
    height: int = 0
    digest: str = ""
    orientation: int = 1
    error: str = ""
    missing: bool = False
    fingerprint: int = 0

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the picture turned upright, as its EXIF orientation says."""
        return (self.height, self.width) if self.orientation in range(5, 9) else (self.width, self.height)


def cache_folder() -> Path:
    """``$DLRECIPES_CACHE``, otherwise ``~/.cache/dlrecipes``; not created here."""
    given = os.environ.get("DLRECIPES_CACHE")
    return Path(given).expanduser() if given else Path(os.path.expanduser("~")) / ".cache" / "dlrecipes"


def probe_images(
    paths: Sequence[str], root: str, *, workers: int | None = None, show_progress: bool = True
) -> dict[str, ImageFacts]:
    """Decode each image completely, or recall it from the last time if its size and time of change are the same.

    Failures are not remembered. A cache that cannot be read or written costs time, never an error.

    Args:
        paths: image files; repeated ones are decoded once.
        root: data set folder; one cache file is kept for each.
        workers: threads (decoding releases the interpreter lock); the machine's cores, at most 16, if None.
        show_progress: a bar on stderr, if that is a terminal.

    Returns:
        Facts by path.
    """
    cache_file = cache_folder() / "audit" / f"{hashlib.sha256(os.fsencode(Path(root).resolve())).hexdigest()[:24]}.json"
    remembered = _load(cache_file)
    unique = list(dict.fromkeys(paths))
    stamps = {path: _stamp(path) for path in unique}
    facts = {p: remembered[p][1] for p in unique if p in remembered and remembered[p][0] == stamps[p]}
    fresh = [p for p in unique if p not in facts]
    console = Console(stderr=True)
    with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        decoded = track(
            pool.map(_probe, fresh),
            description="Checking images",
            total=len(fresh),
            console=console,
            transient=True,
            disable=not (show_progress and fresh and console.is_terminal),
        )
        facts.update(zip(fresh, decoded, strict=True))
    if fresh:
        _store(cache_file, {p: (stamps[p], f) for p, f in facts.items() if not f.error})
    return {path: facts[path] for path in unique}


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def _probe(path: str) -> ImageFacts:
    if not os.path.isfile(path):
        return ImageFacts(error="no such file", missing=True)
    try:
        pixels, orientation = decode_image(path)
    except UserError as error:
        return ImageFacts(error=str(error))
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(pixels.data, digest_size=16, person=f"{width}x{height}".encode()[:16]).hexdigest()
    return ImageFacts(width, height, digest, orientation, fingerprint=fingerprint(pixels))


def _load(file: Path) -> dict[str, tuple[tuple[int, int], ImageFacts]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            return {}
        return {path: ((size, time), ImageFacts(*values)) for path, (size, time, *values) in content["images"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _store(file: Path, entries: dict[str, tuple[tuple[int, int], ImageFacts]]) -> None:
    content = {"version": _VERSION, "images": {p: [*stamp, *astuple(f)] for p, (stamp, f) in entries.items()}}
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place: ranks of one run may write at the same time.
        with NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", delete=False, encoding="utf-8") as handle:
            temporary = handle.name
            json.dump(content, handle)
        os.replace(temporary, file)
    except (OSError, UnicodeEncodeError):
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
