"""The short help of a recipe: what most people need, printed before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["short_help"]

_TEXT = """\
usage: python {script} [--data PATH] [--config PRESET] [--epochs N] [any dotted override]

{description}

  --data PATH           COCO, Pascal VOC, YOLO or CSV; the format is found (default: embedded data, nothing to download)
  --config PRESET|FILE  a preset by name or a YAML file; may be given again to layer (default: {default})
                        presets: {presets}
  --epochs N            passes over the training images
  --batch-size N        images a step and device
  --lr X                learning rate
  --devices N           GPUs, or CPU processes where there is no GPU; torchrun and SLURM are recognised
  --seed N              every random choice follows from it
  --output DIR          where the numbered run folders go (default: runs)
  --resume RUN          go on with a run: its folder, or one of its checkpoints; other options override its config
  --ema DECAY           evaluate and keep an exponential moving average of the weights (0.999 for example)
  --wandb MODE          auto, online, offline or off (default: auto = online with a key and a network, else offline)
  --checkpoint-every-n-steps N, --checkpoint-every-n-minutes X
                        save between the ends of epochs too
  --print_config        print every setting as YAML and stop; the file can be given to --config
  --debug               tracebacks instead of one-sentence errors
  -h, --help-all        this text; every option there is

Every part can be changed or replaced by its import path (the current folder is importable):
  --model.model.num_queries 30                             an argument of the model
  --model.criterion my_project.MyCriterion --model.criterion.gamma 3
  --model my_project.MyTask                                a task of your own
  --trainer.max_steps 100 --trainer.precision 32-true      anything of lightning's Trainer

Exit codes: 0 done, 2 bad option or data, 3 loss became NaN or infinite, 130 Ctrl-C, 143 SIGTERM (both save first).
Then: dlrecipes predict RUN IMAGES; dlrecipes check-data PATH
"""


def short_help(script: str, description: str, default: str, presets: Sequence[str]) -> str:
    """Text of ``-h``, at most 40 lines.

    Args:
        script: path of the recipe as the user typed it.
        description: what the recipe does, one or two lines.
        default: name of the preset that is used without ``--config``.
        presets: names of all presets.
    """
    return _TEXT.format(script=script, description=description, default=default, presets=", ".join(presets))
