"""Weights & Biases tracking that never asks, never waits long and never ends a training.

The mode is chosen before the first ``wandb.init``: online only with a key and a host that answers. Lightning's own
WandbLogger is not used, since it opens a new W&B run on resume, writes to ``os.environ["WANDB_MODE"]``, refuses
checkpoints offline, and lets an error of W&B end the fit.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.tracking.media import to_wandb_boxes, to_wandb_image, to_wandb_table
from dlrecipes.runs.tracking.mode import TrackingMode, choose_mode

if TYPE_CHECKING:
    import wandb

    from dlrecipes.runs.pictures.tiles import DetectionPicture
    from dlrecipes.runs.tracking.tracked import Picture

__all__ = ["MAX_IMAGES", "WandbTracker", "make_tracker"]

MAX_IMAGES = 16
_INIT_SECONDS = 20.0
_FINISH_SECONDS = 300.0
# As in Lightning's own logger, the x axis of every chart; W&B's internal step could not go back on a resume.
_STEP = "trainer/global_step"


def make_tracker(
    mode: TrackingMode, run: RunFolder, project: str, config: Mapping[str, Any], run_id: str | None = None
) -> tuple[WandbTracker | None, str]:
    """Choose the mode, fix the run id, and make the logger. Nothing is sent or written before the first metric.

    The id is made once and kept in ``run.json``, so a resumed run goes on in the same W&B run.

    Args:
        mode: ``"auto"``, ``"online"``, ``"offline"`` or ``"off"``; see ``choose_mode`` in tracking_mode.py.
        run: its folder takes W&B's files (``wandb/``).
        project: W&B project.
        config: logged as the W&B run's configuration.
        run_id: of an existing W&B run to go on with; None = the one in ``run.json``, or a new one.

    Returns:
        The logger, or None if tracking is off; and a sentence for the user. Ranks above 0 get a logger that does
        nothing, and an empty sentence.

    Raises:
        ValueError: unknown mode.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return (None, "") if mode == "off" else (WandbTracker("offline", run, project, {}, "unused"), "")
    chosen, reason = choose_mode(mode)
    if chosen == "off":
        run.update_info({"wandb": {**_known(run), "mode": "off"}})
        return None, f"W&B: off ({reason})."
    run_id = run_id or _known(run).get("id") or secrets.token_hex(4)
    run.update_info({"wandb": {"id": run_id, "mode": chosen, "project": project}})
    tracker = WandbTracker(chosen, run, project, config, run_id)
    if chosen == "online":
        return tracker, f"W&B: online ({reason}), project {project}, run {run_id}."
    return tracker, f"W&B: offline ({reason}); to upload: {tracker.sync_command}"


class WandbTracker(Logger):
    """A Lightning logger for W&B with pictures and checkpoints. Made by :func:`make_tracker`.

    The W&B run starts at the first call. The first exception of W&B prints one sentence and stops the tracking, never
    the training. If an online start fails, tracking goes on offline. Only rank 0 does anything.

    Args:
        mode: ``"online"`` or ``"offline"``.
        run: its folder takes W&B's files.
        project: W&B project.
        config: of the run; anything that JSON does not know is kept as its text.
        run_id: the W&B run's id.
    """

    def __init__(
        self, mode: Literal["online", "offline"], run: RunFolder, project: str, config: Mapping[str, Any], run_id: str
    ) -> None:
        super().__init__()
        if mode not in ("online", "offline"):
            raise ValueError(f"mode must be 'online' or 'offline', got {mode!r}")
        self.mode: Literal["online", "offline"] = mode
        self.run_id = run_id
        self._folder = run
        self._project = project
        self._config = _jsonable(config)
        self._run: wandb.Run | None = None
        self._stopped = False
        self._tested: float | None = None  # epoch of the checkpoint that is tested

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self.run_id

    @property
    def save_dir(self) -> str:
        return str(self._folder.path)

    @property
    def experiment(self) -> wandb.Run | None:
        """The W&B run itself; None on ranks above 0, before the first metric, and after tracking has stopped."""
        return self._run

    @property
    def sync_command(self) -> str:
        """What a user types to upload an offline run, with all its resumed parts."""
        return f"wandb sync {shlex.quote(str(self._folder.path / 'wandb'))}/offline-run-*"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        if self._tested is not None:
            values["epoch"] = self._tested
        self._do(lambda run: run.log(values if step is None else {**values, _STEP: step}))

    def begin_test(self, epoch: int | None) -> None:
        """From now on rows are those of a test of a checkpoint: Lightning would count them to the epoch after the last.

        Args:
            epoch: of the checkpoint; None: it is not known, and the epoch of a row stays as it was logged.
        """
        self._tested = None if epoch is None else float(epoch)

    def end_test(self) -> None:
        """Rows are those of a fit again."""
        self._tested = None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        values = vars(params) if isinstance(params, Namespace) else params
        public = {k: v for k, v in values.items() if not k.startswith("_")}
        self._do(lambda run: run.config.update(_jsonable(public), allow_val_change=True))

    @rank_zero_only
    def log_detections(
        self, key: str, pictures: Sequence[DetectionPicture], classes: Sequence[str], step: int | None = None
    ) -> None:
        """Log up to 16 images with true and predicted boxes, which W&B shows as layers with a score slider.

        Args:
            key: name of the panel, as ``"val/predictions"``.
            pictures: images with boxes.
            classes: class names by label.
            step: global step.
        """

        def log(run: wandb.Run) -> None:
            images = [to_wandb_boxes(picture, classes) for picture in pictures[:MAX_IMAGES]]
            run.log({key: images} if step is None else {key: images, _STEP: step})

        self._do(log)

    @rank_zero_only
    def log_images(
        self, key: str, images: Sequence[Picture], captions: Sequence[str] | None = None, step: int | None = None
    ) -> None:
        """Log up to 16 pictures as one panel.

        Args:
            key: name of the panel, as ``"test/confusion"``.
            images: files, PIL images or uint8 tensors [3, H, W].
            captions: one for each.
            step: global step.
        """

        def log(run: wandb.Run) -> None:
            texts = [None] * len(images) if captions is None else captions
            made = [to_wandb_image(image, text) for image, text in zip(images, texts, strict=True)]
            run.log({key: made[:MAX_IMAGES]} if step is None else {key: made[:MAX_IMAGES], _STEP: step})

        self._do(log)

    @rank_zero_only
    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int | None = None
    ) -> None:
        """Log a table that can be sorted and filtered in W&B.

        Args:
            key: name of the panel, as ``"test/mistakes_table"``.
            columns: their names.
            rows: numbers, texts, and images (PIL, or uint8 tensors [3, H, W]).
            step: global step.
        """

        def log(run: wandb.Run) -> None:
            table = to_wandb_table(columns, rows)
            try:
                run.log({key: table} if step is None else {key: table, _STEP: step})
            except OSError as error:  # pictures of cells go through the user's home, which may be read-only
                print(f"W&B table '{key}' was not logged ({error.strerror}); tracking goes on.", flush=True)

        self._do(log)

    @rank_zero_only
    def log_checkpoint(self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Log the best checkpoint as the artifact ``model-RUN_ID``, alias ``best``; offline too.

        Args:
            path: checkpoint file.
            metadata: such as the metrics it reached.
        """
        source = Path(path)

        def log(run: wandb.Run) -> None:
            import wandb

            artifact = wandb.Artifact(f"model-{self.run_id}", type="model", metadata=_jsonable(metadata or {}))
            frozen = _freeze(source, self._folder.path / "wandb" / "artifacts")
            artifact.add_file(str(frozen), name=source.name, policy="immutable")
            run.log_artifact(artifact, aliases=["best"])

        self._do(log)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """End the W&B run with the exit code that the process will have. Further calls do nothing.

        Lightning's ``finalize`` cannot do this: it is called after fit, and again after test.
        """
        if self._run is not None:
            self._do(lambda run: run.finish(exit_code=exit_code))
        self._stopped = True
        self._run = None

    def _do(self, action: Callable[[wandb.Run], object]) -> None:
        if self._stopped:
            return
        try:
            if self._run is None:
                self._run = self._start()
            action(self._run)
        except Exception as error:  # whatever W&B does, the training goes on
            self._stopped = True
            self._run = None
            print(
                f"W&B tracking stopped ({_summary(error)}); training goes on, metrics.csv has all numbers.", flush=True
            )

    def _start(self) -> wandb.Run:
        import wandb

        if self.mode == "online":
            try:
                run = self._init()
                print(f"W&B: {run.url}", flush=True)
                return run
            except Exception as error:  # no network, or whatever else: offline is better than nothing
                self.mode = "offline"
                print(
                    f"W&B could not go online ({_summary(error)}): offline; to upload: {self.sync_command}", flush=True
                )
                self._folder.update_info({"wandb": {**_known(self._folder), "mode": "offline"}})
                wandb.teardown()  # a process whose first online start failed could not start offline otherwise
        return self._init()

    def _init(self) -> wandb.Run:
        import wandb

        settings: dict[str, Any] = {"silent": True, "init_timeout": _INIT_SECONDS}
        if "finish_timeout" in wandb.Settings.model_fields:  # else a network lost on the way would hold the process
            settings["finish_timeout"] = _FINISH_SECONDS
        run = wandb.init(
            project=self._project,
            name=self._folder.name,
            dir=str(self._folder.path),
            id=self.run_id,
            resume="allow",
            mode=self.mode,
            config=self._config,
            settings=wandb.Settings(**settings),
        )
        run.define_metric(_STEP)
        run.define_metric("*", step_metric=_STEP, step_sync=True)
        return run


def _freeze(source: Path, folder: Path) -> Path:
    """A second name for the file's bytes inside the run folder, so that a later save does not change the artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.stem}-{secrets.token_hex(4)}{source.suffix}"
    try:
        os.link(
            source, target
        )  # no second copy on the disk: SafeCheckpointIO replaces files, it never writes into them
    except OSError:
        shutil.copy2(source, target)
    return target


def _known(run: RunFolder) -> dict[str, Any]:
    known = run.read_info().get("wandb", {})
    return dict(known) if isinstance(known, dict) else {}


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return plain


def _summary(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
