"""Correction of covariate shift: weights against the truth, and a network on corrupted CIFAR-10 with AdaBN and Tent.

python benchmarks/shift_correction.py --parts weights                                     # two minutes
python benchmarks/shift_correction.py --parts bn tent long --run RUN                      # 25 minutes on one core

RUN is any classifier of CIFAR-10 with batch norms; this one takes ten minutes on one core, 0.78 on the JPEG copy:
python -c "from pathlib import Path; import sys; sys.path.insert(0, 'benchmarks'); import cifar10; \
    cifar10.write_parquet(Path('cifar10_jpeg.npz'), Path('cifar10'), None)"
python recipes/train_efficientnet.py --data cifar10 --epochs 6 --model.model dlrecipes.models.TimmClassifier \
    --model.model.name resnet10t --model.model.args '{channels: [24, 48, 96, 192], stem_width: 8, stem_type: deep}' \
    --image_size 64 --augment light --data.batch_size 128 --data.val_split test --trainer.check_val_every_n_epoch 6 \
    --model.lr 3e-3

weights: 1,000 old samples of N(0, I) and 1,000 new ones of N((.7, 0, 0), I) in three dimensions; a linear fit has a
squared error that depends on where it is asked. How often is the weighted mean of the old errors nearer to the risk on
the new distribution (a mean over two million samples) than the plain mean? "truth" has the true ratio as weights,
"ulsif" is the library's variant, "ulsif as published" the authors' form.
bn: statistics of so many corrupted test images, accuracy on 2,000 others. tent: a stream of 2,000 corrupted test images
in batches of 200, in several orders; sorted by class is what breaks it. long: all 10,000 images.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from recipe_runs import write_results
from records import DATA, RESULTS
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from dlrecipes.shift import Tent, adapt_bn, corrupt
from dlrecipes.shift.corruptions import CORRUPTIONS
from dlrecipes.shift.density_ratio import RATIO_METHODS, DensityRatio

Array = NDArray[np.float64]

SHIFT = (0.7, 0.0, 0.0)
COUNT = 1000
ARMS: dict[str, dict[str, Any]] = {"guarded": {}, "guarded, lr 1e-2": {"lr": 1e-2}, "unguarded": {"guard": False}}
BATCH = 200


def published_ulsif(old: Array, new: Array, seed: int = 0) -> DensityRatio:
    """uLSIF as in Kanamori et al. (2009): w = sum of α K, α = max(0, (H + λI)^-1 h), σ and λ by leaving pairs out.

    Features, widths, penalties and the number of centres are those of `dlrecipes.shift.density_ratio.ulsif`.
    """
    both = np.concatenate((old, new))
    both = (both - both.mean(0)) / both.std(0, ddof=1)
    old, new = both[: len(old)], both[len(old) :]
    rng = np.random.default_rng((seed, 4))
    old_order, new_order = rng.permutation(len(old)), rng.permutation(len(new))
    centres = new[new_order[:100]]
    best: tuple[float, ...] = (np.inf, 0.0, 0.0)
    weights = np.ones(len(old))
    median = np.median(pdist(both[rng.permutation(len(both))[:1000]]))
    for sigma in median * np.array((0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0)):
        at_old, at_new = (np.exp(-cdist(rows, centres, "sqeuclidean") / (2 * sigma**2)) for rows in (old, new))
        for penalty in 10.0 ** (np.arange(-6, 3) / 2):
            score = left_out(at_old[old_order], at_new[new_order], penalty)
            if score < best[0]:
                best = (score, sigma, penalty)
                system = at_old.T @ at_old / len(old) + penalty * np.eye(len(centres))
                weights = at_old @ np.linalg.solve(system, at_new.mean(0)).clip(min=0)
    chosen = {"sigma": best[1], "penalty": best[2]}
    return DensityRatio(torch.from_numpy(weights / weights.mean()), "ulsif as published", chosen)


ESTIMATORS = {**RATIO_METHODS, "ulsif as published": published_ulsif}
METHODS = (*ESTIMATORS, "truth")


def left_out(at_old: Array, at_new: Array, penalty: float) -> float:
    """Mean of w²/2 at an old sample less w at a new one, each pair left out of the fit (Sherman and Morrison)."""
    n, m = len(at_old), len(at_new)
    pairs = min(n, m)
    left, right = at_old[:pairs], at_new[:pairs]
    inverse = np.linalg.inv(at_old.T @ at_old / n + penalty * (n - 1) / n * np.eye(at_old.shape[1]))
    solved = left @ inverse
    plain = (m * at_new.mean(0) - right) / (m - 1) @ inverse
    lift = (left * plain).sum(1) / (n - (left * solved).sum(1))
    alpha = ((n - 1) / n * (plain + lift[:, None] * solved)).clip(min=0)
    return float((((alpha * left).sum(1) ** 2) / 2 - (alpha * right).sum(1)).mean())


def weights(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each estimator: how often its weighted risk is nearer to the truth, and how far off both are."""
    mean = np.array(SHIFT)

    def sample(rng: np.random.Generator, count: int, centre: Array) -> tuple[Array, Array]:
        x = centre + rng.standard_normal((count, 3))
        return x, np.sin(2 * x[:, 0]) + x[:, 1] + 0.3 * rng.standard_normal(count)

    x, y = sample(np.random.default_rng(1), 500, np.zeros(3))
    fit = np.linalg.lstsq(np.c_[np.ones(500), x], y, rcond=None)[0]

    def errors(x: Array, y: Array) -> Array:
        squared: Array = (fit[0] + x @ fit[1:] - y) ** 2
        return squared

    truth = float(errors(*sample(np.random.default_rng(2), 2_000_000, mean)).mean())

    def true_ratio(old: Array, new: Array, seed: int) -> DensityRatio:
        ratio = np.exp(old @ mean - mean @ mean / 2)
        return DensityRatio(torch.from_numpy(ratio / ratio.mean()), "truth")

    for method in options.methods:
        estimate = {**ESTIMATORS, "truth": true_ratio}[method]
        off: list[tuple[float, float]] = []
        efficiency = []
        for repeat in range(options.repeats):
            rng = np.random.default_rng((3, repeat))
            old, labels = sample(rng, COUNT, np.zeros(3))
            new, _ = sample(rng, COUNT, mean)
            ratio = estimate(old, new, seed=repeat).check()
            loss = errors(old, labels)
            off.append((abs(float((ratio.weights.numpy() * loss).mean()) - truth), abs(float(loss.mean()) - truth)))
            efficiency.append(ratio.efficiency)
        nearer = sum(weighted < plain for weighted, plain in off)
        yield {
            "part": "weights",
            "method": method,
            "repeats": options.repeats,
            "nearer": nearer,
            "share": nearer / options.repeats,
            "truth": truth,
            "error_weighted": float(np.mean([weighted for weighted, _ in off])),
            "error_plain": float(np.mean([plain for _, plain in off])),
            "efficiency": float(np.mean(efficiency)),
        }


class Network:
    """A run's classifier on uint8 images of 32 pixels, and the test images."""

    def __init__(self, options: argparse.Namespace) -> None:
        from dlrecipes.cli.actions.run_images import open_run

        opened = open_run(options.run)
        self.task, self.preprocess, self.device = opened.task, opened.preprocess, opened.device
        content = np.load(options.npz)
        files, ends = content["test_bytes"], content["test_offsets"]
        count = len(content["test_labels"])
        pictures = [
            np.asarray(Image.open(io.BytesIO(files[ends[i] : ends[i + 1]].tobytes())).convert("RGB"))
            for i in range(count)
        ]
        self.images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(content["test_labels"].astype(np.int64))

    def look(self, rows: Tensor, corruption: str, severity: int) -> list[Tensor]:
        """What the network takes, in batches."""
        found = []
        for piece in rows.split(BATCH):
            images = self.images[piece]
            if corruption != "none":
                images = corrupt(images, corruption, severity, piece)
            found.append(self.preprocess(images.to(self.device)))
        return found

    def right(self, answers: list[Tensor], rows: Tensor) -> float:
        return (torch.cat(answers).argmax(1).cpu() == self.labels[rows]).double().mean().item()

    @torch.no_grad()
    def accuracy(self, model: torch.nn.Module, batches: list[Tensor], rows: Tensor) -> float:
        return self.right([model(batch) for batch in batches], rows)


def bn(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of AdaBN: how much of the accuracy that a corruption costs comes back."""
    network = Network(options)
    model = network.task.model
    for seed in options.seeds:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(network.images)))
        tested, others = order[:2000], order[2000:3000]
        clean = network.accuracy(model, network.look(tested, "none", 0), tested)
        for corruption in options.corruptions:
            batches, adapting = (network.look(rows, corruption, 5) for rows in (tested, others))
            source = network.accuracy(model, batches, tested)
            whole = torch.cat(adapting)
            sizes = (
                ((1000, 0), (256, 0), (64, 0), (64, 16), (16, 0), (16, 16))
                if corruption == "contrast"
                else ((1000, 0),)
            )
            for count, prior in sizes:
                adapted = adapt_bn(model, list(whole[:count].split(BATCH)), source_samples=prior)
                found = network.accuracy(adapted, batches, tested)
                lost = clean - source
                yield {
                    "part": "bn",
                    "seed": seed,
                    "corruption": corruption,
                    "severity": 5,
                    "images": count,
                    "source_samples": prior,
                    "clean": clean,
                    "source": source,
                    "adapted": found,
                    "recovered": (found - source) / lost if lost > 0.02 else None,
                }


def stream(
    network: Network, rows: Tensor, corruption: str, arms: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row for each arm on one stream."""
    model = network.task.model
    batches = network.look(rows, corruption, 5)
    source = network.accuracy(model, batches, rows)
    for arm, arguments in arms.items():
        tent = Tent(model, **arguments)
        answers = [tent(batch) for batch in batches]
        last = rows[-4 * BATCH :]
        yield {
            "corruption": corruption,
            "arm": arm,
            "images": len(rows),
            "source": source,
            "tent": network.right(answers, rows),
            "source_end": network.accuracy(model, batches[-4:], last),
            "tent_end": network.right(answers[-4:], last),
            "resets": tent.resets,
            "declined": tent.declined,
            "batches": tent.batches,
            "distance": tent.distance,
        }


def tent(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of Tent on streams of 2,000."""
    network = Network(options)
    for seed in options.seeds:
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(network.images))[:2000])
        by_class = rows[network.labels[rows].argsort(stable=True)]
        for corruption in ("none", *options.corruptions):
            for order, chosen in (("mixed", rows), ("sorted by class", by_class)):
                for row in stream(network, chosen, corruption, ARMS):
                    yield {"part": "tent", "seed": seed, "order": order, **row}


def long(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of Tent on all test images."""
    network = Network(options)
    for seed in options.seeds:
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(network.images)))
        for corruption in ("none", "contrast"):
            for row in stream(network, rows, corruption, {arm: ARMS[arm] for arm in ("guarded", "guarded, lr 1e-2")}):
                yield {"part": "long", "seed": seed, "order": "mixed", **row}


PARTS = {"weights": weights, "bn": bn, "tent": tent, "long": long}


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """The targets, and what was reached."""
    found = [
        f"{row['method']}: nearer to the truth in {row['share']:.1%} of {row['repeats']}, error "
        f"{row['error_weighted']:.4f} instead of {row['error_plain']:.4f}"
        for row in rows
        if row["part"] == "weights"
    ]
    back = [r["recovered"] for r in rows if r["part"] == "bn" and (r["corruption"], r["images"]) == ("contrast", 1000)]
    if back:
        found.append(f"AdaBN, contrast 5: {min(back):.0%} to {max(back):.0%} of the lost accuracy come back")
    for arm in ARMS:
        part = [r for r in rows if r["part"] in ("tent", "long") and r["arm"] == arm]
        if part:
            lift = [r["tent"] - r["source"] for r in part]
            end = [r["tent_end"] - r["source_end"] for r in part]
            worst = part[int(np.argmin(lift))]
            found.append(
                f"Tent, {arm}: {np.mean(lift):+.3f} against the source over {len(part)} streams, at worst "
                f"{min(lift):+.3f} ({worst['corruption']}, {worst['order']}), in a stream's last 800 {min(end):+.3f}"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=["weights"])
    parser.add_argument("--run", type=Path, help="run folder of a CIFAR-10 classifier")
    parser.add_argument("--npz", type=Path, default=DATA / "cifar10_jpeg.npz")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="of weights")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--corruptions", nargs="+", choices=CORRUPTIONS, default=list(CORRUPTIONS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.run is None and set(options.parts) - {"weights"}:
        parser.error("--run is needed: the description says how to train one")
    begun, rows = time.perf_counter(), []
    for part in options.parts:
        for row in PARTS[part](options):
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(*verdicts(rows), sep="\n")
    name = f"shift_correction_{'_'.join(options.parts)}"
    about = {"command": sys.argv, "seconds": time.perf_counter() - begun, "verdicts": verdicts(rows)}
    print(write_results(name, rows, options.results, **about))


if __name__ == "__main__":
    main()
