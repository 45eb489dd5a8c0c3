/*
 Backward: the gradients of q, k and v from that of out, recomputing the probabilities.

 With P = exp(scale q k' - lse), dP = dO v' and delta_i = sum_d dO_id out_id:

   dv = P' dO      dS = P (dP - delta)      dq = scale dS k      dk = scale dS' q

 dk and dv sum over queries, dq over keys. So one kernel owns keys and meets the queries that see
 them, and another owns queries and meets the keys they see: scores are computed in both, two
 products more than one kernel that sums dq with atomics, in exchange for gradients that are the
 same bits in every run. With atomics.h the first kernel is that one as well, for whoever asks.
 Dao et al. 2022, https://arxiv.org/abs/2205.14135, algorithm 4 and appendix B.2; docs/kernels.md.
*/
#pragma once

// A block owns keys, 16 to a warp: 64, or 128 with atomics, which halves what goes to memory.
// It has two tiles each of q and grad_out, lse and delta; with atomics, its keys and a tile's dS.
template <int D, bool ATOMICS>
struct KeyBlock {
  static constexpr int WARPS = ATOMICS ? 8 : 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS;
  static constexpr int STREAMS = 4 * TILE * D, KEYS = ATOMICS ? ROWS * D : 0;  // elements
  static constexpr int SCORES = ATOMICS ? ROWS * TILE : 0;
  static constexpr int BYTES = 2 * (STREAMS + KEYS + SCORES) + 4 * 4 * TILE;
};

// Rows are this block's keys, columns the queries that stream by.
template <class T, int D, bool ATOMICS>
__global__ void __launch_bounds__(KeyBlock<D, ATOMICS>::THREADS, ATOMICS ? 1 : 2)
    key_gradients(Problem p, float scale_log2) {
  typedef KeyBlock<D, ATOMICS> Block;
  constexpr int THREADS = Block::THREADS, ROWS = Block::ROWS;
  Element *q = reinterpret_cast<Element*>(shared_memory()), *grad_out = q + 2 * TILE * D;
  Element *k = q + Block::STREAMS, *scores = k + Block::KEYS;
  float *lse = reinterpret_cast<float*>(scores + Block::SCORES), *delta = lse + 2 * TILE;
  const int key_head = blockIdx.x, batch = blockIdx.y, mine = blockIdx.z * ROWS;
  const int start = mine + 16 * warp();  // of this warp's rows

  fetch<D, THREADS, ROWS>(ATOMICS ? k : q, rows_of(p.k, batch, key_head), p.k.row, mine, p.length);
  fetch<D, THREADS, ROWS>(grad_out, rows_of(p.v, batch, key_head), p.v.row, mine, p.length);
  wait_for_all();
  Rows<1, D> keys, values;
  if constexpr (!ATOMICS) hold<1, D>(keys, q);
  hold<1, D>(values, grad_out);
  __syncthreads();  // where queries and grad_out come next

  Sum<1, D> grad_k = {}, grad_v = {};
  auto each_strip = [&](int strip, int at) {
    if (strip + STRIP <= start || strip >= end_query(p, batch, start + 15)) {
      if constexpr (ATOMICS) share_scores<T>(scores, nullptr, strip % TILE);
      return;
    }
    Scores<1> s, grad_p;
    if constexpr (ATOMICS)
      multiply_transposed<T, 1, D>(s, k, q + at * D);
    else
      multiply_transposed<T, 1, D>(s, keys, q + at * D);
    hide_queries<1>(s, p, batch, start, strip);
#pragma unroll
    for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        s[0][n][e] = probability(s[0][n][e], scale_log2, lse[at + column_of(n, e)]);
    multiply_add<T, 1, D>(grad_v, s, grad_out + at * D);
    multiply_transposed<T, 1, D>(grad_p, values, grad_out + at * D);
#pragma unroll
    for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[0][n][e] *= grad_p[0][n][e] - delta[at + column_of(n, e)];
    multiply_add<T, 1, D>(grad_k, s, q + at * D);
    if constexpr (ATOMICS) share_scores<T>(scores, &s, strip % TILE);
  };
  auto each_tile = [&](int head, int tile) {
    if constexpr (ATOMICS) {
      __syncthreads();  // this tile's dS is here
      add_query_gradients<T, D>(p.sums + statistics_of(p, batch, head) * D, scores, k, tile,
                                p.length, min(ROWS, tile + TILE - mine));
    }
  };
  stream_queries<D, THREADS, ROWS>(p, mine, q, grad_out, lse, delta, each_strip, each_tile);
  store<T>(rows_of(p.grad_k, batch, key_head), p.grad_k.row, start, p.length, grad_k[0], p.scale,
           p.scale);
  store<T>(rows_of(p.grad_v, batch, key_head), p.grad_v.row, start, p.length, grad_v[0], 1, 1);
}

constexpr int QUERY_THREADS = 128, QUERY_ROWS = 64;

// Rows are this block's queries, columns the keys that stream by.
template <class T, int D>
__global__ void __launch_bounds__(QUERY_THREADS, 2) query_gradients(Problem p, float scale_log2) {
  Element *k = reinterpret_cast<Element*>(shared_memory()), *v = k + 2 * TILE * D;
  const int head = blockIdx.x, batch = blockIdx.y;
  const int mine = (gridDim.z - 1 - blockIdx.z) * QUERY_ROWS;  // most work starts first
  const int start = mine + 16 * warp();                        // of this warp's rows

  fetch<D, QUERY_THREADS>(k, rows_of(p.q, batch, head), p.q.row, mine, p.length);
  fetch<D, QUERY_THREADS>(v, rows_of(p.grad_out, batch, head), p.grad_out.row, mine, p.length);
  float lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int query = start + row_of(0, 2 * half);
    if (query >= p.length) continue;
    lse[half] = p.lse[statistics_of(p, batch, head) + query];
    delta[half] = p.delta[statistics_of(p, batch, head) + query];
  }
  wait_for_all();
  Rows<1, D> queries, grad_out;
  hold<1, D>(queries, k);
  hold<1, D>(grad_out, v);
  __syncthreads();  // where keys and values come next

  Sum<1, D> grad_q = {};
  stream_keys<D, QUERY_THREADS, QUERY_ROWS>(p, mine, start, k, v, [&](int strip, int at) {
    Scores<1> s, grad_p;
    multiply_transposed<T, 1, D>(s, queries, k + at * D);
    hide_keys<1>(s, p, batch, start, strip);
    multiply_transposed<T, 1, D>(grad_p, grad_out, v + at * D);
#pragma unroll
    for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        s[0][n][e] =
            probability(s[0][n][e], scale_log2, lse[e / 2]) * (grad_p[0][n][e] - delta[e / 2]);
    multiply_add<T, 1, D>(grad_q, s, k + at * D);
  });
  store<T>(rows_of(p.grad_q, batch, head), p.grad_q.row, start, p.length, grad_q[0], p.scale,
           p.scale);
}
