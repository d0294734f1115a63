"""A reproducible benchmark and ablation suite for one-step diffusion distillation."""

__version__ = "0.1.0"
