"""Each line of the notes in little: the same small training with a part and without, five seeds, one CPU core.

python benchmarks/notes.py                        # all of them: about an hour
python benchmarks/notes.py staged early_stopping  # some
python benchmarks/notes.py --list

The trainings take seconds: 8 x 8 digits of scikit-learn, or arrays of numbers. They show what a part does where one can
look at all of it, and not how much it brings on data of yours. Nothing is chosen by the test digits: settings are those
of the first try, or the sentence says how they came about. Figures go to `docs/notes.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from note_runs import Experiment, measure
from notes_exact import EXPERIMENTS as EXACT
from notes_imbalance import EXPERIMENTS as IMBALANCE
from notes_losses import EXPERIMENTS as LOSSES
from notes_new_data import EXPERIMENTS as NEW_DATA
from notes_numbers import EXPERIMENTS as NUMBERS
from notes_training import EXPERIMENTS as TRAINING

EXPERIMENTS: dict[str, Experiment] = {**LOSSES, **NUMBERS, **EXACT, **IMBALANCE, **NEW_DATA, **TRAINING}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true", help="names and what they measure")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "notes")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(EXPERIMENTS)}")
    for name in options.names or EXPERIMENTS:
        if options.list:
            print(f"{name:24} {EXPERIMENTS[name].about}")
        else:
            measure(name, EXPERIMENTS[name], options.seeds, options.results)


if __name__ == "__main__":
    main()
