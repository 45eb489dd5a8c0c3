/*
 What the backward does row by row, before its products and after them.

 row_products makes delta_i = sum_d dO_id out_id, which both kernels that follow read; round_sums
 makes dq of the fp32 sums of a backward with atomics (atomics.h).
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
