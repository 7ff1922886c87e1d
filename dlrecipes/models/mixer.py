"""MLP-Mixer: layers that mix places and layers that mix channels, and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

from timm.layers import DropPath  # type: ignore[attr-defined]  # public, but in no __all__
from timm.models import MlpMixer
from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models.timm_classifier import Head, ImageModel, check_head, create_timm, wants_hub

__all__ = ["VARIANTS", "MLPMixer"]


class _Variant(NamedTuple):
    patch_size: int
    blocks: int
    dim: int
    token_dim: int
    channel_dim: int
    image_size: int
    millions: float  # of parameters, as published; small: counted
    timm_name: str | None = None  # of pretrained weights


# Tolstikhin et al., 2021, arXiv:2105.01601, table 1; the last is ours, for CIFAR's 32 pixels
VARIANTS = {
    "s32": _Variant(32, 8, 512, 256, 2048, 224, 19.0),
    "s16": _Variant(16, 8, 512, 256, 2048, 224, 18.0),
    "b32": _Variant(32, 12, 768, 384, 3072, 224, 60.0),
    "b16": _Variant(16, 12, 768, 384, 3072, 224, 59.0, "mixer_b16_224"),
    "l32": _Variant(32, 24, 1024, 512, 4096, 224, 206.0),
    "l16": _Variant(16, 24, 1024, 512, 4096, 224, 207.0, "mixer_l16_224"),
    "h14": _Variant(14, 32, 1280, 640, 5120, 224, 431.0),
    "small": _Variant(4, 8, 128, 128, 256, 32, 0.67),
}
_WIDTHS = ("token_dim", "channel_dim")
_SIZES = ("patch_size", "blocks", "dim", *_WIDTHS)


class MLPMixer(ImageModel):
    """MLP-Mixer (Tolstikhin et al., 2021, arXiv:2105.01601), through timm.

    On a table X of S patches (rows) and C channels, each block computes U = X + W₂ σ(W₁ LN(X)ᵀ)ᵀ down the columns and
    Y = U + W₄ σ(W₃ LN(U)) along the rows, σ = GELU. W₁ and W₂ belong to S places, so that the network is made for one
    image size: ``bind`` makes it anew for the data's.

    Args:
        variant: ``small`` (32 pixels, 0.67 M parameters), or of the paper ``s32``, ``s16``, ``b32``, ``b16``, ``l32``,
            ``l16``, ``h14``, whose number is the side of a patch.
        pretrained: ``"hub"`` or true: ImageNet-21k weights of b16 and l16, downloaded once.
        num_outputs: width of the last layer; ``bind`` sets it to what the data wants.
        image_size: side of the images in pixels; default 32 for ``small``, else 224; ``bind`` sets it to the data's.
        patch_size, blocks, dim, token_dim, channel_dim: side of a patch, number of blocks, C, width of the hidden layer
            over places and of that over channels, instead of the variant's.
        drop_rate: dropout before the last layer.
        drop_path_rate: probability that the last block is left out of a step, growing linearly from 0 at the first
            (appendix B of the paper; Huang et al., 2016, arXiv:1603.09382).
        normalisation: [mean, std] of each channel that the weights need; default: that of the pretrained weights,
            without them the data's own.
        head: ``"cosine"``: the last layer gives cosines, which ``LDAMLoss`` needs and other losses cannot learn from
            (``dlrecipes.nn.CosineLinear``); ``"linear"``: the paper's.

    Raises:
        ValueError: a value that is none of the above.
        UserError: weights that cannot be had, or images that cannot be cut into patches.

    Example:
        >>> import torch
        >>> model = MLPMixer("small", num_outputs=10)
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).shape), sum(p.numel() for p in model.parameters())
        ((2, 10), 671882)
    """

    compile_pays = True

    def __init__(
        self,
        variant: str = "small",
        *,
        pretrained: bool | str = False,
        num_outputs: int = 1000,
        image_size: int | None = None,
        patch_size: int | None = None,
        blocks: int | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        channel_dim: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        normalisation: list[list[float]] | None = None,
        head: Head = "linear",
    ) -> None:
        init_args = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        check_head(head)
        if variant not in VARIANTS:
            raise ValueError(f"variant={variant!r}: choose one of {', '.join(VARIANTS)}")
        for name in ("image_size", *_SIZES):
            if init_args[name] is None:
                init_args[name] = getattr(VARIANTS[variant], name)
            elif init_args[name] < 1:
                raise ValueError(f"{name}={init_args[name]}: at least 1")
        hub = wants_hub(pretrained)
        net = _pretrained(init_args) if hub else _from_scratch(init_args)
        _grow_drop_path(net, drop_path_rate)
        super().__init__(net, init_args, weights_from=f"timm {VARIANTS[variant].timm_name}" if hub else None)

    @property
    def image_size(self) -> int:
        """Side of the images that the network is made for, in pixels."""
        return int(self.init_args["image_size"])

    def bind(self, info: DataInfo) -> None:
        """Make the network for the data's image size and number of outputs.

        Raises:
            UserError: pretrained weights and images of another size; images that cannot be cut into patches.
        """
        if info.image_size != self.image_size:
            if self.weights_from is not None:
                raise UserError(
                    f"the pretrained Mixer {self.init_args['variant']} takes images of {self.image_size} pixels only, "
                    f"not {info.image_size}: set --data.image_size {self.image_size}"
                )
            like = next(self.net.parameters())
            args = self.init_args | {"image_size": info.image_size}
            self.net = _from_scratch(args).to(device=like.device, dtype=like.dtype)
            self.init_args["image_size"] = info.image_size
            _grow_drop_path(self.net, self.init_args["drop_path_rate"])
            self._start_head()
            self._replace_head()
        super().bind(info)


def _from_scratch(args: dict[str, Any]) -> nn.Module:
    patch, side = args["patch_size"], args["image_size"]
    if side % patch:
        raise UserError(
            f"images of {side} pixels cannot be cut into patches of {patch}: set --data.image_size to a multiple of "
            f"{patch}, or --model.model.patch_size to a divisor of {side}"
        )
    net: nn.Module = MlpMixer(
        num_classes=args["num_outputs"],
        img_size=side,
        patch_size=patch,
        num_blocks=args["blocks"],
        embed_dim=args["dim"],
        mlp_ratio=tuple((args[width] + 0.5) / args["dim"] for width in _WIDTHS),  # rounded down again
        drop_rate=args["drop_rate"],
    )
    return net


def _pretrained(args: dict[str, Any]) -> nn.Module:
    shape = VARIANTS[args["variant"]]
    if shape.timm_name is None:
        known = ", ".join(name for name, variant in VARIANTS.items() if variant.timm_name)
        raise ValueError(f"pretrained={args['pretrained']!r}: there are weights of {known}, not of {args['variant']}")
    changed = [name for name in ("image_size", *_SIZES) if args[name] != getattr(shape, name)]
    if changed:
        raise ValueError(f"{changed[0]}={args[changed[0]]}: pretrained weights have {getattr(shape, changed[0])}")
    return create_timm(shape.timm_name, pretrained=True, num_outputs=args["num_outputs"], drop_rate=args["drop_rate"])


def _grow_drop_path(net: nn.Module, rate: float) -> None:
    """timm gives every block the same rate; the paper's grows from 0 at the first block to ``rate`` at the last."""
    blocks = list(net.get_submodule("blocks").children())
    for index, block in enumerate(blocks):
        share = rate * index / max(1, len(blocks) - 1)
        block.drop_path = DropPath(share) if share else nn.Identity()
