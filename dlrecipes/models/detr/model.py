"""DETR: backbone, transformer, queries and heads put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.contracts import DataInfo, Prediction
from dlrecipes.errors import CheckpointError, UserError
from dlrecipes.models.detr.backbone import Backbone, resize_mask
from dlrecipes.models.detr.box_decoder import BoxDecoder, Scene
from dlrecipes.models.detr.position import sine_position_embedding
from dlrecipes.models.detr.postprocess import detections, postprocess
from dlrecipes.models.detr.queries import TwoStageQueries, init_classifier
from dlrecipes.models.detr.transformer import MLP, Transformer

__all__ = ["DETR"]

_MIN_QUERIES = 25  # of an automatic number


class DETR(nn.Module):
    """End-to-end object detection with a transformer (Carion et al., 2020, arXiv:2005.12872).

    With its defaults this is the authors' R50 model, parameter for parameter. The arguments after ``pre_norm`` change
    it for small data; ``recipes/configs/detr_fast.yaml`` sets them.

    Args:
        backbone: ``"resnet50"``, ``"resnet101"``, or any timm model with ``features_only``.
        num_classes: classes without no-object.
        num_queries: most objects that can be found in an image. None, for two-stage queries only: twice as many as
            the fullest image of the data has, at least 25.
        dilation: stride 16 in the last ResNet stage (DC5).
        pre_norm: layer norm before attention and feed-forward.
        pretrained_backbone: ImageNet weights from the hub.
        backbone_args: further arguments for timm.
        mask_padding: an image in a padded batch gives what it gives alone; the authors' code does not do this.
        hidden_dim, num_heads, encoder_layers, decoder_layers, feedforward_dim, dropout: of the transformer.
        queries: ``"learned"`` (the paper) or ``"two_stage"`` (proposed by the encoder; boxes refined by each layer).
        cross_attention: ``"global"`` (the paper) or ``"in_box"`` (samples inside each query's box; needs two-stage).
        class_head: ``"softmax"`` with a no-object class (the paper) or ``"sigmoid"`` (focal and varifocal loss).
        feature_stride: of the encoder's cells; default the backbone's last.
        sample_stride: of the map that ``"in_box"`` samples.
        sample_channels, sample_grid, sample_margin: channels of that map, points a side, window over box.

    Raises:
        ValueError: a value or a combination that cannot work.
        UserError: an unknown backbone, or weights that cannot be downloaded.

    Example:
        >>> model = DETR("test_resnet", num_classes=3, pretrained_backbone=False, hidden_dim=32, encoder_layers=1,
        ...              decoder_layers=2, feedforward_dim=64)
        >>> {name: tuple(value.shape) for name, value in model(torch.zeros(1, 3, 64, 64)).items()}
        {'pred_logits': (2, 1, 100, 4), 'pred_boxes': (2, 1, 100, 4)}
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 91,
        num_queries: int | None = 100,
        dilation: bool = False,
        pre_norm: bool = False,
        pretrained_backbone: bool = True,
        *,
        backbone_args: dict[str, Any] | None = None,
        mask_padding: bool = False,
        hidden_dim: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward_dim: int = 2048,
        dropout: float = 0.1,
        queries: str = "learned",
        cross_attention: str = "global",
        class_head: str = "softmax",
        feature_stride: int | None = None,
        sample_stride: int = 4,
        sample_channels: int = 64,
        sample_grid: int = 5,
        sample_margin: float = 1.0,
    ) -> None:
        init_args = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        _check(init_args)
        self.init_args = init_args  # a checkpoint rebuilds the model from these
        self.num_classes = num_classes
        self.sigmoid = class_head == "sigmoid"
        self.two_stage = queries == "two_stage"
        self.in_box = cross_attention == "in_box"
        self.sample_stride = sample_stride

        max_stride = None if feature_stride is None else max(feature_stride, sample_stride if self.in_box else 0)
        net = Backbone(
            backbone,
            dilation=dilation,
            pretrained=pretrained_backbone,
            max_stride=max_stride,
            args=backbone_args,
            mask_padding=mask_padding,
        )
        self.backbone = nn.ModuleList([net])  # a list, since the official names begin with "backbone.0."
        channels = dict(zip(net.strides, net.channels, strict=True))
        self.feature_stride = max(channels, default=0) if feature_stride is None else feature_stride
        for name, stride in (("feature_stride", self.feature_stride), ("sample_stride", sample_stride)):
            if stride not in channels and (name == "feature_stride" or self.in_box):
                raise ValueError(f"{name}={stride}: backbone {backbone!r} has strides {sorted(channels)}")
        self.input_proj = nn.Conv2d(channels[self.feature_stride], hidden_dim, 1)
        self.transformer = Transformer(
            dim=hidden_dim,
            heads=num_heads,
            encoder_layers=encoder_layers,
            decoder_layers=0 if self.two_stage else decoder_layers,
            feedforward=feedforward_dim,
            dropout=dropout,
            pre_norm=pre_norm,
        )
        if self.two_stage:
            self._add_box_queries(channels.get(sample_stride, 0))
        else:
            self.query_embed = nn.Embedding(int(init_args["num_queries"]), hidden_dim)
            self.class_embed = nn.Linear(hidden_dim, self.class_outputs)
            self.bbox_embed = MLP(hidden_dim, hidden_dim, hidden_dim, 4)
            init_classifier(self.class_embed, sigmoid=self.sigmoid)

    def _add_box_queries(self, sampled: int) -> None:
        """Proposals and the decoder that refines them; ``sampled``: channels of the backbone's map to sample."""
        args, classes = self.init_args, self.class_outputs
        dim, channels = args["hidden_dim"], args["sample_channels"]
        self.proposals = TwoStageQueries(dim, args["num_queries"] or _MIN_QUERIES, classes, sigmoid=self.sigmoid)
        if self.in_box:
            self.sample_proj = nn.Conv2d(sampled, channels, 1)
        self.box_decoder = BoxDecoder(
            args["decoder_layers"],
            dim,
            args["num_heads"],
            args["feedforward_dim"],
            args["dropout"],
            args["pre_norm"],
            classes=classes,
            sigmoid=self.sigmoid,
            in_box=self.in_box,
            channels=channels,
            grid=args["sample_grid"],
            margin=args["sample_margin"],
        )

    @property
    def class_outputs(self) -> int:
        """Width of the class head: one more than ``num_classes`` for a softmax head's no-object."""
        return self.num_classes + (not self.sigmoid)

    @property
    def num_queries(self) -> int:
        """Most objects that can be found in an image."""
        return self.proposals.num_queries if self.two_stage else self.query_embed.num_embeddings

    def classifiers(self) -> dict[str, nn.Linear]:
        """Every layer whose rows are classes, by parameter prefix."""
        return {
            name: module
            for name, module in self.named_modules()
            if isinstance(module, nn.Linear) and "class_embed" in name.split(".")
        }

    def bind(self, info: DataInfo) -> None:
        """Give the class heads as many outputs as the data has classes, and see that the queries are enough.

        Raises:
            UserError: an image has more objects than there are queries.
        """
        if self.init_args["num_queries"] is None:
            self.proposals.num_queries = max(_MIN_QUERIES, 2 * info.max_objects)
            self.init_args["num_queries"] = self.proposals.num_queries
        if info.max_objects > self.num_queries:
            raise UserError(
                f"num_queries={self.num_queries} is fewer than the {info.max_objects} objects of the fullest image: "
                f"set --model.model.num_queries {info.max_objects} or more"
            )
        if info.num_classes == self.num_classes:
            return
        self.num_classes = self.init_args["num_classes"] = info.num_classes
        for name, old in self.classifiers().items():
            new = nn.Linear(old.in_features, self.class_outputs, device=old.weight.device, dtype=old.weight.dtype)
            init_classifier(new, sigmoid=self.sigmoid)
            parent, _, child = name.rpartition(".")
            setattr(self.get_submodule(parent), child, new)

    def load_official(self, source: str | Path | dict[str, Any]) -> None:
        """Load weights of facebookresearch/detr, every name and shape.

        Args:
            source: a checkpoint file (weights under ``"model"``), or its content, or the state dict itself.

        Raises:
            CheckpointError: a missing or unreadable file, or weights of another model.
        """
        content = load_checkpoint_file(source) if isinstance(source, str | Path) else source
        state = content.get("model", content)
        try:
            self.load_state_dict(state, strict=True)
        except RuntimeError as error:
            what = source if isinstance(source, str | Path) else "this state dict"
            raise CheckpointError(f"{what} does not fit this DETR: {error}") from error

    def forward(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Detect.

        Args:
            images: float [B, 3, H, W], normalised; 0 in the padding.
            mask: bool [B, H, W], True = padding; None if there is none, which is faster.

        Returns:
            ``pred_logits`` [L, B, Q, C'] and ``pred_boxes`` [L, B, Q, 4] (cxcywh relative to the unpadded image), last
            layer last; from two-stage queries also ``proposal_logits`` [B, N, C'] and ``proposal_boxes`` [B, N, 4].
        """
        features = self.backbone[0](images, mask)
        source = self.input_proj(features[self.feature_stride])
        height, width = source.shape[-2:]
        small = None if mask is None else resize_mask(mask, (height, width))
        padding = None if small is None else small.flatten(1)
        position = sine_position_embedding(height, width, small, source.shape[1], device=source.device).to(source.dtype)
        memory = self.transformer.encoder(source.flatten(2).transpose(1, 2), position, padding)
        if not self.two_stage:
            states = self.transformer.decoder(memory, self.query_embed.weight, position, padding)
            return {
                "pred_logits": self.class_embed(states),
                "pred_boxes": self.bbox_embed(states).float().sigmoid(),
            }
        chosen = self.proposals(memory, height, width, small)
        scene = Scene(
            features=self._sampled_map(features, mask),
            scale=None if mask is None else _unpadded_share(mask),
            memory=memory,
            position=position,
            padding=padding,
        )
        logits, boxes = self.box_decoder(chosen.query, chosen.reference, scene)
        return {
            "pred_logits": logits,
            "pred_boxes": boxes,
            "proposal_logits": chosen.logits if padding is None else _silence(chosen.logits, padding, self.sigmoid),
            "proposal_boxes": chosen.boxes,
        }

    def _sampled_map(self, features: dict[int, Tensor], mask: Tensor | None) -> Tensor:
        """What in-box sampling reads; 0 in the padding, as beyond the border of an image that is not padded."""
        if not self.in_box:
            return features[self.feature_stride]
        sampled: Tensor = self.sample_proj(features[self.sample_stride])
        if mask is None:
            return sampled
        return sampled.masked_fill(resize_mask(mask, (sampled.shape[-2], sampled.shape[-1]))[:, None], 0.0)

    def detections(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B, k], labels [B, k] and boxes [B, k, 4] (x1, y1, x2, y2) relative to the image, best first."""
        return detections(outputs, sigmoid=self.sigmoid, top_k=max(100, self.num_queries))

    def postprocess(self, outputs: dict[str, Tensor], orig_sizes: Tensor) -> list[Prediction]:
        """Detections in pixels of images of ``orig_sizes`` [B, 2] (height, width), best first."""
        return postprocess(outputs, orig_sizes, sigmoid=self.sigmoid, top_k=max(100, self.num_queries))


def _unpadded_share(mask: Tensor) -> Tensor:
    """(width, height) of each image over those of the padded batch: [B, 1, 1, 2]."""
    inside = ~mask
    width, height = inside.any(1).float().mean(1), inside.any(2).float().mean(1)
    return torch.stack((width, height), dim=-1)[:, None, None]


def _silence(logits: Tensor, padding: Tensor, sigmoid: bool) -> Tensor:
    """Cells of padding are no proposals: surely background, with no gradient."""
    background = torch.full_like(logits, -20.0)
    if not sigmoid:
        background[..., -1] = 20.0
    return torch.where(padding[..., None], background, logits)


def _check(args: dict[str, Any]) -> None:
    choices = {
        "queries": ("learned", "two_stage"),
        "cross_attention": ("global", "in_box"),
        "class_head": ("softmax", "sigmoid"),
    }
    for name, allowed in choices.items():
        if args[name] not in allowed:
            raise ValueError(f"{name}={args[name]!r}: choose one of {', '.join(allowed)}")
    if args["num_queries"] is None and args["queries"] != "two_stage":
        raise ValueError("num_queries=None: learned queries need a number; only queries='two_stage' can choose it")
    for name in ("num_classes", "num_queries", "hidden_dim", "num_heads", "decoder_layers", "feedforward_dim"):
        if args[name] is not None and args[name] < 1:
            raise ValueError(f"{name}={args[name]}: at least 1")
    if args["encoder_layers"] < 0:
        raise ValueError(f"encoder_layers={args['encoder_layers']}: at least 0")
    if args["hidden_dim"] % args["num_heads"] or args["hidden_dim"] % 4:
        raise ValueError(f"hidden_dim={args['hidden_dim']}: a multiple of 4 and of num_heads={args['num_heads']}")
    if args["cross_attention"] == "in_box" and args["queries"] != "two_stage":
        raise ValueError("cross_attention='in_box' needs boxes to look into: set queries='two_stage'")
