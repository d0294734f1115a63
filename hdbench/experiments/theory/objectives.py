"""Facts of objectives.  To be removed: they belong to objectives (`title`, `teacher_steps()`)."""

from __future__ import annotations

from hdbench.core.config import Config

MEAN_VELOCITY = {  # objectives whose perfect student has the true mean velocity, and their titles
    "knowledge": "Knowledge distillation",
    "meanflow": "MeanFlow",
    "improved_meanflow": "Improved MeanFlow",
    "scm": "sCM",
    "shortcut": "Shortcut",
    "consistency": "Consistency",
    "progressive": "Progressive distillation",
}


def teacher_steps(objective: Config) -> int | None:
    """Euler steps of the teacher that a perfect student follows; None for the exact flow."""
    match objective.name:
        case "consistency":
            return objective.intervals
        case "progressive":
            return 2 * objective.start_steps
        case "shortcut":
            return objective.finest
    return None
