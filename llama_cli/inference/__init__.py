"""Running a model: rows of tokens, what reads them, and the choice of the next of each.

    prompts, openai ─▶ engine ─┬─▶ batch (rows, sample, text)  ─┬─▶ backend ─┬─▶ host (pages)
                               └─▶ likelihood                  ─┘            └─▶ network (cache)

* host       the processor's kernel, on arrays; nothing of PyTorch is imported for it
* network    PyTorch, on any device: products, graphs of a GPU (static, split), shared by processes
* alike      how much of a prompt others begin with, for both kinds of cache
"""
