"""The short help of a recipe: what most people need, printed before anything heavy is imported."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlrecipes.cli import Recipe

__all__ = ["short_help"]

_TEXT = """\
usage: python {script} [--data PATH] [--config PRESET] [--epochs N] [any dotted override]

{description}

  --data PATH           {data_help}
  --config PRESET|FILE  a preset by name or a YAML file; may be given again to layer
                        default: {default}
                        {presets}
  --epochs N            passes over the training images
{options}{switches}  --batch-size N        images a step and device
  --lr X                learning rate
  --devices N           GPUs, or CPU processes where there is no GPU; torchrun and SLURM are recognised
  --seed N              every random choice follows from it
  --output DIR          where the numbered run folders go (default: runs)
  --overfit N           check: learn N training images by heart, without augmentation; PASS or FAIL (exit code 1)
  --resume RUN          go on with a run: its folder or a checkpoint; options but the optimizer's override its config
  --ema DECAY           evaluate and keep an exponential moving average of the weights (0.999 for example)
  --wandb MODE          auto, online, offline or off (default: auto = online with a key and a network, else offline)
  --checkpoint-every-n-steps N, --checkpoint-every-n-minutes X
                        save between the ends of epochs too
  --print_config        print every setting as YAML and stop; the file can be given to --config
  --debug               tracebacks instead of one-sentence errors
  -h, --help-all        this text; every option there is

Every part can be changed or replaced by its import path (the current folder is importable):
{examples}  --model my_project.MyTask                                a task of your own
  --trainer.max_steps 100 --trainer.precision 32-true      anything of lightning's Trainer

Exit codes: 0 done, 1 --overfit failed, 2 bad option or data, 3 loss not finite, 130 Ctrl-C, 143 SIGTERM (both save).
Then: dlrecipes predict RUN IMAGES; dlrecipes check-data PATH
"""


def short_help(script: str, recipe: Recipe, presets: Sequence[str]) -> str:
    """Text of ``-h``, at most 45 lines.

    Args:
        script: path of the recipe as the user typed it.
        recipe: whose options are explained.
        presets: names of all its presets.
    """
    default = recipe.preset.stem
    if recipe.embedded_preset is not None:
        default += f"; without --data: {recipe.embedded_preset.stem}"
    options = [(f"{flag.replace('_', '-')} {option.value}", option.help) for flag, option in recipe.options.items()]
    switches = [f"--{name.replace('_', '-')} {switch.value}" for name, switch in recipe.switches.items()]
    return _TEXT.format(
        script=script,
        description=textwrap.fill(recipe.description, 120),
        data_help=_wrapped(f"{recipe.data_help} (default: embedded)"),
        default=default,
        presets=_wrapped(f"presets: {', '.join(presets)}"),
        options="".join(f"  {flag:<21} {text}\n" for flag, text in options),
        switches=f"  {', '.join(switches)}\n{'':24}what watches a run, explained by --help-all\n" if switches else "",
        examples="".join(f"  {words:<56} {text}".rstrip() + "\n" for words, text in recipe.examples),
    )


def _wrapped(text: str) -> str:
    """The second column, in as many lines as it needs."""
    return textwrap.fill(text, 96, break_long_words=False).replace("\n", "\n" + 24 * " ")
