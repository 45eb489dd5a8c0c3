"""llama.cpp on the model of `bench_generate`: seconds of one thread, run by a Python that has it.

    llama_cpp_peer.py WEIGHTS.npz ABOUT.json

WEIGHTS has the tensors by our names, ABOUT the config, the tokenizer's pieces and the prompt's
ids. For each format prints a JSON line with the tokens and the seconds that they took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
from llama_cpp import Llama

NAMES = {
    "tok_embeddings": "token_embd",
    "norm": "output_norm",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}
FORMATS = {"f32": gguf.GGMLQuantizationType.F32, "q8_0": gguf.GGMLQuantizationType.Q8_0}
ROUNDS = 5


def main() -> None:
    """Write the model in each format, and complete with it."""
    weights, about = np.load(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    with TemporaryDirectory() as directory:
        for name, kind in FORMATS.items():
            path = Path(directory, f"{name}.gguf")
            write(path, weights, about, kind)
            model = Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
            for _ in range(ROUNDS):
                print(json.dumps({"format": name, **completed(model, about)}), flush=True)


def completed(model: Llama, about: dict[str, Any]) -> dict[str, Any]:
    """Take the likeliest token, as often as asked."""
    model.reset()
    begun, tokens = time.thread_time(), []
    for token in model.generate(about["prompt"], top_k=1, temp=0.0, repeat_penalty=1.0):
        tokens.append(token)
        if len(tokens) == about["tokens"]:
            break
    return {"tokens": tokens, "seconds": time.thread_time() - begun}


def write(path: Path, weights: Any, about: dict[str, Any], kind: Any) -> None:
    """Write a GGUF file; matrices in `kind`, the rest in fp32."""
    config, pieces = about["config"], about["pieces"]
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(256)
    file.add_embedding_length(config["dim"])
    file.add_block_count(config["layers"])
    file.add_feed_forward_length(config["hidden"])
    file.add_head_count(config["heads"])
    file.add_head_count_kv(config["heads"])
    file.add_layer_norm_rms_eps(config["norm_eps"])
    file.add_rope_dimension_count(config["dim"] // config["heads"])
    file.add_tokenizer_model("llama")
    file.add_token_list([piece.encode() for piece, _, _ in pieces])
    file.add_token_scores([score for _, score, _ in pieces])
    file.add_token_types([kind for _, _, kind in pieces])
    for name in weights.files:
        tensor = weights[name]
        if tensor.ndim == 1:
            file.add_tensor(named(name), tensor)
        else:
            file.add_tensor(named(name), gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def named(name: str) -> str:
    """Give llama.cpp's name of a tensor."""
    bare = name.removesuffix(".weight")
    if bare.startswith("layers."):
        _, layer, rest = bare.split(".", 2)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return f"{NAMES[bare]}.weight"


if __name__ == "__main__":
    main()
