"""The model of section 2.2: one equation per file.

    config  ─▶ transformer ─▶ attention (─▶ rotary, kernels)
                         └──▶ feed_forward, norm

    weights  ─▶ formats ─▶ parts     arrays, where they lie in files (dtypes)
                       └─▶ stored    tensors of PyTorch, from files and back (safetensors, manifest)

A model knows nothing of how it is trained, spread over devices, or sampled.
"""
