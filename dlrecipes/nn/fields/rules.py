"""How each of torch's operations hands on what its inputs have seen.

The operations are those that PyTorch's dispatcher sees; some eighty make all of timm. A rule is given the call and
returns what its outputs have seen: one for the first output, or a list for all.
"""

from __future__ import annotations

from dlrecipes.nn.fields.call import Rule
from dlrecipes.nn.fields.mixing import along, batch_norm, group_norm, layer_norm, pointwise, product, reduced, unchanged
from dlrecipes.nn.fields.shapes import (
    columns,
    concatenated,
    copied,
    folded,
    new_shape,
    overwritten,
    padded,
    padded_by_content,
    restrided,
    same_view,
    turned,
)
from dlrecipes.nn.fields.windows import adaptive_pool, convolution, pool, resampled

__all__ = ["CONSTANT", "RULES", "VIEWS"]

VIEWS = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "squeeze"),
        *("unsqueeze", "slice", "select", "split", "split_with_sizes", "unbind", "alias", "detach", "unfold"),
        *("diagonal",),
    )
)
"""Operations whose outputs share their input's memory: writing to them writes to it."""

CONSTANT = frozenset(
    (
        *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"),
        *("new_full", "new_empty", "new_empty_strided", "fill", "zero", "bernoulli"),
    )
)
"""Operations whose outputs have their input's shape only."""


def _table(rows: dict[Rule, tuple[str, ...]]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows.items() for name in names}


RULES: dict[str, Rule] = _table(
    {
        same_view: (
            *(VIEWS - {"view", "_unsafe_view", "reshape", "_reshape_alias"}),
            *("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"),
        ),
        new_shape: ("view", "_unsafe_view", "reshape", "_reshape_alias"),
        unchanged: ("clone", "_to_copy", "native_dropout", "lift_fresh", "contiguous", "tril", "triu", "dropout"),
        turned: ("roll", "flip"),
        copied: ("index_select", "index", "repeat", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
        overwritten: ("copy",),
        concatenated: ("cat", "stack"),
        padded: ("constant_pad_nd",),
        padded_by_content: tuple(f"{kind}_pad{d}d" for kind in ("reflection", "replication") for d in (1, 2, 3)),
        restrided: ("as_strided",),
        columns: ("im2col",),
        folded: ("col2im",),
        pointwise: ("hardswish", "where", "masked_fill", "_prelu_kernel", "rrelu_with_noise", "softplus"),
        batch_norm: (
            *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
            *("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update"),
        ),
        convolution: ("convolution",),
        pool: ("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        adaptive_pool: (
            *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d"),
            *("adaptive_max_pool2d", "adaptive_max_pool3d"),
        ),
        resampled: (
            *("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_linear1d"),
            *("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        ),
        reduced: (
            *("mean", "sum", "amax", "amin", "max", "min", "var", "var_mean", "std", "std_mean", "logsumexp", "prod"),
            *("any", "all", "argmax", "argmin", "linalg_vector_norm", "norm", "median", "nansum"),
        ),
        along: (*("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "topk"),),
        layer_norm: ("native_layer_norm", "_fused_rms_norm"),
        group_norm: ("native_group_norm",),
        product: ("mm", "addmm", "bmm", "baddbmm"),
    }
)
"""Name of an operation -> its rule. What is not here is pointwise if PyTorch says so, and otherwise ``everything``."""
