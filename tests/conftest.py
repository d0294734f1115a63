"""One thread: the networks here are so small that more would only add overhead, and results stay the same anywhere."""

import torch

torch.set_num_threads(1)
