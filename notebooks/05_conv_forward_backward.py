# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Convolution by hand, forward and backward
#
# Every framework computes convolutions for you, and their gradients. This notebook derives both on paper, writes
# them in a few lines, and holds them against torch: first the plain loops, then as matrix products, then as an
# operator with its own backward pass that a network is trained with, and last as an operator for a GPU.
#
# What is said is checked: the lines that begin with `True` are computed, not written. It takes a few seconds.

# %%
import warnings
from typing import Any

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar that is not used here

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor, nn
from torch.autograd import Function, gradcheck
from torchvision.ops import sigmoid_focal_loss

from dlrecipes.nn import Conv1xN
from dlrecipes.ops import add, fused_sigmoid_focal_loss

torch.manual_seed(0)
torch.set_num_threads(1)


def check(statement: str, holds: bool) -> None:
    print(f"{holds!s:6} {statement}")


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-10, atol=1e-12)


# %% [markdown]
# ## 1. Forward
#
# An output pixel is the sum over input channels and kernel cells of weight times input, with stride $s$, padding
# $p$ and dilation $d$:
#
# $$ y_{o,i,j} = b_o + \sum_{c,u,v} w_{o,c,u,v}\; x_{c,\; s i + d u - p,\; s j + d v - p} $$
#
# where $x$ counts as 0 outside of the picture. (Mathematicians flip the kernel and call this a correlation.) Seven
# loops say the same in Python:


# %%
def forward_in_loops(x: Tensor, w: Tensor, b: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    x = F.pad(x, [padding] * 4)
    n, _, height, width = x.shape
    o, c, k, m = w.shape
    rows = (height - dilation * (k - 1) - 1) // stride + 1
    columns = (width - dilation * (m - 1) - 1) // stride + 1
    y = b.view(1, o, 1, 1).repeat(n, 1, rows, columns)
    for image in range(n):
        for out in range(o):
            for i in range(rows):
                for j in range(columns):
                    for channel in range(c):
                        for u in range(k):
                            for v in range(m):
                                pixel = x[image, channel, stride * i + dilation * u, stride * j + dilation * v]
                                y[image, out, i, j] += w[out, channel, u, v] * pixel
    return y


x, w, b = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 2, 6, 5), (3, 2, 3, 2), (3,)))
for stride, padding, dilation in ((1, 0, 1), (2, 1, 1), (1, 2, 2)):
    mine = forward_in_loops(x, w, b, stride, padding, dilation)
    check(
        f"loops = F.conv2d, stride {stride}, padding {padding}, dilation {dilation}: {tuple(mine.shape)}",
        same(mine, F.conv2d(x, w, b, stride, padding, dilation)),
    )

# %% [markdown]
# A kernel is a question asked at every place. Two small ones, asked of a photograph: *is it brighter to the right?*
# and *is it brighter below?* (Sobel's edges, 1968).

# %%
photo = torch.tensor(load_sample_image("china.jpg")[::3, ::3].copy()).permute(2, 0, 1).double() / 255
grey = photo.mean(0)[None, None]
sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
kernels = torch.stack((sobel, sobel.t()))[:, None]
edges = F.conv2d(grey, kernels, padding=1)[0]

figure, panels = plt.subplots(1, 3, figsize=(11, 3.3), dpi=80, layout="constrained")
for panel, picture, title in zip(
    panels, (photo.permute(1, 2, 0), *edges), ("the photograph", "brighter to the right", "brighter below"), strict=True
):
    panel.imshow(picture, cmap="RdGy", vmin=None if picture.dim() == 3 else -2, vmax=None if picture.dim() == 3 else 2)
    panel.set_title(title)
    panel.axis("off")
plt.show()

# %% [markdown]
# ## 2. Forward, as one matrix product
#
# Loops are slow. Write every patch that the kernel sees as a column, and the whole convolution is a product of two
# matrices: kernels as rows [O, C·k·l] times patches as columns [C·k·l, places]. This is *im2col*; its price is
# memory, since a pixel stands in as many columns as patches hold it.


# %%
def patches(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """[N, C·k·l, places]."""
    return F.unfold(x, w.shape[2:], padding=padding, stride=stride)


def forward_as_product(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    size = [(a + 2 * padding - k) // stride + 1 for a, k in zip(x.shape[2:], w.shape[2:], strict=True)]
    return (w.flatten(1) @ patches(x, w, stride, padding)).unflatten(2, size) + b.view(-1, 1, 1)


check("im2col = F.conv2d", same(forward_as_product(x, w, b, 2, 1), F.conv2d(x, w, b, 2, 1)))
columns = patches(x, w, 1, 1)
check(
    f"its columns hold {columns.numel() / x.numel():.1f} times as many numbers as the image",
    columns.numel() > x.numel(),
)

# %% [markdown]
# ## 3. Backward
#
# Let $g = \partial L / \partial y$ be what comes back from the layers above. The chain rule goes through the
# formula of section 1 term by term, and each sum asks *where does this number appear?*
#
# - The **bias** $b_o$ is added at every place: $\;\partial L / \partial b_o = \sum_{i,j} g_{o,i,j}$.
# - A **weight** $w_{o,c,u,v}$ meets the input shifted by $(u, v)$ at every place:
#   $\;\partial L / \partial w_{o,c,u,v} = \sum_{i,j} g_{o,i,j}\, x_{c,\, s i + u - p,\, s j + v - p}$,
#   again a convolution: of the input with $g$ as its kernel. As matrices: $g$ times the patches, transposed.
# - An **input** pixel is met by each kernel cell from another place:
#   $\;\partial L / \partial x_{c,a,b} = \sum_{o,u,v} w_{o,c,u,v}\, g_{o,\,(a + p - u)/s,\,(b + p - v)/s}$ where
#   these are whole numbers. As matrices: kernels transposed times $g$ give a column for each patch, and every
#   column is *added* back to where it came from (*col2im*).


# %%
def backward(g: Tensor, x: Tensor, w: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    g = g.flatten(2)
    grad_b = g.sum((0, 2))
    grad_w = torch.einsum("nop,nqp->oq", g, patches(x, w, stride, padding)).view_as(w)
    back = torch.einsum("oq,nop->nqp", w.flatten(1), g)
    grad_x = F.fold(back, x.shape[2:], w.shape[2:], padding=padding, stride=stride)
    return grad_x, grad_w, grad_b


leaves = [t.clone().requires_grad_() for t in (x, w, b)]
y = F.conv2d(*leaves, stride=2, padding=1)
g = torch.randn_like(y)
for name, mine, theirs in zip("xwb", backward(g, x, w, 2, 1), torch.autograd.grad(y, leaves, g), strict=True):
    check(f"gradient of {name}", same(mine, theirs))

# %% [markdown]
# With stride 1 the gradient of the input is a convolution, too: of $g$, padded by $k - 1$, with the kernel turned by
# 180° and its channels exchanged. That is where the name *transposed convolution* comes from.

# %%
turned = w.flip(2, 3).transpose(0, 1)
g = torch.randn_like(F.conv2d(x, w))
check(
    "stride 1: the gradient of the input is the turned kernel over the padded gradient",
    same(F.conv2d(F.pad(g, (1, 1, 2, 2)), turned), backward(g, x, w, 1, 0)[0]),
)
check("and is F.conv_transpose2d", same(F.conv_transpose2d(g, w), backward(g, x, w, 1, 0)[0]))

# %% [markdown]
# The gradient of one output pixel is not zero exactly where the input could have changed it: its **receptive field**.
# Three layers of 3 × 3 see 7 × 7, and the middle of it counts most, since most paths lead there.

# %%
image = torch.zeros(1, 1, 15, 15, dtype=torch.float64, requires_grad=True)
z = image
for _ in range(3):
    z = F.conv2d(z, torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64), padding=1)
(seen,) = torch.autograd.grad(z[0, 0, 7, 7], image)
rows = (seen[0, 0].sum(1) != 0).nonzero()[:, 0]
check(f"three 3 x 3 layers see {len(rows)} x {len(rows)} pixels", len(rows) == 7)

figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
shown = panels[0].imshow(seen[0, 0], cmap="magma")
panels[0].set_title("gradient of the middle pixel, three layers of 3 x 3")
figure.colorbar(shown, ax=panels[0], shrink=0.85)
for layers in (1, 2, 3, 6):
    row = torch.zeros(1, 1, 1, 15, dtype=torch.float64, requires_grad=True)
    z = row
    for _ in range(layers):
        z = F.conv2d(z, torch.full((1, 1, 1, 3), 1 / 3, dtype=torch.float64), padding=(0, 1))
    panels[1].plot(
        range(-7, 8),
        torch.autograd.grad(z[0, 0, 0, 7], row)[0][0, 0, 0],
        marker=".",
        label=f"{layers} layer{'s' * (layers > 1)}",
    )
panels[1].set(title="the same in one dimension: a bell", xlabel="pixels from the middle")
panels[1].legend()
plt.show()

# %% [markdown]
# ## 4. 1 × N, then N × 1
#
# A kernel that is an outer product $w = a\,b^\top$ can be asked in two steps, first along rows and then along
# columns: $2N$ weights instead of $N^2$, and the same field. Sobel's kernel is one: a difference in one direction
# and a mean in the other. `Conv1xN` is such a pair for a network, which then learns only kernels of this kind,
# unless a nonlinearity stands between the two.

# %%
row, column = sobel[1:2] / 2, sobel[:, 2:] / 1
check("Sobel's kernel is an outer product", torch.equal(column @ row, sobel))
two_steps = F.conv2d(F.conv2d(grey, row[None, None], padding=(0, 1)), column[None, None], padding=(1, 0))
check("asked in two steps it gives the same", same(two_steps[0], edges[:1]))
pair, full = Conv1xN(16, 16, 7), nn.Conv2d(16, 16, 7, bias=False)
weights = [sum(p.numel() for p in module.parameters() if p.dim() == 4) for module in (pair, full)]
check(f"7 x 7 of 16 channels: {weights[0]:,} instead of {weights[1]:,} weights", weights[0] * 7 == weights[1] * 2)

# %% [markdown]
# ## 5. An operator with its own backward pass
#
# `torch.autograd.Function` takes both halves. `gradcheck` compares the backward half with finite differences, in
# float64: the one check that needs no second implementation.


# %%
class HandConv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = stride, padding
        return forward_as_product(x, w, b, stride, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward(g, *ctx.saved_tensors, *ctx.geometry), None, None)


check("gradcheck", gradcheck(HandConv.apply, (*leaves, 2, 1)))

broken = backward


def without_col2im(g: Tensor, x: Tensor, w: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mistake that everybody makes once: patches overlap, and their gradients must be added, not averaged."""
    grad_x, grad_w, grad_b = broken(g, x, w, stride, padding)
    ones = F.fold(
        patches(torch.ones_like(x), w, stride, padding), x.shape[2:], w.shape[2:], padding=padding, stride=stride
    )
    return grad_x / ones.clamp(min=1), grad_w, grad_b


backward = without_col2im
check("and gradcheck sees a mistake", not gradcheck(HandConv.apply, (*leaves, 1, 1), raise_exception=False))
backward = broken

# %% [markdown]
# A small network with it learns the handwritten digits as the same network does with torch's: from the same weights,
# the losses agree to rounding. It could be used; it is slower, and that is all.


# %%
class HandConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return HandConv.apply(input, self.weight, self.bias, self.stride[0], self.padding[0])


def network(convolution: type[nn.Conv2d]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (convolution(1, 16, 3, padding=1), nn.ReLU(), convolution(16, 32, 3, stride=2, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)).double()


pixels, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
digits = (pixels.view(-1, 1, 8, 8) / 16).double()
curves: dict[str, list[float]] = {}
for name, convolution in (("torch's", nn.Conv2d), ("ours", HandConv2d)):
    net, curves[name] = network(convolution), []
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(150):
        chosen = torch.randint(0, 1400, (64,), generator=order)
        loss = F.cross_entropy(net(digits[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curves[name].append(loss.item())
    with torch.no_grad():
        right = (net(digits[1400:]).argmax(1) == labels[1400:]).double().mean().item()
    print(f"{name:8} loss {curves[name][-1]:.6f}, right on {100 * right:.1f} % of 397 digits that it has not seen")

apart = max(abs(a - b) for a, b in zip(*curves.values(), strict=True))
check(f"over 150 steps the losses are never more than {apart:.0e} apart", apart < 1e-8)

figure, panel = plt.subplots(figsize=(7, 3.2), layout="constrained")
for (name, curve), width in zip(curves.items(), (5, 1.5), strict=True):
    panel.plot(curve, linewidth=width, label=name)
panel.set(xlabel="step", ylabel="loss", title="two implementations, one curve")
panel.legend()
plt.show()

# %% [markdown]
# ## 6. An operator for a GPU
#
# A function is worth a kernel of its own where memory is read more often than needed. The sigmoid focal loss of a
# detector is such a case: it is computed for every box and class (57,600 × 91 for one image), elementwise, and a
# chain of elementwise functions reads and writes all of it at every link. With $s$ the logit, negated for
# negatives, and $p = \sigma(s)$, both passes are one formula each:
#
# $$ \ell = -w (1 - p)^\gamma \log p, \qquad
#    \frac{\partial \ell}{\partial s} = w (1 - p)^\gamma \,(\gamma\, p \log p - (1 - p)) $$
#
# `dlrecipes.ops.fused_sigmoid_focal_loss` is a Triton kernel for each on a GPU, and the same formulas in torch
# elsewhere. Labels come as one number a row; the backward pass computes anew what it needs, so nothing of the
# logits' size is kept.

# %%
logits = torch.randn(40, 7, dtype=torch.float64)
classes = torch.randint(0, 8, (40,))  # 7 = background
target = F.one_hot(classes, 8)[:, :7].double()
ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
fused, reference = fused_sigmoid_focal_loss(ours, classes), sigmoid_focal_loss(theirs, target, reduction="sum")
fused.backward()
reference.backward()
check("equals torchvision's", same(fused.detach(), reference.detach()))
check("so does its gradient", same(ours.grad, theirs.grad))
check("gradcheck", gradcheck(lambda t: fused_sigmoid_focal_loss(t, classes), logits.clone().requires_grad_()))

compiled = torch.compile(fused_sigmoid_focal_loss, backend="aot_eager", fullgraph=True)
check("torch.compile sees into it", same(compiled(logits, classes), fused.detach()))

# %% [markdown]
# The smallest operator of the same kind adds two tensors: `dlrecipes/ops/add.py`, one page to start from. Tutorials
# end where the kernel runs; what makes an operator safe to call begins there. A kernel reads memory without asking,
# so shape, type, device and the order of memory are checked before it does:

# %%
flipped = torch.arange(6.0).view(2, 3).t()
check("memory in another order", torch.equal(add(flipped, torch.ones(3, 2)), flipped + 1))
check("nothing to add", add(torch.zeros(0), torch.zeros(0)).shape == (0,))
for wrong in (torch.zeros(2), torch.zeros(3, dtype=torch.float64)):
    try:
        add(torch.zeros(3), wrong)
    except ValueError as error:
        print(f"ValueError: {error}")

# %% [markdown]
# Measured on your GPU, against torchvision's function as it is and compiled: `python benchmarks/focal.py`. A kernel
# that is not 1.3 times as fast as what `torch.compile` makes of the plain formula is not worth its keep.
