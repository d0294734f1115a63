"""What a pass through our Transformer keeps for its backward, by a formula.

One block; T = rows x tokens, width d, heads h, MLP ratio m, and s bytes a number in matrix products
(float32 4, bfloat16 2):

    T d (16 + (8 + 2m) s)   inputs and outputs of both norms, float32; of products the input of qkv,
                            q, k, v, attention, its projection, the inputs of both MLP layers and of
                            the GELU, the MLP's output
    + T (16 + 4 h)          means and deviations of the norms; attention's log-sums
    + rows 8 d s            six modulations, two 1 + scale

- frozen, for a gradient to its input alone: T d (8 + (4 + m) s), the other terms the same;
- in forward mode: s = 4;
- with gradient checkpointing 4 T d, its input, and one block whole at a time; not in forward mode;
- in bfloat16 autocast's copies of the weights too, 2 bytes each; with checkpointing those of one
  block.

Around the blocks T d (8 + s) + T C p^2 s + 9 rows d s: the last norm, the inputs of the last and
the first layer, the condition.  Not counted: heads' activations, what a pass makes and drops at
once, passes without gradient, CUDA's own and fragmentation; leave a fifth for them.
"""

from __future__ import annotations

from hdbench.networks.config import TransformerConfig


def activations(
    network: TransformerConfig,
    *,
    tokens: int,
    channels: int,
    rows: int,
    size: int = 4,
    checkpointing: bool = False,
    forward_mode: bool = False,
    trained: bool = True,
    depth: int | None = None,
) -> float:
    """Bytes that a pass of `rows` images through the first `depth` blocks keeps; `size` is s."""
    if not rows:
        return 0
    options = {"tokens": tokens, "rows": rows, "size": size}
    block = block_bytes(network, **options, trained=trained)
    depth = network.depth if depth is None else depth
    blocks = depth * block
    if checkpointing and not forward_mode:
        blocks = depth * 4 * rows * tokens * network.width + block
    return blocks + bytes_around(network, **options, channels=channels, trained=trained)


def block_bytes(
    network: TransformerConfig, *, tokens: int, rows: int, size: int, trained: bool
) -> float:
    """Of one block."""
    d = network.width
    m = network.mlp_ratio
    t = rows * tokens
    block = t * d * (16 + (8 + 2 * m) * size if trained else 8 + (4 + m) * size)
    block += t * (16 + 4 * network.heads) + rows * 8 * d * size
    if size == 2:  # copies of qkv, proj, both MLP layers, and modulation
        block += 2 * d * d * (10 + 2 * m if trained else 4 + 2 * m)
    return block


def bytes_around(
    network: TransformerConfig, *, tokens: int, channels: int, rows: int, size: int, trained: bool
) -> float:
    """Of the first and last layers and the condition."""
    d = network.width
    t = rows * tokens
    if not trained:
        return 4 * t * d
    patch = channels * network.patch**2
    around = t * d * (8 + size) + t * patch * size + 9 * rows * d * size
    if size == 2:  # copies of the weights there
        around += 4 * d * (2 * d + network.time_embedding_size + patch)
    return around
