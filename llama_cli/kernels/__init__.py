"""What is worth a kernel of its own: causal attention, and a whole model on a CPU.

* gradient      forward and backward as plain functions, for a backward written by hand
* attention     what a model calls: chooses a backend, by name or by what can run here
* proof         the trial that our kernel must pass before it is chosen unasked
* backends      attention by others: PyTorch, xformers, the definition
* extension     ours, as a torch operator, made of
                + check      what it takes         + documents   packed sequences
                + sharding   DTensors              + library     the C calls to cuda_ext
* host          the layers of a model on a CPU, without PyTorch: the C calls to cuda_ext/host

Nothing imports what stands above it.
"""

VARIABLE = "LLAMA_TRAIN_ATTENTION"  # names the backend of attention, for all commands
