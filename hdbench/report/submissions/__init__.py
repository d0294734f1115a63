"""Results that others add: a bundle of one's own arms, its validation, and the leaderboard."""

from hdbench.report.submissions.bundle import submit
from hdbench.report.submissions.checks import problems
from hdbench.report.submissions.leaderboard import write_leaderboard

__all__ = ["problems", "submit", "write_leaderboard"]
