/*
 Runs the kernels on a CPU, lane by lane, so that any machine can test them.

 Stands in for prim.h and the CUDA runtime under g++; fibers.h stands in for threads. Meant to
 find faults, not to be fast:

 * Shared memory is all NaN when a block starts, so what was never written shows.
 * Copies land at once, or (late) only when they are waited for, their place being NaN until
   then. A missing wait shows in one, a buffer overwritten too early in the other.
 * A warp runs as far as it can before another starts, from the first on or from the last, so
   that a missing barrier shows.
 * Fibers that wait for ever, addresses outside shared memory or not aligned, and lanes of a
   warp that disagree on the instruction end the launch with a message.
 * Products, loads and bank conflicts are counted.

 It cannot show: the text of prim.h, registers, timing, the order in which a tensor core adds, or
 a read beyond a tensor that changes no result.
*/
#pragma once
#include "fibers.h"

#include <algorithm>
#include <cmath>

#define DEVICE inline
#define __global__
#define __launch_bounds__(...)

struct float2 {
  float x, y;
};
struct Fragment {
  uint32_t word[4];
};

namespace emulation {

struct Counts {
  int64_t products, loads, conflicts;  // mma, ldmatrix, and extra passes over the banks
} counts;

inline void check_shared(const void* address, int bytes) {
  const char* at = static_cast<const char*>(address);
  if (at < memory.data() || at + bytes > memory.data() + memory.size())
    fail("an address outside shared memory");
  if ((at - memory.data()) % bytes) fail("an address in shared memory that is not aligned");
}

inline void land(const Copy& copy) {
  if (copy.from)
    memcpy(copy.to, copy.from, copy.bytes);
  else
    memset(copy.to, 0, copy.bytes);
}

inline float bf16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}

inline uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (std::isnan(x)) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
}

inline float fp16(uint16_t bits) {
  _Float16 x;
  memcpy(&x, &bits, 2);
  return x;
}

inline uint16_t to_fp16(float x) {
  _Float16 narrow = x;
  uint16_t bits;
  memcpy(&bits, &narrow, 2);
  return bits;
}

struct Load {
  const void* row;
  Fragment result;
};

// Element (row, column) of the m-th of the four matrices.
inline uint32_t element(Load* const* calls, int m, int row, int column) {
  return static_cast<const uint16_t*>(calls[8 * m + row]->row)[column];
}

// A matrix is read in one pass if its eight rows of 16 bytes fall in different bank groups.
inline void count_load(Load* const* calls) {
  counts.loads++;
  for (int m = 0; m < 4; m++) {
    int hits[8] = {}, passes = 0;
    for (int i = 0; i < 8; i++) {
      auto offset = static_cast<const char*>(calls[8 * m + i]->row) - memory.data();
      passes = std::max(passes, ++hits[offset / 16 % 8]);
    }
    counts.conflicts += passes - 1;
  }
}

template <bool TRANSPOSED>
void load_all(Load* const* calls) {
  count_load(calls);
  for (int i = 0; i < 32; i++)
    for (int m = 0; m < 4; m++) {
      int row = i / 4, column = 2 * (i % 4);
      uint32_t low = TRANSPOSED ? element(calls, m, column, row) : element(calls, m, row, column);
      uint32_t high =
          TRANSPOSED ? element(calls, m, column + 1, row) : element(calls, m, row, column + 1);
      calls[i]->result.word[m] = low | high << 16;
    }
}

struct Product {
  float (&c)[4];
  const Fragment& a;
  uint32_t b[2];
};

// Gather the operands from the lanes, multiply, and hand the sums back.
template <float (*value)(uint16_t)>
void multiply_all(Product* const* calls) {
  counts.products++;
  float a[16][16], b[16][8], c[16][8];
  for (int i = 0; i < 32; i++) {
    int g = i / 4, t = i % 4;
    for (int half = 0; half < 2; half++) {
      for (int w = 0; w < 4; w++)
        a[g + 8 * (w % 2)][2 * t + 8 * (w / 2) + half] = value(calls[i]->a.word[w] >> 16 * half);
      for (int w = 0; w < 2; w++) b[2 * t + 8 * w + half][g] = value(calls[i]->b[w] >> 16 * half);
    }
    for (int e = 0; e < 4; e++) c[g + 8 * (e / 2)][2 * t + e % 2] = calls[i]->c[e];
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
  for (int i = 0; i < 32; i++)
    for (int e = 0; e < 4; e++) calls[i]->c[e] = c[i / 4 + 8 * (e / 2)][2 * (i % 4) + e % 2];
}

struct Exchange {
  float x, result;
  int mask;
};

inline void exchange_all(Exchange* const* calls) {
  for (int i = 0; i < 32; i++) calls[i]->result = calls[i ^ calls[i]->mask]->x;
}

struct Vote {
  bool x;
};

inline void vote_all(Vote* const* calls) {
  bool any = false;
  for (int i = 0; i < 32; i++) any |= calls[i]->x;
  for (int i = 0; i < 32; i++) calls[i]->x = any;
}

}  // namespace emulation

using std::min;

inline char* shared_memory() { return emulation::memory.data(); }

inline void __syncthreads() { emulation::meet_block(); }

template <int BYTES>
void copy_async(void* to, const void* from, bool inside) {
  emulation::check_shared(to, BYTES);
  if (reinterpret_cast<uintptr_t>(from) % BYTES) emulation::fail("a copy that is not aligned");
  emulation::Copy copy = {to, inside ? from : nullptr, BYTES};
  if (!emulation::settings.late_copies) return emulation::land(copy);
  memset(to, 0xff, BYTES);
  emulation::running->copies.push_back(copy);
}

inline void wait_copies() {
  for (const emulation::Copy& copy : emulation::running->copies) emulation::land(copy);
  emulation::running->copies.clear();
}

inline Fragment load_matrices(const void* row) {
  emulation::check_shared(row, 16);
  emulation::Load load = {row, {}};
  emulation::together("load_matrices", load, emulation::load_all<false>);
  return load.result;
}

inline Fragment load_matrices_transposed(const void* row) {
  emulation::check_shared(row, 16);
  emulation::Load load = {row, {}};
  emulation::together("load_matrices_transposed", load, emulation::load_all<true>);
  return load.result;
}

inline float lane_xor(float x, int mask) {
  emulation::Exchange exchange = {x, 0, mask};
  emulation::together("lane_xor", exchange, emulation::exchange_all);
  return exchange.result;
}

inline bool any_lane(bool x) {
  emulation::Vote vote = {x};
  emulation::together("any_lane", vote, emulation::vote_all);
  return vote.x;
}

inline int thread_anew() { return threadIdx.x; }

inline void add_pair(float* to, float x, float y) {
  if (reinterpret_cast<uintptr_t>(to) % 8) emulation::fail("a pair that is not aligned");
  to[0] += x;
  to[1] += y;
}

inline float fast_exp2(float x) { return exp2f(x); }

// One element format: how its bits are read, and how a float is rounded to them.
template <float (*value)(uint16_t), uint16_t (*bits)(float)>
struct Format {
  static void mma(float (&c)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
    emulation::Product product = {c, a, {b0, b1}};
    emulation::together("mma", product, emulation::multiply_all<value>);
  }
  static uint32_t pack(float low, float high) { return bits(low) | uint32_t(bits(high)) << 16; }
  static float2 unpack(uint32_t word) { return {value(word), value(word >> 16)}; }
};

typedef Format<emulation::bf16, emulation::to_bf16> Bf16;
typedef Format<emulation::fp16, emulation::to_fp16> Fp16;

template <class... Arguments>
int launch(void (*kernel)(Arguments...), dim3 grid, int threads, int shared_bytes, void*,
           Arguments... arguments) {
  using namespace emulation;
  body = [=] { kernel(arguments...); };
  failure = nullptr;
  gridDim = grid;
  for (unsigned block = 0; block < grid.x * grid.y * grid.z && !failure; block++) {
    blockIdx = dim3(block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y);
    run_block(threads, shared_bytes);
  }
  return failure ? FAILED : 0;
}

inline int most_shared_memory() { return 163 << 10; }  // of an A100

inline const char* describe(int) { return emulation::failure; }

extern "C" void emulate(int late_copies, int last_warp_first) {
  emulation::settings = {bool(late_copies), bool(last_warp_first)};
  emulation::counts = {};
}

extern "C" void emulated(int64_t* counts) { memcpy(counts, &emulation::counts, 3 * 8); }
