"""What a run will cost, before it is run: GPU hours or core-hours, and disk, by rule.

A stage's FLOPs are those of a rehearsal (hdbench.tools.rehearsal), or, where there is none,
forward-equivalents, each objective's own count, times those of one forward
(hdbench.networks.flops).
    GPU seconds = sum over precisions of FLOPs / (peak * utilisation) + seconds of waiting
By formula, what a forward-mode pass goes through is float32 in any precision: with k tangents a
sample also k forwards and their 2k backwards; gradient checkpointing computes half of all other
backwards again, as forwards; heads are not counted.  Data loading, queues and prompts that a
suite's own CLIP encodes never are.

Suites without latents run on CPUs: core-seconds are those of the same stage in a committed
paper_tables/*/stages.csv, or else FLOPs at the median pace of the plan's measured stages of its
kind, or at the model's rate of a core.
"""
