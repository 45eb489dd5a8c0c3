/*
 Backward: the gradients of q, k and v from that of out, recomputing the probabilities.

 With P = exp(scale q k' - lse), dP = dO v' and delta_i = sum_d dO_id out_id:

   dv = P' dO      dS = P (dP - delta)      dq = scale dS k      dk = scale dS' q

 dk and dv sum over queries, dq over keys. So one kernel owns keys and meets the queries that see
 them, and another owns queries and meets the keys they see: scores are computed in both, two
 products more than one kernel that sums dq with atomics, in exchange for gradients that are the
 same bits in every run. That one kernel is here as well, for who asks for it.
 Dao et al. 2022, https://arxiv.org/abs/2205.14135, algorithm 4 and appendix B.2; docs/kernels.md.
*/
#pragma once

constexpr int ROW_THREADS = 128, ROW_BLOCK = 64;  // rows of a block, one at a time to a warp

// Call `work` for each of this warp's rows of the block.
template <class Work>
DEVICE void each_row(int length, Work work) {
  const int first = blockIdx.z * ROW_BLOCK, end = min(first + ROW_BLOCK, length);
#pragma unroll 4
  for (int row = first + warp(); row < end; row += ROW_THREADS / 32) work(row);
}

// delta.
template <class T, int D>
__global__ void __launch_bounds__(ROW_THREADS) row_products(Problem p) {
  const int head = blockIdx.x, batch = blockIdx.y;
  const Element *out = rows_of(p.out, batch, head), *grad = rows_of(p.grad_out, batch, head);
  each_row(p.length, [&](int query) {
    const uint32_t* x = reinterpret_cast<const uint32_t*>(out + query * p.out.row);
    const uint32_t* y = reinterpret_cast<const uint32_t*>(grad + query * p.grad_out.row);
    float sum = 0;
#pragma unroll
    for (int i = lane(); i < D / 2; i += 32) {
      float2 a = T::unpack(x[i]), b = T::unpack(y[i]);
      sum += a.x * b.x + a.y * b.y;
    }
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) sum += lane_xor(sum, mask);
    if (lane() == 0) p.delta[statistics_of(p, batch, head) + query] = sum;
  });
}

// A block owns keys, 16 to a warp: 64, or 128 with atomics, which halves what goes to memory.
// It has two tiles each of q and grad_out, lse and delta; with atomics, its keys and a tile's dS.
template <int D, bool ATOMICS>
struct KeyBlock {
  static constexpr int WARPS = ATOMICS ? 8 : 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS;
  static constexpr int STREAMS = 4 * TILE * D, KEYS = ATOMICS ? ROWS * D : 0;  // elements
  static constexpr int SCORES = ATOMICS ? ROWS * TILE : 0;
  static constexpr int BYTES = 2 * (STREAMS + KEYS + SCORES) + 4 * 4 * TILE;
};

// Start copying a tile's lse or delta. Zeros beyond the sequence do no harm: q and grad_out are
// zero there as well, and so is all that comes of them.
DEVICE void fetch_statistics(float* to, const float* from, int start, int length) {
  int i = thread_anew(), query = start + i;
  if (i < TILE) copy_async<4>(to + i, from + query, query < length);
}

// Write a strip's dS, keys by queries, where all warps can read it. A null s is all zeros.
template <class T>
DEVICE void share_scores(Element* scores, const Scores<1>* s, int column) {
#pragma unroll
  for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      int row = 16 * warp() + row_of(0, e);
      Element* to = scores + place<TILE>(row, column / 8 + n) + 2 * (lane() % 4);
      *reinterpret_cast<uint32_t*>(to) = s ? T::pack((*s)[0][n][e], (*s)[0][n][e + 1]) : 0;
    }
}

// Add dS k of a tile of queries to the sums in memory: 16 queries and half of d to a warp.
// Of the block's keys only the first `seen` have been met by these queries.
template <class T, int D>
DEVICE void add_query_gradients(float* sums, const Element* scores, const Element* k, int tile,
                                int length, int seen) {
  const int query = 16 * (warp() % 4), half = warp() / 4;
  float c[D / 16][4] = {};
#pragma unroll 2
  for (int step = 0; step < seen / 16; step++) {
    int row = 16 * step + lane() % 8 + 8 * (lane() / 16), chunk = lane() / 8 % 2;
    Fragment a = load_matrices_transposed(scores + place<TILE>(row, chunk, query / 16));
#pragma unroll
    for (int n = 0; n < D / 32; n++) {
      Fragment b = load_matrices_transposed(
          k + 16 * step * D + place<D>(lane() % 16, lane() / 16, n + half * (D / 32)));
      T::mma(c[2 * n], a, b.word[0], b.word[1]);
      T::mma(c[2 * n + 1], a, b.word[2], b.word[3]);
    }
  }
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int row = tile + query + row_of(0, e);
    if (row >= length) continue;
#pragma unroll
    for (int n = 0; n < D / 16; n++)
      add_pair(sums + int64_t(row) * D + half * (D / 2) + column_of(n, 0), c[n][e], c[n][e + 1]);
  }
}

// Rows are this block's keys, columns the queries that stream by, of every head that reads them.
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
  const int group = p.heads / p.key_heads, first_head = key_head * group;

  fetch<D, THREADS, ROWS>(ATOMICS ? k : q, rows_of(p.k, batch, key_head), p.k.row, mine, p.length);
  fetch<D, THREADS, ROWS>(grad_out, rows_of(p.v, batch, key_head), p.v.row, mine, p.length);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  Rows<1, D> keys, values;
  if constexpr (!ATOMICS) hold<1, D>(keys, q);
  hold<1, D>(values, grad_out);
  __syncthreads();  // where queries and grad_out come next

  auto fetch_queries = [&](int head, int tile, int turn) {
    const int64_t statistics = statistics_of(p, batch, head);
    fetch<D, THREADS>(q + turn * D, rows_of(p.q, batch, head), p.q.row, tile, p.length);
    fetch<D, THREADS>(grad_out + turn * D, rows_of(p.grad_out, batch, head), p.grad_out.row, tile,
                      p.length);
    fetch_statistics(lse + turn, p.lse + statistics, tile, p.length);
    fetch_statistics(delta + turn, p.delta + statistics, tile, p.length);
    commit_copies();
  };
  const int last = end_query(p, batch, mine + ROWS - 1) - 1;
  Sum<1, D> grad_k = {}, grad_v = {};
  fetch_queries(first_head, mine, 0);
#pragma unroll 1
  for (int head = first_head, strip = mine, turn = 0; head < first_head + group;) {
    if (strip % TILE == 0) {
      wait_copies<0>();
      __syncthreads();  // this tile is here, and nobody reads the one before it any more
      if (strip + TILE <= last)
        fetch_queries(head, strip + TILE, turn ^ TILE);
      else if (head + 1 < first_head + group)
        fetch_queries(head + 1, mine, turn ^ TILE);
    }
    const int at = turn + strip % TILE;
    if (strip + STRIP <= start || strip >= end_query(p, batch, start + 15)) {
      if constexpr (ATOMICS) share_scores<T>(scores, nullptr, strip % TILE);
    } else {
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
        for (int e = 0; e < 4; e++)
          s[0][n][e] *= grad_p[0][n][e] - delta[at + column_of(n, e)];
      multiply_add<T, 1, D>(grad_k, s, q + at * D);
      if constexpr (ATOMICS) share_scores<T>(scores, &s, strip % TILE);
    }
    strip += STRIP;
    if (strip % TILE) continue;
    if constexpr (ATOMICS) {
      __syncthreads();  // this tile's dS is here
      add_query_gradients<T, D>(p.sums + statistics_of(p, batch, head) * D, scores, k,
                                strip - TILE, p.length, min(ROWS, strip - mine));
    }
    turn ^= TILE;
    if (strip > last) strip = mine, head++;
  }
  store<T>(rows_of(p.grad_k, batch, key_head), p.grad_k.row, start, p.length, grad_k[0], p.scale,
           p.scale);
  store<T>(rows_of(p.grad_v, batch, key_head), p.grad_v.row, start, p.length, grad_v[0], 1, 1);
}

constexpr int QUERY_THREADS = 128, QUERY_ROWS = 64;

// Rows are this block's queries, columns the keys that stream by.
template <class T, int D>
__global__ void __launch_bounds__(QUERY_THREADS, 2) query_gradients(Problem p, float scale_log2) {
  Element *k = reinterpret_cast<Element*>(shared_memory()), *v = k + 2 * TILE * D;
  const int head = blockIdx.x, batch = blockIdx.y, key_head = head / (p.heads / p.key_heads);
  const int mine = (gridDim.z - 1 - blockIdx.z) * QUERY_ROWS;  // most work starts first
  const int start = mine + 16 * warp();                        // of this warp's rows

  fetch<D, QUERY_THREADS>(k, rows_of(p.q, batch, head), p.q.row, mine, p.length);
  fetch<D, QUERY_THREADS>(v, rows_of(p.grad_out, batch, head), p.grad_out.row, mine, p.length);
  commit_copies();
  float lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int query = start + row_of(0, 2 * half);
    if (query >= p.length) continue;
    lse[half] = p.lse[statistics_of(p, batch, head) + query];
    delta[half] = p.delta[statistics_of(p, batch, head) + query];
  }
  wait_copies<0>();
  __syncthreads();
  Rows<1, D> queries, grad_out;
  hold<1, D>(queries, k);
  hold<1, D>(grad_out, v);
  __syncthreads();  // where keys and values come next

  const Element *keys = rows_of(p.k, batch, key_head), *values = rows_of(p.v, batch, key_head);
  auto fetch_keys = [&](int tile) {
    const int turn = tile % (2 * TILE) * D;
    fetch<D, QUERY_THREADS>(k + turn, keys, p.k.row, tile, p.length);
    fetch<D, QUERY_THREADS>(v + turn, values, p.v.row, tile, p.length);
    commit_copies();
  };
  const int last = min(mine + QUERY_ROWS, p.length) - 1;
  const int begin = first_key(p, batch, mine) / TILE * TILE;
  fetch_keys(begin);
  Sum<1, D> grad_q = {};
#pragma unroll 1
  for (int strip = begin; strip <= last; strip += STRIP) {
    if (strip % TILE == 0) {
      wait_copies<0>();
      __syncthreads();  // this tile is here, and nobody reads the one before it any more
      if (strip + TILE <= last) fetch_keys(strip + TILE);
    }
    if (strip > start || strip + STRIP <= first_key(p, batch, start)) continue;
    const int turn = strip % (2 * TILE) * D;
    Scores<1> s, grad_p;
    multiply_transposed<T, 1, D>(s, queries, k + turn);
    hide_keys<1>(s, p, batch, start, strip);
    multiply_transposed<T, 1, D>(grad_p, grad_out, v + turn);
#pragma unroll
    for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        s[0][n][e] =
            probability(s[0][n][e], scale_log2, lse[e / 2]) * (grad_p[0][n][e] - delta[e / 2]);
    multiply_add<T, 1, D>(grad_q, s, k + turn);
  }
  store<T>(rows_of(p.grad_q, batch, head), p.grad_q.row, start, p.length, grad_q[0], p.scale,
           p.scale);
}

// dq from its sums, two columns at a time to a lane.
template <class T, int D>
__global__ void __launch_bounds__(ROW_THREADS) round_sums(Problem p) {
  const int head = blockIdx.x, batch = blockIdx.y;
  each_row(p.length, [&](int query) {
    Element* to = rows_of(p.grad_q, batch, head) + query * p.grad_q.row;
    const float* from = p.sums + (statistics_of(p, batch, head) + query) * D;
#pragma unroll
    for (int i = 2 * lane(); i < D; i += 64)
      *reinterpret_cast<uint32_t*>(to + i) = T::pack(from[i] * p.scale, from[i + 1] * p.scale);
  });
}
