"""The model of section 2.2: one equation per file.

    config  ─▶ transformer ─▶ attention (─▶ rotary, kernels)
                         └──▶ feed_forward, norm            weights: to disk and back

A model knows nothing of how it is trained, spread over devices, or sampled.
"""
