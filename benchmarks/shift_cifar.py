"""Power of the default verdict under corruptions of CIFAR-10, on features of a network trained here.

``python benchmarks/shift.py --parts cifar --run RUN`` calls it. Each draw takes a reference and other images as new
data from 3,000 test images, chosen at random since the file is sorted by class; a fraction δ of the new ones is
corrupted. Both sides come from the same JPEG files and only the corruption is between them. The verdict is
``dlrecipes.shift.compare``'s: KS of image properties, confidence and the two samples' common principal components, and
MMD of the components, at α/2 each. A cell counts its alarms over --draws draws, and which image property would be named
first. For speed, features are first projected on 128 components of 2,000 training images, KS's largest distance is
found for all columns at once, and MMD is left out where KS alarms. Some draws are given to ``compare`` itself: verdict
and name must be the same.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from records import DATA, ROOT
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.shift import PCA, PROPERTIES, ShiftFeatures, collect, compare, mmd_test
from dlrecipes.shift.corruptions import corrupt

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
ALPHA, PERMUTATIONS, COMPONENTS, KEPT = 0.05, 199, 32, 128
IMAGES = {"train": 2000, "test": 3000}
CHECKED = 2  # draws of each corruption that ``compare`` itself sees, too
BATCH = {"cpu": 25, "cuda": 500}  # what the B0 of 32 pixels is fastest with

Columns = dict[str, NDArray[np.float64]]  # of the clean test images and of each corruption of them
Cell = tuple[str, int, float, int]  # change, severity, δ, n


def load_images(split: str) -> Tensor:
    """uint8 [n, 3, 32, 32] of the JPEG copy in $DLRECIPES_DATA, of all classes."""
    with np.load(DATA / "cifar10_jpeg.npz") as content:
        data, offsets = content[f"{split}_bytes"], content[f"{split}_offsets"]
    chosen = np.random.default_rng(0).choice(len(offsets) - 1, IMAGES[split], replace=False)
    files = (data[offsets[i] : offsets[i + 1]].tobytes() for i in chosen)
    pictures = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


class Looker:
    """Rows of images: properties, confidence, and the features on components of clean training images."""

    def __init__(self, run: Path, device: torch.device) -> None:
        task: Any = load_task(find_checkpoint(run)[0], device).to(device)
        self.task, self.device = task.to(memory_format=torch.channels_last), device
        embedding = self._collect(load_images("train"))[0]
        self.pca = PCA.fit(embedding, KEPT)
        left = (embedding.double() - self.pca.mean).square().sum() - self.pca(embedding).square().sum()
        share = left / (embedding.double() - self.pca.mean).square().sum()
        print(f"{KEPT} components leave {share:.2%} of the features' variance out", flush=True)

    def _collect(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding, probabilities and properties, a row for each image."""
        side = (self.task.info.image_size,) * 2

        def prepare(batch: Tensor) -> Tensor:
            pixels: Tensor = self.task.normalise(resize(batch, side))
            return pixels.contiguous(memory_format=torch.channels_last)

        with torch.inference_mode():
            batches = images.split(BATCH[self.device.type])
            found = collect(batches, self.task.model, prepare, device=self.device)
        assert found.embedding is not None, "a classifier has features"
        assert found.probabilities is not None, "and a softmax"
        assert found.properties is not None, "and images have properties"
        return found.embedding, found.probabilities, found.properties

    def __call__(self, images: Tensor) -> NDArray[np.float64]:
        embedding, probabilities, properties = self._collect(images)
        confidence = probabilities.amax(1, keepdim=True)
        rows: NDArray[np.float64] = torch.cat((properties, confidence, self.pca(embedding)), 1).double().cpu().numpy()
        return rows


@lru_cache(maxsize=1)
def _looker(run: Path, device: str) -> Looker:
    return Looker(run, torch.device(device))


def _look(job: tuple[Path, str, int, str, int]) -> tuple[str, NDArray[np.float64]]:
    """One condition: clean or corrupted test images."""
    run, device, threads, change, severity = job
    torch.set_num_threads(threads)
    images = load_images("test")
    seen = images if change == "clean" else corrupt(images, change, severity)
    name = "clean" if change == "clean" else f"{change} {severity}"
    rows = _looker(run, device)(seen)
    print(f"features of {name}", flush=True)
    return name, rows


def make_columns(options: argparse.Namespace, device: torch.device) -> Columns:
    """What is compared, of the clean test images and of each corruption; kept in ``--cache`` for the next time."""
    checkpoint, _ = find_checkpoint(options.run)
    stat = checkpoint.stat()
    file = options.cache / f"{checkpoint.stem}_{stat.st_size}_{int(stat.st_mtime)}.npz"
    if file.is_file():
        with np.load(file) as kept:
            return dict(kept)
    conditions = [("clean", 0), *product(CHANGES, SEVERITIES)]
    jobs = [(options.run, device.type, options.threads, *condition) for condition in conditions]
    if options.parallel > 1 and device.type == "cpu":
        with ProcessPoolExecutor(options.parallel, mp_context=get_context("spawn")) as pool:
            made = dict(pool.map(_look, jobs))
    else:
        made = dict(map(_look, jobs))
    options.cache.mkdir(parents=True, exist_ok=True)
    save_columns(file, made)
    return made


def save_columns(file: Path, columns: Columns) -> None:
    """Uncompressed."""
    np.savez(file, **cast(Mapping[str, Any], columns))  # numpy's types take any of them for ``allow_pickle``


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
    both = random.choice(IMAGES["test"], reference + n, replace=False)
    old, new = columns["clean"][both[:reference]], columns["clean"][both[reference:]]
    shifted = round(fraction * n)
    if shifted:
        new[:shifted] = columns[f"{change} {severity}"][both[reference : reference + shifted]]
    return old, new


def common_components(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], Tensor, int]:
    """Columns that KS looks at, of both samples, and the two samples' common components; the first's rows."""
    fixed = len(PROPERTIES) + 1
    kept = torch.from_numpy(np.concatenate((x[:, fixed:], y[:, fixed:])))
    components = PCA.fit(kept, COMPONENTS)(kept)
    return np.c_[np.concatenate((x[:, :fixed], y[:, :fixed])), components.numpy()], components, len(x)


def ks_p_value(x: NDArray[np.float64], y: NDArray[np.float64], column: int) -> float:
    """Corrected for all columns."""
    p_value = float(stats.ks_2samp(x[:, column], y[:, column]).pvalue)
    return min(1.0, len(x[0]) * p_value)


def first_named(x: NDArray[np.float64], y: NDArray[np.float64], found: NDArray[np.float64]) -> str:
    """What ``compare`` names first; of a loss of noise and of sharpness, which is blur, not the noise."""
    order = found[: len(PROPERTIES)].copy()
    both = [PROPERTIES.index(name) for name in ("noise", "sharpness")]
    lower = np.median(y[:, both], 0) < np.median(x[:, both], 0)
    if lower.all() and all(ks_p_value(x, y, column) <= ALPHA / 2 for column in both):
        order[both[0]] = 0
    most = int(order.argmax())
    return PROPERTIES[most] if ks_p_value(x, y, most) <= ALPHA / 2 else "no image property"


class Look(NamedTuple):
    """Whether KS alarms, whether MMD does where KS does not, and what is named first."""

    ks: bool
    mmd_alone: bool
    named: str | None

    @property
    def alarm(self) -> bool:
        return self.ks or self.mmd_alone


def judge(x: NDArray[np.float64], y: NDArray[np.float64], seed: int, device: torch.device) -> Look:
    """One draw."""
    rows, components, count = common_components(x, y)
    x, y = rows[:count], rows[count:]
    found = distances(x, y)
    if ks_p_value(x, y, int(found.argmax())) <= ALPHA / 2:
        return Look(True, False, first_named(x, y, found))
    mmd = mmd_test(components[:count].to(device), components[count:].to(device), PERMUTATIONS, seed=seed)
    return Look(False, mmd.p_value <= ALPHA / 2, None)


def check_against_compare(x: NDArray[np.float64], y: NDArray[np.float64], seed: int, look: Look) -> None:
    """What ships says the same of these rows."""
    fixed = len(PROPERTIES)

    def features(rows: NDArray[np.float64]) -> ShiftFeatures:
        values = torch.from_numpy(rows)
        confidence = values[:, fixed : fixed + 1]
        sure = torch.cat((confidence, 1 - confidence), 1)  # the verdict knows only the larger
        return ShiftFeatures(properties=values[:, :fixed], probabilities=sure, embedding=values[:, fixed + 1 :])

    report = compare(features(x), features(y), alpha=ALPHA, permutations=PERMUTATIONS, seed=seed, components=COMPONENTS)
    named = next((c.name for c in report.culprits if c.kind == "image property"), "no image property")
    assert report.shifted == look.alarm, (report.p_value, look)
    assert not look.ks or named == look.named, (report.culprits, look)


def measure_cell(columns: Columns, cell: Cell, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Alarms of the verdict and its parts, and the property that is named first where one is."""
    change, severity, fraction, n = cell
    alarms = dict.fromkeys(("verdict", "KS"), 0)
    named: Counter[str] = Counter()
    for repeat in range(options.draws):
        x, y = draw_sample(columns, cell, options.reference, repeat)
        look = judge(x, y, repeat, device)
        if repeat < CHECKED and n == 100 and fraction in (0, 1):
            check_against_compare(x, y, repeat, look)
        alarms["verdict"] += look.alarm
        alarms["KS"] += look.ks
        if look.named:
            named[look.named] += 1
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
        save_columns(file, columns)
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
