"""The data of an earlier run again, from the run's ``config.yaml``: the same splits, without what training adds."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from dlrecipes.cli.environment import import_from_here
from dlrecipes.contracts import DataInfo
from dlrecipes.data import ClassificationData
from dlrecipes.errors import DLRecipesError, UserError
from dlrecipes.parts import constructor_parameters, import_object

__all__ = ["run_config", "run_data", "training_images"]

# What training does to the images and labels of a batch, which a look at the trained network must not see.
_PLAIN = {"mix": "none", "sampler": None, "sampler_start": 0}


def run_config(home: Path) -> dict[str, Any]:
    """The content of a run folder's ``config.yaml``.

    Raises:
        UserError: there is none, or it names no data.
    """
    config = home / "config.yaml"
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{config} cannot be read ({' '.join(str(error).split())[:100]}), and it says which data the run had: give "
            f"the folder of a recipe's run"
        ) from error
    if not isinstance(values, dict) or "class_path" not in (values.get("data") or {}):
        raise UserError(f"{config} names no data: give the folder of a recipe's run")
    return values


def run_data(config: dict[str, Any], info: DataInfo, *, path: str | None = None) -> LightningDataModule:
    """The datamodule of a run, without mixing and re-sampling, for images of the size that its network takes.

    Args:
        config: `run_config(home)`.
        info: of the run's checkpoint.
        path: other data, with the same classes; None: the run's own.

    Raises:
        UserError: a class that is not here, an argument that it does not take any more, or data that cannot be used or
            has other classes.
    """
    import_from_here()
    spec = config["data"]
    known = constructor_parameters(import_object(spec["class_path"]))
    given = dict(spec.get("init_args") or {})
    given |= {name: value for name, value in _PLAIN.items() if name in known}
    if "seed" in known and "seed" not in given:  # linked on the recipe's command line; it decides the splits
        given["seed"] = config.get("seed_everything", 0)
    for name, value in (("image_size", info.image_size), ("crop_fraction", info.crop_fraction)):
        if name in known:
            given[name] = value
    if path is not None:
        if "path" not in known:
            raise UserError(f"{spec['class_path']} has no argument path, so --data cannot exchange it: leave it out")
        given |= {"path": path} | {name: False for name in ("long_tailed",) if name in known}
    datamodule = _instantiate(spec["class_path"], given)
    found: DataInfo | None = getattr(datamodule, "info", None)
    if found is not None and found.classes != info.classes:
        raise UserError(
            f"{path or 'the data'} has the classes {_listed(found.classes)}, and the run was trained for "
            f"{_listed(info.classes)}: a last layer can be exchanged for the same classes only"
        )
    return datamodule


def training_images(config: dict[str, Any], info: DataInfo, *, path: str | None = None) -> Iterable[Any] | None:
    """The training images as evaluation sees them, each once and in order; None: the datamodule cannot give them so.

    Arguments: see `run_data`.
    """
    datamodule = run_data(config, info, path=path)
    if not isinstance(datamodule, ClassificationData):
        return None
    return datamodule.evaluation_dataloader("train")


def _instantiate(class_path: str, init_args: dict[str, Any]) -> LightningDataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    try:
        parsed = parser.parse_object({"data": {"class_path": class_path, "init_args": init_args}})
        made: LightningDataModule = parser.instantiate(parsed).data
    except DLRecipesError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(
            f"{class_path} cannot be made as the run's config says: {' '.join(str(error).split())[:300]}"
        ) from error
    return made


def _listed(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" ... ({len(names)})" if len(names) > most else "")
