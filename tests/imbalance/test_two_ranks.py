"""Lightning's own Trainer on two gloo processes, with its default settings, leaves the samplers alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrecipes.imbalance import BalancedDistributedSampler, MPerClassSampler, RepeatFactorSampler

SCRIPT = """
import json, sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from test_two_ranks import samplers
from torch.utils.data import DataLoader

class Task(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.seen += [(self.current_epoch, name, part.tolist()) for name, part in batch.items() if part is not None]
        return self.layer(torch.ones(1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    given = samplers()  # made before the two processes know of each other, and each with other random numbers
    torch.manual_seed(int(torch.randint(10**6, ()).item()))
    loaders = {{name: DataLoader(torch.arange(100), batch_size=6, sampler=one) for name, one in given.items()}}
    task = Task()
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[1],
    )
    trainer.fit(task, CombinedLoader(loaders, mode="max_size"))
    assert all(trainer.train_dataloader[name].sampler is one for name, one in given.items())
    Path(sys.argv[1], f"{{trainer.global_rank}}.json").write_text(json.dumps(task.seen))
"""

LABELS = np.repeat([0, 1, 2], [70, 24, 6])


def samplers():  # type: ignore[no-untyped-def]
    return {
        "class": BalancedDistributedSampler(LABELS, "class", seed=3, epoch_size=51),
        "m_per_class": MPerClassSampler(LABELS, m=3, batch_size=6, seed=3),
        "repeat": RepeatFactorSampler([[c] for c in LABELS.tolist()], 0.5, seed=3),
    }


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, run_script: Callable[[Path, str], None]
) -> list[list[tuple[int, str, list[int]]]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_script(folder, SCRIPT.format(tests=str(Path(__file__).parent)))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", samplers())
@pytest.mark.parametrize("epoch", [0, 1])
def test_two_ranks_see_together_what_one_sees(
    name: str, epoch: int, seen: list[list[tuple[int, str, list[int]]]]
) -> None:
    sampler = samplers()[name]
    order = sampler.order(epoch).tolist()
    first, second = ([batch for at, key, batch in rank if (at, key) == (epoch, name)] for rank in seen)
    assert [len(batch) for batch in first] == [len(batch) for batch in second]
    if name == "m_per_class":  # whole batches take turns
        together = [index for pair in zip(first, second, strict=True) for batch in pair for index in batch]
    else:
        flat = [sum(batches, []) for batches in (first, second)]  # noqa: RUF017
        together = [index for pair in zip(*flat, strict=True) for index in pair]
    assert together[: len(order)] == order
    assert len(together) - len(order) < 2 * sampler.block
