/*
 Causal attention, forward and backward, behind a plain C interface.

 Pointers, sizes and a stream come in, an error code goes out: no torch, no Python, so one
 library serves every version of either. The same file is compiled by nvcc for the GPU and by
 g++ (emulate.h) for tests.

   nvcc -O3 -std=c++17 -shared -arch=sm_80 attention.cu -o libllama_attention.so
   g++  -O2 -std=c++17 -shared -fPIC -x c++ attention.cu -o emulated.so

 Everything is checked by the caller, llama_cli/kernels/extension.py.
*/
#include "problem.h"
#ifdef __CUDACC__
#include "prim.h"
#else
#include "emulate.h"
#endif
#include <cmath>

#include "tile.h"  // these four build on each other, in this order

#include "softmax.h"

#include "forward.h"

#include "backward.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

template <class T, int D>
int run_forward(const Problem& p, void* stream) {
  dim3 grid((p.length + ROWS - 1) / ROWS, p.heads, p.batch);
  return launch(forward<T, D>, grid, THREADS, forward_tiles * ROWS * D * 2, stream, p);
}

template <class T, int D>
int run_backward(const Problem& p, void* stream) {
  dim3 rows((p.length + WARPS - 1) / WARPS, p.heads, p.batch);
  dim3 grid((p.length + ROWS - 1) / ROWS, p.heads, p.batch);
  if (int code = launch(row_products<T, D>, rows, THREADS, 0, stream, p)) return code;
  if (int code = launch(key_gradients<T, D>, grid, THREADS,
                        key_gradient_tiles * ROWS * D * 2 + key_gradient_floats * 4, stream, p))
    return code;
  return launch(query_gradients<T, D>, grid, THREADS, query_gradient_tiles * ROWS * D * 2, stream,
                p);
}

EXPORT int llama_attention_version() { return VERSION; }

EXPORT const char* llama_attention_error(int code) { return describe(code); }

EXPORT int llama_attention_forward(const Problem* p, void* stream) {
  if (p->head_size == 64)
    return p->half ? run_forward<Fp16, 64>(*p, stream) : run_forward<Bf16, 64>(*p, stream);
  return p->half ? run_forward<Fp16, 128>(*p, stream) : run_forward<Bf16, 128>(*p, stream);
}

EXPORT int llama_attention_backward(const Problem* p, void* stream) {
  if (p->head_size == 64)
    return p->half ? run_backward<Fp16, 64>(*p, stream) : run_backward<Bf16, 64>(*p, stream);
  return p->half ? run_backward<Fp16, 128>(*p, stream) : run_backward<Bf16, 128>(*p, stream);
}
