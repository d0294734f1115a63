"""Every kind of stage of a suite, one real step at full size, on a GPU that is not there.

The stage's own code runs on fake tensors of a CUDA device: shapes, dtypes and devices are those of
a GPU, values are not.  A tensor left on the host, a result in float64 and a value that the host
reads are found as they would be there; FLOPs, and bytes at the peak, are counted.  Not seen: what
torch.compile and CUDA's kernels need beside, fragmentation, and the ranks of sharded training.
"""
