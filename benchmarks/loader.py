"""Seconds an epoch of augmented, normalised batches takes on the CPU: from the cache, against torchvision's way.

python benchmarks/loader.py                      # two CPU cores: about two minutes

CIFAR-10 (crop with a margin of 4, flip, float, normalised; batches of 512): ``ClassificationData`` against a data set
as torchvision's ``CIFAR10`` with RandomCrop, RandomHorizontalFlip, ToTensor and Normalize in a ``DataLoader``. Photos
(a random part scaled to 224 pixels, flip; batches of 64): against ``ImageFolder``. Of 0, 1 and 2 workers, torchvision
gets the best one; dlrecipes works in one process and one thread. Arms take turns, after one epoch of each that is not
counted. Data: $DLRECIPES_DATA.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from records import DATA, RESULTS, processor, write_dated
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from dlrecipes.data import ClassificationData, array_source

Epoch = Callable[[], int]  # runs through the training split, returns the number of images


class CifarStyle(Dataset[Any]):
    """What ``torchvision.datasets.CIFAR10`` does with its array."""

    def __init__(
        self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], transform: Callable[[Image.Image], torch.Tensor]
    ) -> None:
        self.pixels, self.labels, self.transform = pixels, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def cifar(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    content = np.load(folder / "cifar10_jpeg.npz")
    data, offsets = content["train_bytes"], content["train_offsets"]
    files = (io.BytesIO(data[a:b].tobytes()) for a, b in pairwise(offsets))
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return pixels, content["train_labels"], content["classes"].tolist()


def ours(data: ClassificationData) -> Epoch:
    data.setup("fit")
    loader = data.train_dataloader()
    sampler: Any = loader.sampler  # an EpochSampler, of which DataLoader's types know nothing
    mean, std = (255.0 * torch.tensor(values)[:, None, None] for values in (data.info.mean, data.info.std))
    numbers = iter(range(10**6))

    def run() -> int:
        sampler.set_epoch(next(numbers))
        count = 0
        for batch in loader:
            images = data.finish(batch, training=True)["images"]
            count += len(images.float().sub_(mean).div_(std))
        return count

    return run


def theirs(dataset: Dataset[Any], batch_size: int, workers: int) -> Epoch:
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(images) for images, _ in loader)


def seconds(epoch: Epoch) -> tuple[float, int]:
    start = time.perf_counter()
    count = epoch()
    return time.perf_counter() - start, count


def compare(name: str, data: ClassificationData, dataset: Dataset[Any], repeats: int) -> dict[str, Any]:
    first = time.perf_counter()
    mine = ours(data)
    made = time.perf_counter() - first
    mine()
    choices = {}
    for workers in (0, 1, 2):
        run = theirs(dataset, data.batch_size, workers)
        run()
        choices[workers] = (seconds(run)[0], run)
    best = min(choices, key=lambda workers: choices[workers][0])
    times: dict[str, list[float]] = {"dlrecipes": [], "torchvision": []}
    for _ in range(repeats):
        for arm, run in (("dlrecipes", mine), ("torchvision", choices[best][1])):
            taken, count = seconds(run)
            times[arm].append(1e6 * taken / count)
    ratio = statistics.median(times["torchvision"]) / statistics.median(times["dlrecipes"])
    for arm, each in times.items():
        print(f"{name:8} {arm:12} {statistics.median(each):8.1f} µs an image ({min(each):.1f} to {max(each):.1f})")
    print(f"{name:8} {ratio:.1f} times as fast; torchvision with {best} worker(s), dlrecipes with {data.num_workers}")
    tried = {str(workers): taken for workers, (taken, _) in choices.items()}
    return {
        "microseconds_an_image": times,
        "ratio": ratio,
        "torchvision_workers": best,
        "torchvision_seconds_by_workers": tried,
        "dlrecipes_workers": data.num_workers,
        "seconds_to_make": made,
    }


def cifar_arms(folder: Path, repeats: int) -> dict[str, Any]:
    pixels, labels, classes = cifar(folder)
    source = array_source((pixels, labels), (pixels[:512], labels[:512]), classes=classes, name="cifar10")
    data = ClassificationData(source=source, batch_size=512, augment="light")
    transform = T.Compose(
        [
            T.RandomCrop(32, padding=4),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
        ]
    )
    return compare("CIFAR-10", data, CifarStyle(pixels, labels, transform), repeats)


def photo_arms(folder: Path, repeats: int) -> dict[str, Any]:
    """The 100 photos of tiny_coco, four times each, as if they were of two classes."""
    photos = sorted((folder / "tiny_coco").rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as temporary:
        for copy in range(4):
            for number, photo in enumerate(photos):
                link = Path(temporary, "train", str(number % 2), f"{copy}_{photo.name}")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(photo)
        (Path(temporary) / "val").symlink_to(Path(temporary) / "train")
        data = ClassificationData(temporary, batch_size=64, image_size=224, augment="light")
        normalise = T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        transform = T.Compose([T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(), normalise])
        dataset = torchvision.datasets.ImageFolder(f"{temporary}/train", transform)
        return compare("photos", data, dataset, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # on a shared machine two threads wait for each other more than they help
    cores = len(os.sched_getaffinity(0))
    about = {"cores": cores, "machine": processor(), "torch": str(torch.__version__)}
    about |= {
        "torchvision": str(torchvision.__version__),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }
    results = {
        "about": about,
        "cifar10": cifar_arms(options.data, options.repeats),
    }
    if (options.data / "tiny_coco").is_dir():
        results["photos"] = photo_arms(options.data, options.repeats)
    else:
        print(f"photos   left out: there is no {options.data / 'tiny_coco'}")
    write_dated("loader", results, options.results)


if __name__ == "__main__":
    main()
