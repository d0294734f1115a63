"""Memory of a training stage on each GPU, before it is run."""
