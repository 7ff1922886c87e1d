"""Errors that a user can act on, each with the exit code that the command line ends with."""

__all__ = ["CheckpointError", "DLRecipesError", "NonFiniteError", "UserError"]


class DLRecipesError(Exception):
    """Base of the errors below. ``str(error)`` is one sentence: the file, the value, the remedy."""

    exit_code = 1


class UserError(DLRecipesError, ValueError):
    """Input that cannot be used: a path, a file, an option. Raised before training starts; exit code 2."""

    exit_code = 2


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, made for something else, or would run code when loaded; exit code 2."""


class NonFiniteError(DLRecipesError, ArithmeticError):
    """A loss, gradient or weight became NaN or infinite, so training was stopped; exit code 3."""

    exit_code = 3
