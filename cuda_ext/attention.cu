/*
 Causal attention, forward and backward, behind a plain C interface.

 Pointers, sizes and a stream come in, an error code goes out: no torch, no Python, so one
 library serves every version of either. The same file is compiled by nvcc for the GPU and by
 g++ (emulate.h) for tests.

   nvcc -O3 -std=c++17 -shared -arch=sm_80 attention.cu -o libllama_attention.so
   g++  -O2 -std=c++17 -shared -fPIC -x c++ attention.cu -o emulated.so

 Everything is checked by the caller, llama_cli/kernels.
*/
#include "problem.h"
#ifdef __CUDACC__
#include "prim.h"
#else
#include "emulate.h"
#endif
#include <cmath>

#include "tile.h"  // these build on each other, in this order

#include "mask.h"

#include "stream.h"

#include "softmax.h"

#include "forward.h"

#include "rows.h"

#include "atomics.h"

#include "backward.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// A block for each `rows` positions of each head. Heads come first, so that of all of them the
// blocks with most work start first.
dim3 blocks(const Problem& p, int heads, int rows) {
  return dim3(heads, p.batch, (p.length + rows - 1) / rows);
}

template <class T, int D>
int run_forward(const Problem& p, void* stream) {
  return launch(forward<T, D>, blocks(p, p.heads, FORWARD_ROWS), FORWARD_THREADS,
                STREAM_BYTES<D>, stream, p, p.scale * LOG2_E);
}

// Keys first: with atomics dq comes with them.
template <class T, int D, bool ATOMICS>
int run_key_gradients(const Problem& p, void* stream) {
  typedef KeyBlock<D, ATOMICS> Block;
  return launch(key_gradients<T, D, ATOMICS>, blocks(p, p.key_heads, Block::ROWS), Block::THREADS,
                Block::BYTES, stream, p, p.scale * LOG2_E);
}

template <class T, int D>
int run_backward(const Problem& p, void* stream) {
  const dim3 rows = blocks(p, p.heads, ROW_BLOCK);
  if (int code = launch(row_products<T, D>, rows, ROW_THREADS, 0, stream, p)) return code;
  if (p.sums && KeyBlock<D, true>::BYTES <= most_shared_memory()) {
    if (int code = run_key_gradients<T, D, true>(p, stream)) return code;
    return launch(round_sums<T, D>, rows, ROW_THREADS, 0, stream, p);
  }
  if (int code = run_key_gradients<T, D, false>(p, stream)) return code;
  return launch(query_gradients<T, D>, blocks(p, p.heads, QUERY_ROWS), QUERY_THREADS,
                STREAM_BYTES<D>, stream, p, p.scale * LOG2_E);
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
