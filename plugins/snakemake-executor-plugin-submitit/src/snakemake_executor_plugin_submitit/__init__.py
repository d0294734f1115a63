"""`snakemake --executor submitit`: jobs on SLURM, as processes of this machine, or in place.

Names are looked up lazily: a job's own process imports this package for `job.Command` alone, and so
starts much faster.
"""

_NAMES = ("Executor", "ExecutorSettings", "common_settings")


def __getattr__(name: str):
    if name in _NAMES:
        from snakemake_executor_plugin_submitit import executor

        return getattr(executor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted((*globals(), *_NAMES))
