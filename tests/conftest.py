"""One thread a process: the networks here are so small that more would only add overhead, and results stay the same."""

import torch

torch.set_num_threads(1)
