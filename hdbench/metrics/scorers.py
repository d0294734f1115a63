"""Metrics of benchmarks with a scorer of their own, from its scores (N,) of the images.

See `hdbench.evaluation.imports`; a design with the prompts as clusters, tasks as strata, gives the
intervals.
"""

from __future__ import annotations

import numpy as np

from hdbench.metrics.base import Estimate, Metric, MetricInput, Share, mean


def mean_over_tasks(values: np.ndarray, tasks: np.ndarray) -> Estimate:
    """mean_t p_t of the tasks' means p_t; values and tasks (N,), n_t of task t, T tasks.

    IF_i = N / (T n_t) (y_i - p_t): the tasks' sizes are fixed.
    """
    _, task, count = np.unique(tasks, return_inverse=True, return_counts=True)
    means = np.bincount(task, values) / count
    weight = len(values) / (len(count) * count)
    return Estimate(float(means.mean()), weight[task] * (values - means[task]))


class GenEval(Share, group="protocol"):
    """`mean_over_tasks` of the share of correct images, as its summary_scores.py has it."""

    name = "geneval"
    title = "GenEval"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        if sample.scores is None or not sample.categories():
            return {}
        tasks = np.array([caption["category"] for caption in sample.captions])
        return {self.name: mean_over_tasks(sample.scores, tasks)}


class GenEvalTask(Share, group="protocol"):
    """The share of correct images of one task.

    Its error is that of the prompts' shares, of which few are wrong where the task is nearly solved
    and say little of how alike a prompt's images are.  So half a wrong prompt is counted beside
    them, all of whose images are alike.
    """

    name = "geneval_{task}"
    title = "GenEval, {task}"
    version = 2  # in the first, the error near 0 and 1 was too small for images that are alike

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        if sample.scores is None:
            return {}
        rows = {task: sample.rows_of("category", task)[0] for task in sample.categories()}
        return {
            f"geneval_{task}": mean(sample.scores[of_task])._replace(rows=of_task)
            for task, of_task in rows.items()
            if len(of_task) > 1
        }

    @classmethod
    def error(cls, estimate: Estimate) -> float:
        error = super().error(estimate)
        spread = estimate.value * (1 - estimate.value)
        if not spread:
            return error  # of 0 or 1, where all images of a prompt already count as one
        prompts = len(estimate.design.units(len(estimate.influence))[1])
        decided = prompts * spread
        effect = (decided * error**2 / spread + 0.5 / prompts) / (decided + 0.5)
        return (spread * effect) ** 0.5


class DpgBench(Metric, group="protocol"):
    """100 times the mean of the prompts' scores."""

    name = "dpg_bench"
    title = "DPG-Bench"
    better = "higher"
    low = 0.0
    high = 100.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {} if sample.scores is None else {self.name: mean(100 * sample.scores)}


class VqaScore(Share, group="protocol"):
    """The mean of the images' scores."""

    name = "vqascore"
    title = "VQAScore"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {} if sample.scores is None else {self.name: mean(sample.scores)}
