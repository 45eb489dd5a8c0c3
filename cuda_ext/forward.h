/*
 Forward: out = softmax(scale q k') v over the keys that a query sees, and
 lse = log sum exp (scale q k').

 A block owns 128 queries, 32 to a warp, and meets the key tiles from where its first query's
 document begins up to its last query. A warp's scores of one strip are all that ever exists, and
 strips that are hidden from all its queries are not computed.
 Rabe & Staats 2021, https://arxiv.org/abs/2112.05682; LLaMA, section 2.4.
*/
#pragma once

constexpr int FORWARD_M = 2, FORWARD_THREADS = 128;
constexpr int FORWARD_ROWS = 16 * FORWARD_M * FORWARD_THREADS / 32;  // queries of a block

template <class T, int D>
__global__ void __launch_bounds__(FORWARD_THREADS, 2) forward(Problem p, float scale_log2) {
  constexpr int M = FORWARD_M;
  Element *k = reinterpret_cast<Element*>(shared_memory()), *v = k + 2 * TILE * D;
  const int batch = blockIdx.y, head = blockIdx.x, key_head = head / (p.heads / p.key_heads);
  const int mine = (gridDim.z - 1 - blockIdx.z) * FORWARD_ROWS;  // most work starts first
  const Element *keys = rows_of(p.k, batch, key_head), *values = rows_of(p.v, batch, key_head);

  fetch<D, FORWARD_THREADS, FORWARD_ROWS>(v, rows_of(p.q, batch, head), p.q.row, mine, p.length);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  Rows<M, D> queries;
  hold<M, D>(queries, v);
  __syncthreads();  // where values come next

  const int start = mine + 16 * M * warp();  // of this warp's rows
  const int last = min(mine + FORWARD_ROWS, p.length) - 1;
  auto fetch_keys = [&](int tile) {
    const int turn = tile % (2 * TILE) * D;
    fetch<D, FORWARD_THREADS>(k + turn, keys, p.k.row, tile, p.length);
    fetch<D, FORWARD_THREADS>(v + turn, values, p.v.row, tile, p.length);
    commit_copies();
  };
  const int begin = first_key(p, batch, mine) / TILE * TILE;
  fetch_keys(begin);
  Softmax<M> softmax;
  Sum<M, D> out = {};
#pragma unroll 1
  for (int strip = begin; strip <= last; strip += STRIP) {
    if (strip % TILE == 0) {
      wait_copies<0>();
      __syncthreads();  // this tile is here, and nobody reads the one before it any more
      if (strip + TILE <= last) fetch_keys(strip + TILE);
    }
    if (strip > start || strip + STRIP <= first_key(p, batch, start)) continue;
    const int turn = strip % (2 * TILE) * D;
    Scores<M> s;
    multiply_transposed<T, M, D>(s, queries, k + turn);
    hide_keys<M>(s, p, batch, start, strip);
    softmax.update(s, out, scale_log2);
    multiply_add<T, M, D>(out, s, v + turn);
  }
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
