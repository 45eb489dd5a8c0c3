/*
 Backward: the gradients of q, k and v from that of out, recomputing the probabilities.

 With P = exp(scale q k' - lse), dP = dO v' and delta_i = sum_d dO_id out_id:

   dv = P' dO      dS = P (dP - delta)      dq = scale dS k      dk = scale dS' q

 dk and dv sum over queries, dq over keys, so one kernel owns a key tile and meets the query
 tiles from the diagonal on, and another owns a query tile and meets the key tiles up to it.
 Scores are computed in both: two products more than summing dq with atomics, in exchange for
 gradients that are the same bits in every run.
 Dao et al. 2022, https://arxiv.org/abs/2205.14135, algorithm 4 and appendix B.2.
*/
#pragma once

// delta, one row to a warp.
template <class T, int D>
__global__ void __launch_bounds__(THREADS) row_products(Problem p) {
  int query = blockIdx.x * WARPS + warp();
  if (query >= p.length) return;
  auto row = [&](const Matrix& m) {
    return reinterpret_cast<const uint32_t*>(rows_of(m, 0) + query * m.row);
  };
  const uint32_t *out = row(p.out), *grad = row(p.grad_out);
  float sum = 0;
#pragma unroll
  for (int i = lane(); i < D / 2; i += 32) {
    float2 x = T::unpack(out[i]), y = T::unpack(grad[i]);
    sum += x.x * y.x + x.y * y.y;
  }
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) sum += lane_xor(sum, mask);
  if (lane() == 0) p.delta[statistics_of(p) + query] = sum;
}

// k and v, and two each of q and grad_out; then two tiles' lse and delta, as floats.
constexpr int key_gradient_tiles = 6;
constexpr int key_gradient_floats = 4 * ROWS;

// Start copying a tile's statistics. Zeros beyond the sequence do no harm: q and grad_out are
// zero there as well, and so is all that comes of them.
DEVICE void fetch_statistics(float* to, const float* from, int tile, int length) {
  int i = threadIdx.x, query = tile * ROWS + i;
  if (i < ROWS) copy_async<4>(to + i, from + (query < length ? query : 0), query < length);
}

// Rows are this block's keys, columns the queries that stream by.
template <class T, int D>
__global__ void __launch_bounds__(THREADS) key_gradients(Problem p) {
  Element* k = reinterpret_cast<Element*>(shared_memory());
  Element *v = k + ROWS * D, *q = v + ROWS * D, *grad_out = q + 2 * ROWS * D;
  float* lse = reinterpret_cast<float*>(grad_out + 2 * ROWS * D);
  float* delta = lse + 2 * ROWS;
  const int mine = blockIdx.x, tiles = gridDim.x;
  const float scale_log2 = p.scale * LOG2_E;
  auto fetch_queries = [&](int tile) {
    fetch<D>(q + tile % 2 * ROWS * D, p.q, tile, p.length);
    fetch<D>(grad_out + tile % 2 * ROWS * D, p.grad_out, tile, p.length);
    fetch_statistics(lse + tile % 2 * ROWS, p.lse + statistics_of(p), tile, p.length);
    fetch_statistics(delta + tile % 2 * ROWS, p.delta + statistics_of(p), tile, p.length);
    commit_copies();
  };

  fetch<D>(k, p.k, mine, p.length);
  fetch<D>(v, p.v, mine, p.length);
  fetch_queries(mine);
  Sum<D> grad_k = {}, grad_v = {};
  for (int tile = mine; tile < tiles; tile++) {
    wait_copies<0>();
    __syncthreads();  // this tile is here, and nobody reads the one before it any more
    if (tile + 1 < tiles) fetch_queries(tile + 1);
    const int turn = tile % 2 * ROWS;
    Scores s = {};
    multiply_transposed<T, D>(s, k, q + turn * D);
    if (tile == mine) hide_later_keys(s, false);
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        s[n][e] = probability(s[n][e], scale_log2, lse[turn + column_of(n, e)]);
    multiply_add<T, D>(grad_v, s, grad_out + turn * D);
    Scores grad_p = {};
    multiply_transposed<T, D>(grad_p, v, grad_out + turn * D);
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[n][e] *= grad_p[n][e] - delta[turn + column_of(n, e)];
    multiply_add<T, D>(grad_k, s, q + turn * D);
  }
  store<T, D>(p.grad_k, mine, p.length, grad_k, p.scale, p.scale);
  store<T, D>(p.grad_v, mine, p.length, grad_v, 1, 1);
}

constexpr int query_gradient_tiles = 6;  // q and grad_out, and two each of k and v

// Rows are this block's queries, columns the keys that stream by.
template <class T, int D>
__global__ void __launch_bounds__(THREADS) query_gradients(Problem p) {
  Element* q = reinterpret_cast<Element*>(shared_memory());
  Element *grad_out = q + ROWS * D, *k = grad_out + ROWS * D, *v = k + 2 * ROWS * D;
  const int mine = gridDim.x - 1 - blockIdx.x;  // the block with most tiles starts first
  const float scale_log2 = p.scale * LOG2_E;
  auto fetch_keys = [&](int tile) {
    fetch<D>(k + tile % 2 * ROWS * D, p.k, tile, p.length);
    fetch<D>(v + tile % 2 * ROWS * D, p.v, tile, p.length);
    commit_copies();
  };

  fetch<D>(q, p.q, mine, p.length);
  fetch<D>(grad_out, p.grad_out, mine, p.length);
  fetch_keys(0);
  float lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int query = mine * ROWS + row_of(2 * half);
    if (query >= p.length) continue;
    lse[half] = p.lse[statistics_of(p) + query];
    delta[half] = p.delta[statistics_of(p) + query];
  }

  Sum<D> grad_q = {};
  for (int tile = 0; tile <= mine; tile++) {
    wait_copies<0>();
    __syncthreads();  // this tile is here, and nobody reads the one before it any more
    if (tile < mine) fetch_keys(tile + 1);
    const int turn = tile % 2 * ROWS;
    Scores s = {}, grad_p = {};
    multiply_transposed<T, D>(s, q, k + turn * D);
    if (tile == mine) hide_later_keys(s, true);
    multiply_transposed<T, D>(grad_p, grad_out, v + turn * D);
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        s[n][e] = probability(s[n][e], scale_log2, lse[e / 2]) * (grad_p[n][e] - delta[e / 2]);
    multiply_add<T, D>(grad_q, s, k + turn * D);
  }
  store<T, D>(p.grad_q, mine, p.length, grad_q, p.scale, p.scale);
}
