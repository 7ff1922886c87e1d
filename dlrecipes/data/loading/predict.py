"""Pictures to predict on: files, folders or both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo
from dlrecipes.data.augment.transforms import eval_transform
from dlrecipes.data.formats.layout import IMAGE_SUFFIXES
from dlrecipes.data.formats.walk import image_files
from dlrecipes.data.loading.box_dataset import PredictImages
from dlrecipes.data.loading.collate import collate_detection
from dlrecipes.data.loading.decode import decode_image
from dlrecipes.data.loading.sampler import EpochSampler
from dlrecipes.errors import UserError

__all__ = ["check_images", "find_images", "predict_loader"]


def find_images(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """The image files among ``paths``: files as given, folders with all below them (`image_files`), in order of name.

    Raises:
        UserError: if a path is missing or a folder holds no image.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise UserError("No image to predict on was given: give files or a folder.")
    found: list[str] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(str(Path(name)) for name in image_files(path) if os.path.isfile(name))
            if not inside:
                raise UserError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
            found += inside
        elif path.is_file():
            found.append(str(path))
        else:
            raise UserError(f"{path} does not exist: give image files or a folder of them.")
    return found


def check_images(paths: Sequence[str]) -> list[int]:
    """Decode every image completely, before hours of work are lost at one that is cut off.

    Args:
        paths: from `find_images`.

    Returns:
        The EXIF orientation of each, 1 if none.

    Raises:
        UserError: naming the first that cannot be decoded, and how many.
    """
    console = Console(stderr=True)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
        checked = pool.map(_orientation, paths)
        silent = not console.is_terminal
        found = list(track(checked, "Checking images", len(paths), console=console, transient=True, disable=silent))
    broken = [answer for answer in found if isinstance(answer, str)]
    if broken:
        more = f" ({len(broken) - 1} more like it)" if len(broken) > 1 else ""
        raise UserError(f"{broken[0].rstrip('.')}{more}; replace it or move it away.")
    return [answer for answer in found if isinstance(answer, int)]


def _orientation(path: str) -> int | str:
    """EXIF orientation, or why there is none."""
    try:
        return decode_image(path)[1]
    except UserError as error:
        return str(error)


def predict_loader(
    paths: str | Path | Sequence[str | Path],
    info: DataInfo,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Any]:
    """Batches of bare pictures, resized as ``info`` says that evaluation does it; targets are empty.

    Raises:
        UserError: see `find_images`.
    """
    dataset = PredictImages(find_images(paths), eval_transform(info.image_size, info.shortest_side))
    sampler = EpochSampler(len(dataset), shuffle=False, rank=rank, world_size=world_size)
    return DataLoader(
        dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, collate_fn=collate_detection
    )
