from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("ddp_scenarios.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two real gloo processes; all scenarios in one start, since the start takes most of the time."""
    folder = tmp_path_factory.mktemp("ranks")
    finished = subprocess.run(
        [sys.executable, SCRIPT, folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    # The script's last fit gets a Ctrl-C in rank 0 only; run() returns when rank 1 has closed its output too.
    assert finished.returncode == 130, finished.stderr[-3000:]
    return folder, [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


def test_ctrl_c_in_one_rank_leaves_a_checkpoint(seen: tuple[Path, list[dict[str, Any]]]) -> None:
    assert (seen[0] / "h" / "stopped.ckpt").exists()


@pytest.mark.parametrize("where", ["rank 0", "rank 1", "validation", "uneven validation", "last batch"])
def test_signal_in_one_rank_stops_both_and_resumes_bitwise(seen: tuple[Path, list[dict[str, Any]]], where: str) -> None:
    rank_0, rank_1 = (rank[where] for rank in seen[1])
    assert rank_0["code"] == 143
    assert rank_1["code"] == 0  # else Lightning kills rank 0, and the exit code would be 137
    assert rank_0["same"]
    assert rank_1["same"]
    assert rank_0["remaining"][0] == rank_1["remaining"][0]


@pytest.mark.parametrize(
    ("scenario", "folder", "cause"),
    [
        ("nan", "f", "(epoch 1, batch 1, rank 1): the loss term loss_error is nan"),
        ("nan weight", "g", "(epoch 1, batch 2, rank 1): the weight head.bias is not finite"),
    ],
)
def test_nan_in_one_rank_stops_both_with_its_cause(
    seen: tuple[Path, list[dict[str, Any]]], scenario: str, folder: str, cause: str
) -> None:
    sentences = {rank[scenario] for rank in seen[1]}
    assert len(sentences) == 1
    assert cause in sentences.pop()
    for file in (seen[0] / folder).glob("*.ckpt"):
        weights = torch.load(file, weights_only=True)["current_model_state"]
        assert all(bool(value.isfinite().all()) for value in weights.values()), file.name


def test_ranks_go_by_the_slowest_clock(seen: tuple[Path, list[dict[str, Any]]]) -> None:
    rank_0, rank_1 = (rank["clock"] for rank in seen[1])
    assert rank_0 == rank_1  # else they would have other learning rates, or one would wait for the other's gradients
    assert rank_0["steps"] == 16  # 30 s at 2 s a step, and the clock is read one step late
    assert 14 <= rank_0["expected"][-2] <= 17


def test_stages_checks_and_early_stopping_are_the_same_on_both_ranks(seen: tuple[Path, list[dict[str, Any]]]) -> None:
    rank_0, rank_1 = (rank["stages"] for rank in seen[1])
    assert rank_0 == rank_1
    assert len(rank_0["stages"]) == 2
    assert ["learns one batch", "ok"] in rank_0["sanity"]
    assert rank_0["norm"] != 8.0  # switched on, with the statistics of both
