"""What `make gpu` runs on a machine with a GPU.

* run           all of it, step by step: build, test, watch, time
* test_*        the kernels against the definition, their memory, their place in PyTorch;
                `pytest tests/gpu --device cpu` rehearses them on a CPU, emulated
* sanitize      compute-sanitizer's tools, over the small problems of `variants`
* time_attention    ours beside PyTorch's `attentions`, by `clock`, into the tables of `table`,
                and each kernel by itself, by `kernel_times`

What needs no GPU is tested in tests/unit/test_gpu_*.py.
"""
