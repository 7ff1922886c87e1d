"""Whether torch.compile pays for a model: seconds a training step without it and with it, and what compiling costs.

python benchmarks/compile_pays.py            # every case, on a GPU: about 5 minutes
python benchmarks/compile_pays.py mixer@32   # one of them

Synthetic images that are on the device already, bf16 autocast, fused AdamW, forward and backward and optimizer.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.models import EfficientNet, MLPMixer

CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # model, batch size, pixels
    "mixer@32": (lambda: MLPMixer("small"), 512, 32),
    "efficientnet_b0@32": (lambda: EfficientNet("b0"), 512, 32),
    "efficientnet_lite0@128": (lambda: EfficientNet("lite0"), 256, 128),
    "efficientnet_b0@224": (lambda: EfficientNet("b0"), 256, 224),
}
MODES = (None, "default", "reduce-overhead")
REPEATS, STEPS = 7, 20


def info(side: int) -> DataInfo:
    names = tuple(f"class_{i}" for i in range(10))
    return DataInfo(
        task="classification",
        classes=names,
        category_ids=tuple(range(10)),
        class_counts=(5000,) * 10,
        num_train=50_000,
        max_objects=0,
        image_size=side,
    )


def make_step(case: str, mode: str | None, device: torch.device) -> Callable[[], None]:
    factory, batch, side = CASES[case]
    torch.manual_seed(0)
    model = factory()
    model.bind(info(side))  # type: ignore[operator]  # both models have it
    model = model.to(device).to(memory_format=torch.channels_last).train()
    forward = model if mode is None else torch.compile(model, dynamic=False, mode=mode)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("compile_pays.py measures a GPU, and there is none.")
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {REPEATS} x {STEPS} steps, median (range)")
    for case in sys.argv[1:] or CASES:
        eager = None
        for mode in MODES:
            step = make_step(case, mode, device)
            started = time.perf_counter()
            for _ in range(5):
                step()
            torch.cuda.synchronize()
            first = time.perf_counter() - started
            times = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                for _ in range(STEPS):
                    step()
                torch.cuda.synchronize()
                times.append((time.perf_counter() - started) / STEPS)
            median = statistics.median(times)
            eager = eager or median
            spread = f"{1e3 * median:7.2f} ms ({1e3 * min(times):.2f} to {1e3 * max(times):.2f})"
            print(
                f"{case:24} {mode or 'eager':16} {spread}  {CASES[case][1] / median:9.0f} img/s"
                f"  {eager / median:5.2f}x  first five steps {first:5.1f} s",
                flush=True,
            )
            del step
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
