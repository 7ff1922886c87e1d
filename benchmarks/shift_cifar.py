"""Power of the default verdict under corruptions of CIFAR-10, on features of a network trained here.

``python benchmarks/shift.py --parts cifar --run RUN`` calls it. Of the test images, references are drawn from 5,000 and
new data from the other 5,000, of which a fraction δ is corrupted. Both sides come from the same JPEG files and only the
corruption is between them. The principal components are those of 5,000 training images, which neither side has. The
verdict is ``dlrecipes.shift.compare``'s: KS of image properties, confidence and components, and MMD of the components,
at α/2 each; a cell counts its alarms over --draws draws, and which image property it would name first.
"""

from __future__ import annotations

import argparse
import io
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from dlrecipes.cli.predict import find_checkpoint, load_task
from dlrecipes.shift import PCA, PROPERTIES, ShiftFeatures, collect, mmd_test
from dlrecipes.shift.corruptions import corrupt

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "pictures" / "shift_power.png"
CHANGES = (
    "gaussian_noise",
    "shot_noise",
    "defocus_blur",
    "motion_blur",
    "pixelate",
    "jpeg",
    "brightness",
    "contrast",
)
SEVERITIES, FRACTIONS, SIZES = (1, 3, 5), (0.1, 0.5, 1.0), (20, 50, 100, 200, 500, 1000)
ALPHA, PERMUTATIONS, COMPONENTS, HALF, BATCH = 0.05, 199, 32, 5000, 500

Columns = dict[str, NDArray[np.float64]]  # name of the condition -> [10,000, properties, confidence and components]
Cell = tuple[str, int, float, int]  # change, severity, δ, n


def load_images(split: str, count: int) -> Tensor:
    """uint8 [count, 3, 32, 32] of the JPEG copy in $DLRECIPES_DATA."""
    folder = Path(os.environ.get("DLRECIPES_DATA", ROOT.parent / "shared" / "data"))
    with np.load(folder / "cifar10_jpeg.npz") as content:
        data, offsets = content[f"{split}_bytes"], content[f"{split}_offsets"]
    files = (data[offsets[i] : offsets[i + 1]].tobytes() for i in range(count))
    pictures = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def make_columns(options: argparse.Namespace, device: torch.device) -> Columns:
    """What is compared, of the clean test images and of each corruption; kept in ``--cache`` for the next time."""
    checkpoint, _ = find_checkpoint(options.run)
    stat = checkpoint.stat()
    file = options.cache / f"{checkpoint.stem}_{stat.st_size}_{int(stat.st_mtime)}.npz"
    if file.is_file():
        with np.load(file) as kept:
            return dict(kept)
    task: Any = load_task(checkpoint, device).to(device)
    side = (task.info.image_size,) * 2

    def look(images: Tensor) -> ShiftFeatures:
        with torch.inference_mode():
            batches = images.split(BATCH)
            return collect(batches, task.model, lambda batch: task.normalise(resize(batch, side)), device=device)

    pca = PCA.fit(look(load_images("train", HALF)).embedding, COMPONENTS)

    def columns(images: Tensor) -> NDArray[np.float64]:
        found = look(images)
        confidence = found.probabilities.amax(1, keepdim=True)
        return torch.cat((found.properties, confidence, pca(found.embedding)), 1).double().cpu().numpy()

    images = load_images("test", 2 * HALF)
    made: Columns = {"clean": columns(images)}
    for change, severity in product(CHANGES, SEVERITIES):
        made[f"{change} {severity}"] = columns(corrupt(images, change, severity))
        print(f"features of {change} {severity}", flush=True)
    options.cache.mkdir(parents=True, exist_ok=True)
    np.savez(file, **made)
    return made


def distances(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kolmogorov-Smirnov's D of every column at once: what ``ks_test`` gives, in a hundredth of the time."""
    rows = np.concatenate((x, y))
    order = rows.argsort(0, kind="stable")
    steps = np.where(order < len(x), 1 / len(x), -1 / len(y)).cumsum(0)
    ordered = np.take_along_axis(rows, order, 0)
    steps[:-1][ordered[1:] == ordered[:-1]] = 0  # inside equal values the distribution functions have no height
    found: NDArray[np.float64] = np.abs(steps).max(0)
    return found


def draw_sample(columns: Columns, cell: Cell, reference: int, repeat: int) -> tuple[Any, Any]:
    """Reference and new rows of one draw; the same draw of two cells has the same images."""
    change, severity, fraction, n = cell
    random = np.random.default_rng((repeat, n))
    first = random.choice(HALF, reference, replace=False)
    second = HALF + random.choice(HALF, n, replace=False)
    new = columns["clean"][second]
    if severity:
        shifted = round(fraction * n)
        new[:shifted] = columns[f"{change} {severity}"][second[:shifted]]
    return columns["clean"][first], new


def first_named(x: NDArray[np.float64], y: NDArray[np.float64], found: NDArray[np.float64]) -> str:
    """The image property that moved most; of a loss of noise and of sharpness, which is blur, the sharpness."""
    noise, sharpness = PROPERTIES.index("noise"), PROPERTIES.index("sharpness")
    order = found[: len(PROPERTIES)].copy()
    if (np.median(y[:, [noise, sharpness]], 0) < np.median(x[:, [noise, sharpness]], 0)).all():
        order[noise] = 0
    return PROPERTIES[int(order.argmax())]


def measure_cell(columns: Columns, cell: Cell, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Alarms of the verdict and its parts, and the property that is named first where one is."""
    alarms = dict.fromkeys(("verdict", "KS", "MMD"), 0)
    named: Counter[str] = Counter()
    for repeat in range(options.draws):
        x, y = draw_sample(columns, cell, options.reference, repeat)
        found = distances(x, y)
        most = int(found.argmax())
        ks = min(1.0, x.shape[1] * float(stats.ks_2samp(x[:, most], y[:, most]).pvalue))
        components = [torch.from_numpy(rows[:, len(PROPERTIES) + 1 :]).to(device) for rows in (x, y)]
        mmd = mmd_test(*components, PERMUTATIONS, seed=repeat).p_value
        for name, p_value in (("KS", ks), ("MMD", mmd), ("verdict", 2 * min(ks, mmd))):
            alarms[name] += p_value <= ALPHA
        if 2 * ks <= ALPHA:
            named[first_named(x, y, found)] += 1
    change, severity, fraction, n = cell
    counts = {"change": change, "severity": severity, "fraction": fraction, "n": n, "draws": options.draws}
    return {**counts, "reference": options.reference, "alarms": alarms, "named_first": dict(named.most_common())}


@lru_cache(maxsize=1)
def _kept_columns(file: Path) -> Columns:
    with np.load(file) as kept:
        return dict(kept)


def _work(job: tuple[Path, Cell, argparse.Namespace]) -> dict[str, Any]:
    """A cell in a process of its own."""
    file, cell, options = job
    torch.set_num_threads(options.threads)
    return measure_cell(_kept_columns(file), cell, options, torch.device("cpu"))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cells, no shift first; prints the table and draws the picture."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    columns = make_columns(options, device)
    cells: list[Cell] = [("none", 0, 0.0, n) for n in SIZES]
    cells += list(product(CHANGES, SEVERITIES, FRACTIONS, SIZES))
    if options.parallel > 1 and device.type == "cpu":
        file = options.cache / "columns.npz"
        np.savez(file, **columns)
        with ProcessPoolExecutor(options.parallel, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(_work, [(file, cell, options) for cell in cells]))
    else:
        rows = [measure_cell(columns, cell, options, device) for cell in cells]
    print_table(rows)
    draw_power(rows, PICTURE)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each change, severity and δ, the share of alarms at each n, and what is named first at the largest."""
    print("| change | severity | δ | " + " | ".join(f"n = {n}" for n in SIZES) + " | named first |")
    print("| :--- | ---: | ---: | " + " | ".join("---:" for _ in SIZES) + " | :--- |")
    lines: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["change"], row["severity"], row["fraction"]), []).append(row)
    for (change, severity, fraction), cells in lines.items():
        shares = " | ".join(f"{row['alarms']['verdict'] / row['draws']:.2f}" for row in cells)
        named = cells[-1]["named_first"]
        first = next(iter(named), "")
        share = f"{first} {named[first] / sum(named.values()):.0%}" if first else ""
        print(f"| {change} | {severity} | {fraction:g} | {shares} | {share} |")


def draw_power(rows: list[dict[str, Any]], path: Path) -> None:
    """Share of alarms over n: a panel for each change, a colour for each severity, broken lines for δ = .1."""
    with mpl.rc_context({"font.size": 13, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(15, 7.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, 4, sharex=True, sharey=True)
        false = [row for row in rows if row["change"] == "none"]
        for panel, change in zip(panels.flat, CHANGES, strict=True):
            for severity, fraction in product(SEVERITIES, (1.0, 0.1)):
                line = [r for r in rows if (r["change"], r["severity"], r["fraction"]) == (change, severity, fraction)]
                panel.plot(
                    [row["n"] for row in line],
                    [row["alarms"]["verdict"] / row["draws"] for row in line],
                    color=mpl.colormaps["viridis"](0.85 - 0.2 * severity + 0.2),
                    linestyle="-" if fraction == 1 else "--",
                    marker="o",
                    markersize=4,
                    label=f"severity {severity}, {'all' if fraction == 1 else 'a tenth'} of the images",
                )
            panel.plot(
                [row["n"] for row in false],
                [row["alarms"]["verdict"] / row["draws"] for row in false],
                color="crimson",
                linewidth=1.2,
                label="no shift: false alarms",
            )
            panel.axhline(ALPHA, color="grey", linewidth=1, linestyle=":", label=f"α = {ALPHA}")
            panel.set_title(change.replace("_", " "))
            panel.set_xscale("log")
            panel.set_xticks(SIZES, [str(n) for n in SIZES])
            panel.minorticks_off()
            panel.set_ylim(-0.02, 1.03)
        for panel in panels[-1]:
            panel.set_xlabel("new images")
        for panel in panels[:, 0]:
            panel.set_ylabel("share of alarms")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
