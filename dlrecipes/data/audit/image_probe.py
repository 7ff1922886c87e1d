"""Decoding every image of a data set once, wherever it lies, and remembering the outcome by name, size and time.

`probe_images` does this for detection, whose annotations name files. Here a million images must be light: what is known
about one takes 34 bytes, and looking all of them up is one binary search in a sorted array.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from dlrecipes.data.audit.near_duplicates import fingerprint
from dlrecipes.data.audit.probe import cache_folder
from dlrecipes.data.formats.image_files import decode_at
from dlrecipes.data.formats.image_source import ImageFiles
from dlrecipes.errors import UserError

__all__ = ["MODES", "SourceFacts", "probe_source"]

MODES = (
    *("", "RGB", "L", "1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I"),
    *("I;16", "I;16L", "I;16B", "I;16N"),
)
"""Pillow's names of pixel formats; a fact's ``mode`` is a position in this tuple, 0 for any other."""

# Raise when what is stored, or how an image is decoded, changes: older caches are then ignored.
_VERSION = 3
_FACT = np.dtype(
    [
        *(("key", "<u8"), ("digest", "<u8"), ("fingerprint", "<u8")),
        *(("height", "<i4"), ("width", "<i4"), ("mode", "u1"), ("orientation", "u1")),
    ]
)
_CHUNK = 64  # images a task of a thread: handing over single small ones costs as much as decoding them


@dataclass(frozen=True, eq=False)
class SourceFacts:
    """What decoding showed, one row an image, one split after the other.

    Attributes:
        digest: uint64 [n], hash of the decoded pixels and their shape, so that a copy with other metadata is a copy.
        fingerprint: uint64 [n], by which near copies are found; 0 if none.
        sizes: int64 [n, 2], (height, width); 0 where decoding failed.
        mode: uint8 [n], position in ``MODES``.
        orientation: uint8 [n], EXIF orientation that the image was turned upright from, 1 if none.
        errors: by row, why there are no pixels.
        missing: rows whose file does not exist.
    """

    digest: NDArray[np.uint64]
    fingerprint: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    mode: NDArray[np.uint8]
    orientation: NDArray[np.uint8]
    errors: Mapping[int, str]
    missing: frozenset[int]


def probe_source(
    parts: Sequence[ImageFiles], root: str, *, workers: int | None = None, show_progress: bool = True
) -> SourceFacts:
    """Decode each image completely, or recall it from the last time if its name, size and time are the same.

    Failures are not remembered. A cache that cannot be read or written costs time, never an error.

    Args:
        parts: images of each split.
        root: data set; one cache file is kept for each.
        workers: threads (decoding releases the interpreter lock); the machine's cores, at most 16, if None.
        show_progress: a bar on stderr, if that is a terminal.

    Returns:
        Facts in the order of ``parts``.
    """
    places = [(images, index) for images in parts for index in range(len(images))]
    facts = np.zeros(len(places), dtype=_FACT)
    missing = []
    for row, (images, index) in enumerate(places):
        stamp = images.stamp(index)
        facts["key"][row] = _hash(f"{images.name(index)}|{stamp[0]}|{stamp[1]}".encode(errors="surrogateescape"))
        if stamp[0] < 0:
            missing.append(row)
    known_as = str(Path(root).resolve()) if os.path.exists(root) else root  # a torchvision data set is no path
    folder = cache_folder() / "audit"
    cache_file = folder / f"{hashlib.sha256(os.fsencode(known_as)).hexdigest()[:24]}.{_VERSION}.npy"
    fresh = _recall(cache_file, facts)
    errors = _decode_all(places, fresh, facts, workers, show_progress)
    if len(fresh) > len(errors):
        _store(cache_file, np.delete(facts, list(errors)))
    sizes = np.stack([facts["height"], facts["width"]], axis=1).astype(np.int64)
    return SourceFacts(
        digest=facts["digest"],
        fingerprint=facts["fingerprint"],
        sizes=sizes,
        mode=facts["mode"],
        orientation=facts["orientation"],
        errors=errors,
        missing=frozenset(missing) & errors.keys(),
    )


def _decode_all(
    places: Sequence[tuple[ImageFiles, int]],
    rows: NDArray[np.int64],
    facts: NDArray[np.void],
    workers: int | None,
    show_progress: bool,
) -> dict[int, str]:
    """Fill in the facts of some rows; the reasons of those that failed."""
    errors: dict[int, str] = {}

    def decode(chunk: NDArray[np.int64]) -> None:
        for row in chunk.tolist():
            try:
                pixels, orientation, mode = decode_at(*places[row])
            except UserError as error:
                errors[row] = str(error)
                continue
            height, width = pixels.shape[:2]
            digest = _hash(pixels.data, f"{width}x{height}")
            known = MODES.index(mode) if mode in MODES else 0
            turned = orientation if orientation in range(1, 9) else 1  # metadata may hold anything
            facts[row] = (facts["key"][row], digest, fingerprint(pixels), height, width, known, turned)

    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    console = Console(stderr=True)
    # Decoders silence warnings of their own, which is not safe in threads: restore the filters at the end.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        done = track(
            pool.map(decode, chunks),
            description="Checking images",
            total=len(chunks),
            console=console,
            transient=True,
            disable=not (show_progress and chunks and console.is_terminal),
        )
        for _ in done:
            pass
    return errors


def _hash(content: bytes | memoryview, person: str = "") -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=person.encode()[:16]).digest(), "little")


def _recall(file: Path, facts: NDArray[np.void]) -> NDArray[np.int64]:
    """Fill in what is remembered; rows that are not."""
    try:
        with file.open("rb") as handle:
            known = np.lib.format.read_array(handle, allow_pickle=False)
        if known.dtype != _FACT or known.ndim != 1 or not len(known):
            return np.arange(len(facts))
    except (OSError, ValueError, EOFError):
        return np.arange(len(facts))
    at = np.searchsorted(known["key"], facts["key"]).clip(max=len(known) - 1)
    hit = known["key"][at] == facts["key"]
    facts[hit] = known[at[hit]]
    return np.flatnonzero(~hit)


def _store(file: Path, facts: NDArray[np.void]) -> None:
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place: ranks of one run may write at the same time.
        with NamedTemporaryFile("wb", dir=file.parent, suffix=".tmp", delete=False) as handle:
            temporary = handle.name
            np.save(handle, facts[np.argsort(facts["key"])])
        os.replace(temporary, file)
    except OSError:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
