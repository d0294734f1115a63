"""The three ways in which a command ends early, each with one sentence for the user."""


class UserError(Exception):
    """A user's mistake: what is wrong and what to do; the command exits with code 2."""


class Divergence(Exception):
    """A loss or gradient that is not finite, with the step and the last losses; exit code 1."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the checkpoint is written and the same command goes on; exit code 130."""
