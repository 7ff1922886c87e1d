"""Sigmoid focal loss, forward and backward: ours against torchvision's, as it is and compiled, in one run.

python benchmarks/focal.py                 # 57,600 x 91 and 614,000 x 80 on a GPU: under a minute
python benchmarks/focal.py --device cpu    # sizes divided by 20, where ours is the same formula in torch: says little

Arms: torchvision's eager function on a one-hot matrix that is there already; the same under torch.compile; ours eager;
ours under torch.compile. Time by torch.utils.benchmark, which waits for the device; peak memory beyond the inputs;
the share of the time that the bytes alone would take at the device's measured copy speed. Under 1.3 times the speed of
the compiled function a kernel of one's own is not worth its keep: the verdict says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer
from torchvision.ops import sigmoid_focal_loss

from dlrecipes.ops import fused_sigmoid_focal_loss

SIZES = ((57_600, 91), (614_000, 80))
REPEATS = 7


def torchvisions(logits: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = sigmoid_focal_loss(logits, target, reduction="sum")
    return loss


def milliseconds(run: Callable[[], object]) -> list[float]:
    """Median of a block of calls, REPEATS times."""
    run()
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return [1e3 * timer.blocked_autorange(min_run_time=0.2).median for _ in range(REPEATS)]


def peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def copy_speed(device: torch.device) -> float:
    """Bytes a millisecond that a copy of 256 MiB reads and writes."""
    x = torch.empty(2**26, device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() * 4 / min(milliseconds(lambda: y.copy_(x)))


def compare(rows: int, classes: int, device: torch.device, speed: float) -> dict[str, object]:
    torch.manual_seed(0)
    logits = torch.randn(rows, classes, device=device)
    labels = torch.randint(0, 20 * classes, (rows,), device=device)  # one row in 20 has an object, as in detection
    target = F.one_hot(labels.clamp(max=classes), classes + 1)[:, :classes].float()
    arms: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
        "torchvision": (torchvisions, target),
        "torchvision, compiled": (torch.compile(torchvisions, dynamic=False), target),
        "ours": (fused_sigmoid_focal_loss, labels),
        "ours, compiled": (torch.compile(fused_sigmoid_focal_loss, dynamic=False), labels),
    }
    found: dict[str, object] = {"rows": rows, "classes": classes}
    medians: dict[str, float] = {}
    for name, (function, against) in arms.items():
        x = logits.clone().requires_grad_()

        def run(x: Tensor = x, function: Callable[..., Tensor] = function, against: Tensor = against) -> None:
            x.grad = None
            function(x, against).backward()

        times = milliseconds(run)
        medians[name] = statistics.median(times)
        memory = peak_mib(run, device)
        found[name] = {"ms": times, "peak_mib": memory}
        beyond = "" if memory is None else f", {memory:.0f} MiB beyond its inputs"
        print(f"{rows} x {classes}  {name:22} {medians[name]:8.3f} ms ({min(times):.3f} to {max(times):.3f}){beyond}")
    floor = 2 * logits.numel() * 4 / speed
    margin = medians["torchvision, compiled"] / min(medians["ours"], medians["ours, compiled"])
    verdict = "worth a kernel" if margin >= 1.3 else "under 1.3: ship the compiled function"
    print(f"{rows} x {classes}  reading logits and writing gradients alone: {floor:.3f} ms")
    print(f"{rows} x {classes}  {margin:.2f} times as fast as torchvision's compiled: {verdict}", flush=True)
    return found | {"floor_ms": floor, "margin_over_compiled": margin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write all times there")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, float32, forward and backward, median of {REPEATS} (least to most)")
    speed = copy_speed(device)
    sizes = SIZES if device.type == "cuda" else tuple((rows // 20, classes) for rows, classes in SIZES)
    found = [compare(rows, classes, device, speed) for rows, classes in sizes]
    if options.json:
        content = {"device": name, "torch": torch.__version__, "sizes": found}
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
