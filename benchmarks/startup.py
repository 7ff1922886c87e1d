"""How long a user waits before anything happens: importing the package, and the recipe's help.

python benchmarks/startup.py          # median of 5 fresh processes each, with the range
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from records import ROOT

COMMANDS = {
    "python -c 'pass'": ["-c", "pass"],
    "python -c 'import dlrecipes'": ["-c", "import dlrecipes"],
    "python recipes/train_detr.py -h": ["recipes/train_detr.py", "-h"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main(repeats: int = 5) -> None:
    for name, arguments in COMMANDS.items():
        times = [seconds(arguments) for _ in range(repeats)]
        print(f"{name:36} {statistics.median(times):6.3f} s  ({min(times):.3f} to {max(times):.3f}, {repeats} runs)")
    text = subprocess.run(
        [sys.executable, "recipes/train_detr.py", "-h"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    print(f"{'lines of -h':36} {len(text.splitlines()):6d}")


if __name__ == "__main__":
    main()
