"""What a run ran on: command, versions, git commit, host. Enough to run it again."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["gather_provenance", "git_state", "package_versions"]

_PACKAGES = (
    "dlrecipes",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
    "albumentations",
    "numpy",
    "wandb",
    "jsonargparse",
    "faster-coco-eval",
)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result.

    >>> sorted(package_versions())[:2]
    ['albumentations', 'dlrecipes']
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def git_state(folder: str | os.PathLike[str] = ".") -> dict[str, Any] | None:
    """Commit of the repository around ``folder``.

    Returns:
        ``{"commit": 40 hex digits, "dirty": tracked files differ from it}``, or None where there is no git or commit.
    """
    git = shutil.which("git")
    if git is None:
        return None
    commit = _ask(git, folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _ask(git, folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def gather_provenance(*, seed: int | None, device: str | None, command: Sequence[str] = ()) -> dict[str, Any]:
    """Facts of one start of a run, as primitives for ``run.json``.

    Keys: ``command`` (list of arguments), ``date`` (ISO 8601, UTC), ``hostname``, ``platform``, ``device``, ``seed``,
    ``versions``, ``git``.
    """
    return {
        "command": list(command or sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "device": device,
        "seed": seed,
        "versions": package_versions(),
        "git": git_state(),
    }


def _ask(git: str, folder: str | os.PathLike[str], *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            [git, "-C", os.fspath(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
