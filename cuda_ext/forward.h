/*
 Forward: out = softmax(scale q k') v over earlier keys, and lse = log sum exp (scale q k').

 A block owns 64 queries and meets the key tiles up to its own, one at a time; the scores of one
 tile are all that ever exists, and tiles above the diagonal are never met.
 Rabe & Staats 2021, https://arxiv.org/abs/2112.05682; LLaMA, section 2.4.
*/
#pragma once

constexpr int forward_tiles = 5;  // q, and two each of k and v: one in use, one on its way

template <class T, int D>
__global__ void __launch_bounds__(THREADS, 2) forward(Problem p) {
  Element* q = reinterpret_cast<Element*>(shared_memory());
  Element *k = q + ROWS * D, *v = k + 2 * ROWS * D;
  const int mine = gridDim.x - 1 - blockIdx.x;  // the block with most tiles starts first
  const float scale_log2 = p.scale * LOG2_E;
  auto fetch_keys = [&](int tile) {
    fetch<D>(k + tile % 2 * ROWS * D, p.k, tile, p.length);
    fetch<D>(v + tile % 2 * ROWS * D, p.v, tile, p.length);
    commit_copies();
  };

  fetch<D>(q, p.q, mine, p.length);
  commit_copies();
  fetch_keys(0);
  wait_copies<1>();
  __syncthreads();
  Fragment queries[D / 16];  // q stays in registers
#pragma unroll
  for (int step = 0; step < D / 16; step++) queries[step] = left_operand<D>(q, step);

  Softmax softmax;
  Sum<D> out = {};
  for (int tile = 0; tile <= mine; tile++) {
    wait_copies<0>();
    __syncthreads();  // this tile is here, and nobody reads the one before it any more
    if (tile < mine) fetch_keys(tile + 1);
    Scores s = {};
#pragma unroll
    for (int step = 0; step < D / 16; step++)
      multiply_transposed<T, D>(s, queries[step], k + tile % 2 * ROWS * D, step);
    if (tile == mine) hide_later_keys(s, true);
    softmax.update(s, out, scale_log2);
    multiply_add<T, D>(out, s, v + tile % 2 * ROWS * D);
  }

  const float sum[2] = {row_sum(softmax.sum[0]), row_sum(softmax.sum[1])};
  store<T, D>(p.out, mine, p.length, out, 1 / sum[0], 1 / sum[1]);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int query = mine * ROWS + row_of(2 * half);
    if (lane() % 4 == 0 && query < p.length)
      p.lse[statistics_of(p) + query] = softmax.largest[half] * p.scale + logf(sum[half]);
  }
}
