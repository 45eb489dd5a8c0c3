"""What `make gpu` runs on a machine with a GPU.

* run           all of it, step by step: build, test, watch, time
* test_*        the kernels against the definition, their memory, their place in PyTorch;
                `pytest tests/gpu --device cpu` rehearses them on a CPU, emulated
* test_graphs   decoding as CUDA graphs give it, against decoding without them
* sanitize      compute-sanitizer's tools, over the small problems of `variants`
* time_attention    ours beside PyTorch's `attentions`, by `clock`, into the tables of `table`,
                and each kernel by itself, by `kernel_times`
* time_generation   decoding a 7B with CUDA graphs and without, beside copying

What needs no GPU is tested in tests/unit/test_gpu_*.py.
"""
