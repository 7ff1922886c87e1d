"""A user's own project, in a folder that is no part of dlrecipes."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def user_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Writes a module with a task, a model, a loss and a datamodule; yields its name."""
    name = "my_small_project"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(
            """
            from lightning.pytorch import LightningDataModule, LightningModule
            from torch import nn


            class Net(nn.Module):
                def __init__(self, num_queries: int = 30, width: int = 8) -> None:
                    super().__init__()
                    if width < 1:
                        raise ValueError(f"width must be positive, got {width}")
                    self.num_queries, self.width = num_queries, width


            class Loss(nn.Module):
                def __init__(self, gamma: float = 2.0) -> None:
                    super().__init__()
                    self.gamma = gamma


            class Task(LightningModule):
                def __init__(self, model: nn.Module | None = None, criterion: nn.Module | None = None, lr: float = 0.1):
                    super().__init__()
                    self.save_hyperparameters()
                    self.model, self.criterion, self.lr = model, criterion, lr


            class OtherTask(Task):
                pass


            class Data(LightningDataModule):
                def __init__(self, path: str | None = None, batch_size: int = 4) -> None:
                    super().__init__()
                    self.path, self.batch_size = path, batch_size
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)
