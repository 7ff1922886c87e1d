"""Checkpoint files that are written whole or not at all, and that can never run code when they are read.

On the floor beside :mod:`dlrecipes.errors`, because tasks, runs and the command line all read checkpoints.
"""

from __future__ import annotations

import errno
import os
import pickletools
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from dlrecipes.errors import CheckpointError

__all__ = ["SafeCheckpointIO", "load_checkpoint_file", "save_checkpoint_file", "save_safetensors"]

# Beside the tensors a checkpoint holds a pickle of keys and numbers; a mebibyte is far above what has been seen.
_OVERHEAD_BYTES = 1 << 20


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint reader and writer, made safe: ``Trainer(plugins=[SafeCheckpointIO()])``.

    * Writing is atomic: the bytes go to a temporary file in the same folder, are flushed to the disk, and the file is
      renamed over the old one. A kill, a full disk or a pulled plug leaves the old checkpoint intact.
    * Free space is checked first.
    * What could not be read back with ``weights_only=True`` is refused when it is written, not weeks later.
    * Reading always uses ``weights_only=True``, whatever the caller asks.

    Paths with a protocol (``s3://...``) are written by Lightning's own code, since a rename is not atomic there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: too little space, a failed write, or content that is not tensors and primitives.
            TypeError: ``storage_options`` was given.
        """
        if storage_options is not None or "://" in os.fspath(path):
            super().save_checkpoint(checkpoint, str(path), storage_options)  # refuses storage_options with a TypeError
        else:
            save_checkpoint_file(checkpoint, path)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read ``path``; ``weights_only`` is accepted because Lightning passes it, and is always taken as True.

        Raises:
            CheckpointError: the file is missing, damaged, no checkpoint, or would run code.
        """
        if "://" in os.fspath(path):
            return super().load_checkpoint(str(path), map_location, weights_only=True)
        return load_checkpoint_file(path, map_location)


def save_checkpoint_file(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint of tensors and primitives atomically; see :class:`SafeCheckpointIO`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint_file({"epoch": 3}, f"{folder}/last.ckpt")
    ...     load_checkpoint_file(f"{folder}/last.ckpt")
    {'epoch': 3}
    """
    target = Path(path)
    with _replacing(target, _num_bytes(checkpoint)) as temporary:
        torch.save(dict(checkpoint), temporary)
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(temporary)
        if unsafe:
            raise CheckpointError(
                f"checkpoint '{target}' was not written, because it holds objects that a safe reader refuses "
                f"({', '.join(sorted(unsafe))}): turn them into numbers, strings, lists, dicts or tensors."
            )


def load_checkpoint_file(
    path: str | os.PathLike[str],
    map_location: str | torch.device | dict[str, str] | Callable[..., Any] | None = "cpu",
) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``, and compare the checksums in it.

    Returns:
        The dictionary that was saved.

    Raises:
        CheckpointError: one sentence that says what is wrong with the file: missing, a folder, damaged, no checkpoint,
            or one that would run code when loaded.
    """
    source = Path(path)
    if source.is_dir():
        raise CheckpointError(f"checkpoint '{source}' is a folder: name a .ckpt file inside it.")
    if not source.exists():
        raise CheckpointError(f"checkpoint '{source}' does not exist: check the path.")
    try:
        with warnings.catch_warnings():  # on a foreign pickle protocol torch warns before it refuses
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(source, map_location=map_location, weights_only=True)
            _compare_checksums(source)
    except PermissionError as error:
        raise CheckpointError(f"checkpoint '{source}' cannot be read ({error.strerror}).") from error
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        _refuse(source, error)
    if not isinstance(content, dict):
        raise CheckpointError(f"'{source}' is no checkpoint: it holds a {type(content).__name__}, not a dictionary.")
    return content


def save_safetensors(
    state_dict: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights atomically in the safetensors format, which holds tensors and strings only.

    Args:
        state_dict: tensors by name; tied ones are stored once for each name, since the format knows no sharing.
        path: the file to write.
        metadata: strings by name, kept in the header.

    Raises:
        CheckpointError: too little space or a failed write.
        TypeError: a value is not a tensor, or metadata not a string.
    """
    from safetensors.torch import save_file

    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"state_dict['{name}'] must be a tensor, got {type(value).__name__}")
    for name, text in (metadata or {}).items():
        if not isinstance(text, str):
            raise TypeError(f"metadata['{name}'] must be a string, got {type(text).__name__}")
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    needed = sum(t.numel() * t.element_size() for t in tensors.values())
    with _replacing(Path(path), needed) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata or {}))


@contextmanager
def _replacing(target: Path, num_bytes: int) -> Iterator[str]:
    """Yield a temporary path; when the block ends well, the file there replaces ``target``, else it is removed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        _fail(target, error)
    needed = num_bytes + _OVERHEAD_BYTES
    if free < needed:
        raise CheckpointError(
            f"no space to write '{target}': {needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free; "
            f"{_kept(target)}free some space, then resume."
        )
    # One fixed name, so that what a killed process leaves behind is overwritten by the next save.
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        yield str(temporary)
        _to_disk(temporary)
        os.replace(temporary, target)
        if os.name == "posix":  # a folder cannot be opened elsewhere
            _to_disk(target.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        _fail(target, error)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """fsync a file, or a folder so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network file systems cannot sync folders
            raise
    finally:
        os.close(handle)


def _fail(target: Path, error: Exception) -> NoReturn:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    raise CheckpointError(f"'{target}' could not be written ({reason}); {_kept(target)}check the disk.") from error


def _kept(target: Path) -> str:
    return "the old file is kept; " if target.exists() else ""


def _compare_checksums(source: Path) -> None:
    """Torch writes a CRC-32 of each tensor and reads none: weights with a flipped bit would be used without a word."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


def _refuse(source: Path, error: Exception) -> NoReturn:
    called = _foreign_names(source)
    if called:
        raise CheckpointError(
            f"checkpoint '{source}' is refused, because it would run code when loaded (it names {', '.join(called)}): "
            "use a checkpoint that holds only tensors and primitives."
        ) from error
    raise CheckpointError(
        f"'{source}' is damaged or no checkpoint ({type(error).__name__} while reading): use another file, for example "
        "the run's other checkpoint."
    ) from error


def _foreign_names(source: Path) -> list[str]:
    """Functions and classes outside the safe reader's list that a file's pickle names; nothing is executed."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
    except Exception:  # not the zip format, or a pickle protocol that torch does not write: look for names ourselves
        pass
    names: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(_pickle_bytes(source)):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":  # module and name are the last two strings pushed
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # cut off or no pickle: what was named before still counts
        pass
    return sorted({name for name in names if not name.startswith(("torch.", "collections."))})


def _pickle_bytes(source: Path) -> bytes:
    if not zipfile.is_zipfile(source):
        return source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _num_bytes(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of the distinct tensor storages in nested dicts, lists and tuples."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(value, Mapping):
        return sum(_num_bytes(item, seen) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_num_bytes(item, seen) for item in value)
    return 0
