"""``--staged true`` by the recipe's real command line."""

from pathlib import Path
from types import ModuleType

from tiny_runs import call

from dlrecipes.runs import RunFolder
from dlrecipes.runs.verdicts import read_verdicts


def test_a_run_learns_first_and_says_what_each_stage_brought(
    efficientnet: ModuleType, configs: Path, photos: Path, tmp_path: Path
) -> None:
    words = ["--config", configs / "efficientnet.yaml", "--data", photos, "--output", tmp_path, "--epochs", 5]
    outcome = call(efficientnet.main, *words, "--staged", "true")
    assert outcome.code == 0, outcome.err
    for stage in (
        "Stage 1 of 3, learn: batch norm off; augmentation off",
        "Stage 2 of 3, harden",
        "Stage 3 of 3, adjust",
    ):
        assert stage in outcome.out
    (home,) = tmp_path.iterdir()
    titles = [verdict.title for verdict in read_verdicts(RunFolder.open(home))]
    assert {"stage learn", "stage harden", "stage adjust"} <= set(titles)
