"""Where the benchmarks find their data and keep what they measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.get("DLRECIPES_DATA", ROOT.parent / "shared" / "data"))

Row = dict[str, Any]


def processor() -> str:
    """Its name where the system tells it, else its kind: ``platform.processor()`` is empty on many Linux machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def append_row(file: Path, row: Row) -> None:
    """Each run is kept as soon as it ends; in one write, so that processes do not cut each other's lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")


def newest_rows(file: Path, key: Callable[[Row], Hashable]) -> list[Row]:
    """The runs in the file; of several with the same key the last one."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return list({key(row): row for row in rows}.values())


def write_dated(name: str, content: Mapping[str, Any], folder: Path) -> Path:
    """Write it as ``FOLDER/NAME_YYYY-MM-DD_HHMM.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_{datetime.now(UTC):%Y-%m-%d_%H%M}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    return file
