import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dlrecipes.errors import UserError
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.provenance import git_state

LAUNCH_VARIABLES = (
    "DLRECIPES_RUN_FOLDER", "LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "SLURM_JOB_ID", "SLURM_NTASKS",
    "SLURM_PROCID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in LAUNCH_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what create() sets is undone afterwards
        monkeypatch.delenv(name)


def test_numbers_go_up_and_nothing_is_reused(tmp_path):
    names = [RunFolder.create(tmp_path / "new", "detr").name for _ in range(2)]
    assert names == ["detr-001", "detr-002"]
    (tmp_path / "new" / "detr-041").mkdir()
    (tmp_path / "new" / "detr-best").mkdir()
    (tmp_path / "new" / "detr-001" / "checkpoints").rmdir()
    (tmp_path / "new" / "detr-001").rmdir()
    assert RunFolder.create(tmp_path / "new", "detr").name == "detr-042"
    assert RunFolder.create(tmp_path / "new", "mixer").name == "mixer-001"


def test_racing_processes_get_different_folders(tmp_path):
    found, start = [], threading.Barrier(8)

    def make():
        start.wait()
        found.append(RunFolder.create(tmp_path, "r").path)

    threads = [threading.Thread(target=make) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(set(found)) == 8


@pytest.mark.parametrize("place", ["file/runs", "file", "/proc/nothing/runs"])
def test_unwritable_output_is_one_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run folders cannot be made in '.+' \(.+\): choose .* --output"):
        RunFolder.create(tmp_path / place, "detr")


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_name_must_be_plain(tmp_path, name):
    with pytest.raises(ValueError, match="plain folder name"):
        RunFolder.create(tmp_path, name + "/.." if name == ".." else name)


def test_open_wants_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        RunFolder.open(tmp_path / "none")
    run = RunFolder.create(tmp_path, "detr")
    with pytest.raises(UserError, match="holds no checkpoint"):
        RunFolder.open(run.path)
    (run.checkpoints / "epoch1.ckpt").touch()
    assert RunFolder.open(run.path) == run
    assert run.resume_checkpoint.name == "epoch1.ckpt"
    run.last_checkpoint.touch()
    assert RunFolder.open(run.last_checkpoint) == run
    assert run.resume_checkpoint == run.last_checkpoint


def test_info_keeps_the_first_start_and_lists_all(tmp_path):
    run = RunFolder.create(tmp_path, "detr")
    run.write_info(seed=7, device="cpu", command=["train.py", "--epochs", "1"])
    run.update_info({"wandb": {"id": "abc"}})
    run.write_info(seed=7, device="cpu", command=["train.py", "--resume", "x"])
    info = json.loads(run.info.read_text())
    assert info["command"] == ["train.py", "--epochs", "1"]
    assert [start["command"][1] for start in info["starts"]] == ["--epochs", "--resume"]
    assert info["wandb"] == {"id": "abc"}
    assert info["seed"] == 7
    assert {"python", "torch", "lightning", "timm"} <= set(info["versions"])
    for damaged in ("{ cut", "[" * 100_000, "1" * 5000, "7"):
        run.info.write_text(damaged)
        assert run.read_info() == {}
    run.info.write_text('{"starts": 7}')
    run.write_info(seed=8, device="cpu", command=["train.py"])
    assert [start["seed"] for start in run.read_info()["starts"]] == [8]


def test_small_files(tmp_path):
    run = RunFolder.create(tmp_path, "detr")
    run.write_config("epochs: 3\n")
    run.write_classes(["cat", "Käfer"], [3, 90])
    run.write_data_report("2 images\n", {"images": 2})
    assert run.config.read_text() == "epochs: 3\n"
    assert json.loads(run.classes.read_text())[1] == {"label": 1, "name": "Käfer", "category_id": 90}
    assert json.loads((run.path / "data_report.json").read_text()) == {"images": 2}
    assert run.prediction_picture(7).name == "epoch_007.png"
    with pytest.raises(ValueError, match="one length"):
        run.write_classes(["a"], [])


def test_git_state_knows_commit_and_changes(tmp_path):
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    (tmp_path / "a").write_text("1")
    for command in (["init", "-q"], ["add", "a"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    clean = git_state(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": clean["commit"], "dirty": True}


def test_child_of_lightnings_launcher_uses_the_folder_of_rank_0(tmp_path, monkeypatch):
    first = RunFolder.create(tmp_path, "detr")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert RunFolder.create(tmp_path, "detr") == first
    # what Lightning leaves behind in rank 0 after a fit must not tie the next run to the first folder
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert RunFolder.create(tmp_path, "detr") != first
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("DLRECIPES_RUN_FOLDER")
    with pytest.raises(UserError, match="does not know the run folder of rank 0"):
        RunFolder.create(tmp_path, "detr")


SCRIPT = """
import sys
from dlrecipes.runs.folder import RunFolder
print([RunFolder.create(sys.argv[1], "detr").name for _ in range(2)])
"""


def _environment(**values: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in LAUNCH_VARIABLES} | values


def test_srun_ranks_agree_and_an_older_job_is_not_met(tmp_path):
    (tmp_path / "detr-001").mkdir()
    (tmp_path / "detr-001" / ".launch").write_text("41 0 0 1")
    common = {"SLURM_JOB_ID": "42", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "3"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env=_environment(**common, SLURM_PROCID=str(rank)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (2, 1, 0)
    ]
    said = {rank.communicate(timeout=120)[0].strip() for rank in ranks}
    assert said == {"['detr-002', 'detr-003']"}


def test_torchrun_ranks_agree(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "runs")], env=_environment(OMP_NUM_THREADS="1"), capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split("\n").count("['detr-001', 'detr-002']") == 2
    assert sorted(p.name for p in Path(tmp_path / "runs").iterdir()) == ["detr-001", "detr-002"]


def test_a_run_without_a_step_can_be_discarded(tmp_path):
    run = RunFolder.create(tmp_path, "detr")
    run.write_config("{}")
    (run.path / "wandb").mkdir()
    assert run.discard()
    assert list(tmp_path.iterdir()) == []
    for file in ("metrics.csv", "checkpoints/last.ckpt"):
        run = RunFolder.create(tmp_path, "detr")
        (run.path / file).touch()
        assert not run.discard()
        assert run.path.is_dir()
