"""Which labelled images are read, and how they are divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlrecipes.data.audit.audit_images import missing_image
from dlrecipes.data.audit.copies import image_copies
from dlrecipes.data.embedded.digits import embedded_digits
from dlrecipes.data.formats.discover_images import read_images
from dlrecipes.data.formats.image_source import ImageSource
from dlrecipes.data.splits.folds import FoldChoice, fold_of
from dlrecipes.data.splits.image_facts import with_image_splits
from dlrecipes.errors import UserError

__all__ = ["ImageReading"]


@dataclass(frozen=True, kw_only=True)
class ImageReading:
    """The options of `dlrecipes.data.ClassificationData` that say what is read; see there.

    Raises:
        UserError: for options that exclude one another.
    """

    path: str | None
    source: ImageSource | None
    target: str | Sequence[str] | None
    kind: str
    image_column: str | None
    long_tailed: bool
    splits: tuple[str, str, str]
    val_fraction: float
    fold: FoldChoice | None
    fold_groups: str | None
    seed: int

    def __post_init__(self) -> None:
        if self.path is not None and self.source is not None:
            raise UserError(f"path {self.path!r} and source cannot both be given: choose one.")
        if self.long_tailed and (self.path is not None or self.source is not None):
            raise UserError("long_tailed thins out the embedded digits only: leave it out for data of your own.")
        if self.path is None and (self.target is not None or self.image_column is not None or self.kind != "auto"):
            raise UserError("target, kind and image_column say how to read a path: give one, or leave them out.")

    def read(self, digit_size: int, *, skip_corrupt: bool = False) -> ImageSource:
        """The images with their training and validation split, and a test split if there is one or nothing was divided.

        Args:
            digit_size: side of the embedded digits.
            skip_corrupt: images may be missing, since the audit leaves them out.

        Raises:
            UserError: data that cannot be read or divided; if images are missing, that, since it may be the reason.
        """
        source = self._found(digit_size)
        try:
            return self._divided(source)
        except UserError:
            if not skip_corrupt:
                _refuse_missing(source)
            raise

    def _divided(self, source: ImageSource) -> ImageSource:
        # 8×8 scans of digits, a writer each, are alike at any size, and none is a copy.
        find_copies = None if source.format == "digits" else image_copies
        if self.fold is not None:
            source = fold_of(
                source,
                self.fold,
                names=self.splits,
                groups=self.fold_groups,
                seed=self.seed,
                find_copies=find_copies,
            )
        return with_image_splits(
            source, self.splits, val_fraction=self.val_fraction, seed=self.seed, find_copies=find_copies
        )

    def _found(self, digit_size: int) -> ImageSource:
        if self.source is not None:
            return self.source
        if self.path is None:
            return embedded_digits(self.long_tailed, digit_size)
        return read_images(self.path, target=self.target, kind=self.kind, image_column=self.image_column)


def _refuse_missing(source: ImageSource) -> None:
    tables = source.splits.values()
    gone = [t.images.name(i) for t in tables for i in range(len(t)) if t.images.stamp(i) == (-1, -1)]
    if gone:
        raise missing_image(source.root, gone[0], f" ({len(gone) - 1} more like it)" if len(gone) > 1 else "")
