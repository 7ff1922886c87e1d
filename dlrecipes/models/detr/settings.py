"""Which arguments of ``DETR`` make a model: each on its own, and those that do not go together."""

from __future__ import annotations

from typing import Any

__all__ = ["MIN_QUERIES", "check_settings", "sampled_strides"]

MIN_QUERIES = 25  # of an automatic number

_CHOICES = {
    "queries": ("learned", "anchors", "two_stage"),
    "cross_attention": ("global", "in_box", "deformable"),
    "class_head": ("softmax", "sigmoid"),
    "pretrained_backbone": (True, False, "hub", "package"),
}
_LEAST = {
    "num_classes": 1,
    "num_queries": 1,
    "hidden_dim": 1,
    "num_heads": 1,
    "encoder_layers": 0,
    "decoder_layers": 1,
    "feedforward_dim": 1,
    "feature_stride": 1,
    "sample_channels": 1,
    "sample_grid": 1,
    "sample_points": 1,
    "query_groups": 1,
    "hybrid_queries": 0,
    "denoising": 0,
}


def sampled_strides(sample_stride: int | list[int]) -> list[int]:
    """``sample_stride`` as a list, finest first."""
    return [sample_stride] if isinstance(sample_stride, int) else sorted(sample_stride)


def check_settings(args: dict[str, Any]) -> None:
    """Refuse what cannot work.

    Args:
        args: every argument of ``DETR`` by name.

    Raises:
        ValueError: the first that is found, and the remedy.
    """
    for name, allowed in _CHOICES.items():
        if args[name] not in allowed:
            raise ValueError(f"{name}={args[name]!r}: choose one of {', '.join(map(str, allowed))}")
    for name, least in _LEAST.items():
        if args[name] is not None and args[name] < least:
            raise ValueError(f"{name}={args[name]}: at least {least}")
    for name in ("dropout", "denoising_label_noise"):
        if not 0 <= args[name] <= 1:
            raise ValueError(f"{name}={args[name]}: a probability, in 0..1")
    if args["sample_margin"] <= 0:
        raise ValueError(f"sample_margin={args['sample_margin']}: above 0")
    if args["hidden_dim"] % args["num_heads"] or args["hidden_dim"] % 4:
        raise ValueError(f"hidden_dim={args['hidden_dim']}: a multiple of 4 and of num_heads={args['num_heads']}")
    strides = sampled_strides(args["sample_stride"])
    if not strides or min(strides) < 1 or len(set(strides)) < len(strides):
        raise ValueError(f"sample_stride={args['sample_stride']}: one or more different strides, such as 4 or [4, 8]")
    _check_together(args)


def _check_together(args: dict[str, Any]) -> None:
    queries, looks = args["queries"], args["cross_attention"]
    if args["num_queries"] is None and queries != "two_stage":
        raise ValueError(f"num_queries=None: {queries} queries need a number; only queries='two_stage' can choose it")
    if queries == "learned":
        remedy = "set queries='two_stage' or 'anchors'"
        if looks != "global":
            raise ValueError(
                f"cross_attention={looks!r} needs boxes to look into, and learned queries have none: {remedy}"
            )
        if args["denoising"]:
            raise ValueError(
                f"denoising={args['denoising']} needs queries that are boxes, and learned queries have none: {remedy}"
            )
        if args["position_bias"] and args["decoder_layers"] < 2:
            raise ValueError(
                "position_bias=True with learned queries needs decoder_layers of 2 or more: the first layer has no box "
                "to look round"
            )
    if args["position_bias"] and looks != "global":
        raise ValueError(
            f"position_bias=True is for cross_attention='global'; {looks!r} looks only near its boxes as it is"
        )
