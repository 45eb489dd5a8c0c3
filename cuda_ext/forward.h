/*
 Forward: out = softmax(scale q k') v over the keys that a query sees, and
 lse = log sum exp (scale q k').

 A block owns 128 queries, 32 to a warp, and meets the key tiles from where its first query's
 document begins up to its last query. A warp's scores of one strip are all that ever exists, and
 strips that are hidden from all its queries are not computed. The kernel is one function: what
 its parts share is registers, and it has none to spare.
 Rabe & Staats 2021, https://arxiv.org/abs/2112.05682; LLaMA, section 2.4.
*/
#pragma once

constexpr int FORWARD_M = 2, FORWARD_THREADS = 128;
constexpr int FORWARD_ROWS = 16 * FORWARD_M * FORWARD_THREADS / 32;  // queries of a block

template <class T, int D>
__global__ void __launch_bounds__(FORWARD_THREADS, 2) forward(Problem p, float scale_log2) {
  constexpr int M = FORWARD_M;
  Element *k = reinterpret_cast<Element*>(shared_memory()), *v = k + 2 * TILE * D;
  const int head = blockIdx.x, batch = blockIdx.y;
  const int mine = (gridDim.z - 1 - blockIdx.z) * FORWARD_ROWS;  // most work starts first
  const int start = mine + 16 * M * warp();                      // of this warp's rows

  fetch<D, FORWARD_THREADS, FORWARD_ROWS>(v, rows_of(p.q, batch, head), p.q.row, mine, p.length);
  wait_for_all();
  Rows<M, D> queries;
  hold<M, D>(queries, v);
  __syncthreads();  // where values come next

  Softmax<M> softmax;
  Sum<M, D> out = {};
  stream_keys<D, FORWARD_THREADS, FORWARD_ROWS>(p, mine, start, k, v, [&](int strip, int at) {
    Scores<M> s;
    multiply_transposed<T, M, D>(s, queries, k + at * D);
    hide_keys<M>(s, p, batch, start, strip);
    softmax.update(s, out, scale_log2);
    multiply_add<T, M, D>(out, s, v + at * D);
  });
#pragma unroll
  for (int m = 0; m < M; m++) {
    const float sum[2] = {row_sum(softmax.sum[m][0]), row_sum(softmax.sum[m][1])};
    store<T>(rows_of(p.out, batch, head), p.out.row, start + 16 * m, p.length, out[m], 1 / sum[0],
             1 / sum[1]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int query = start + row_of(m, 2 * half);
      if (lane() % 4 == 0 && query < p.length)
        p.lse[statistics_of(p, batch, head) + query] =
            softmax.reference[m][half] * p.scale + logf(sum[half]);
    }
  }
}
