"""Solvers of the teacher's ODE: diffusers' schedulers on our path, whose t is their sigma.

solver      evaluations of N steps, and where
euler       N at t = 1 - i/N; our own `sample_ode`, equal to FlowMatchEulerDiscreteScheduler
heun        2N - 1: both ends of N - 1 steps from 1 to 0.001, and one from there to 0
dpm_solver  N at t = 1 - i/N: DPM-Solver++(2M) (arXiv 2211.01095), the last step of first order
unipc       N at t = 1 - i/N: UniPC (arXiv 2302.04867) of order 2, the last step of first order
The network's time is never a scheduler's timestep: that is 1,000 sigma, of the multi-step solvers
rounded to an integer.  These begin at sigma = 1 - 1e-6, where the log of the signal is finite.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from hdbench.flow.path import Velocity
from hdbench.flow.samplers import sample_ode

SolverName = Literal["euler", "heun", "dpm_solver", "unipc"]
HEUN_END = 1e-3  # sigma_min of diffusers' 1,000 training steps
FINE = 10**6  # training steps of DPM-Solver++'s scheduler, which begins at sigma = 1 - 1 / FINE


def evaluation_times(solver: SolverName, steps: int) -> tuple[float, ...]:
    """t of every evaluation of the velocity, in order."""
    if solver != "heun":
        return tuple((steps - i) / steps for i in range(steps))
    grid = torch.linspace(1, HEUN_END, steps, dtype=torch.float64).tolist()
    return (grid[0], *(t for t in grid[1:] for _ in range(2)))


def sample_solver(solver: SolverName, v: Velocity, eps: Tensor, c: Tensor, steps: int) -> Tensor:
    """From noise eps (B, C, H, W) with labels c (B,) to x (B, C, H, W) in float32."""
    if solver == "euler":
        return sample_ode(v, eps, c, steps)
    schedule = scheduler(solver, steps)
    z = eps
    for t, step in zip(evaluation_times(solver, steps), schedule.timesteps, strict=True):
        slope = v(z, torch.full((len(z),), t, device=z.device), c)
        z = schedule.step(slope, step, z, return_dict=False)[0]
    return z


def scheduler(solver: SolverName, steps: int) -> Any:
    """A fresh scheduler of diffusers with its times set; it holds the state of one sampling."""
    import diffusers  # start-up: seconds

    if solver == "euler":
        schedule = diffusers.FlowMatchEulerDiscreteScheduler()
        schedule.set_timesteps(sigmas=evaluation_times(solver, steps))
    elif solver == "heun":
        schedule = diffusers.FlowMatchHeunDiscreteScheduler()
        schedule.set_timesteps(steps)
    elif solver == "dpm_solver":
        schedule = diffusers.DPMSolverMultistepScheduler(
            num_train_timesteps=FINE, prediction_type="flow_prediction", use_flow_sigmas=True
        )
        schedule.set_timesteps(steps)
    else:
        schedule = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        )
        grid = torch.tensor(evaluation_times(solver, steps), dtype=torch.float64)
        schedule.set_timesteps(sigmas=grid.numpy())
    return schedule
