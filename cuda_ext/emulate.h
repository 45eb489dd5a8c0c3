/*
 Runs the kernels on a CPU, lane by lane, so that any machine can test them.

 Stands in for prim.h and the CUDA runtime under g++. A thread of the GPU is a fiber with a
 stack of its own; blocks run one after another. An instruction of a whole warp waits until
 its 32 lanes have come, and the last does the work for all. Meant to find faults, not to be
 fast:

 * Shared memory is all NaN when a block starts, so what was never written shows.
 * Copies land at once, or (late) only when they are waited for, their place being NaN until
   then. A missing wait shows in one, a buffer overwritten too early in the other.
 * A warp runs as far as it can before another starts, from the first on or from the last, so
   that a missing barrier shows.
 * Fibers that wait for ever, addresses outside shared memory or not aligned, and lanes of a
   warp that disagree on the instruction end the launch with a message.
 * Products, loads and bank conflicts are counted.

 It cannot show: the text of prim.h, registers, timing, or the order in which a tensor core adds.
*/
#pragma once
#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define DEVICE inline
#define __global__
#define __launch_bounds__(...)
#define threadIdx (emulation::running->index)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float2 {
  float x, y;
};
struct Fragment {
  uint32_t word[4];
};
inline dim3 blockIdx, gridDim;

namespace emulation {

constexpr size_t STACK = 1 << 16;  // bytes of a fiber; ours, the kernels use less than 8 KB
constexpr int FAILED = -1;

struct Settings {
  bool late_copies = false, last_warp_first = false;
} settings;

struct Counts {
  int64_t products, loads, conflicts;  // mma, ldmatrix, and extra passes over the banks
} counts;

struct Copy {
  void* to;
  const void* from;  // null for zeros
  int bytes;
};

enum State { READY, WAITS_FOR_BLOCK, WAITS_FOR_WARP, DONE };

struct Fiber {
  dim3 index;
  State state = READY;
  bool started = false;
  ucontext_t start;
  jmp_buf here;
  std::vector<char> stack = std::vector<char>(STACK);
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

struct Warp {
  Fiber* lanes = nullptr;
  const char* instruction = nullptr;
  void* calls[32];
  int arrived = 0;
};

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline std::vector<char> memory;  // shared, of the block
inline std::function<void()> body;
inline Fiber* running;
inline jmp_buf scheduler;
inline const char* failure;

// A fiber gives way to the scheduler; it returns when it is resumed.
[[gnu::noinline]] inline void give_way() {
  if (_setjmp(running->here) == 0) _longjmp(scheduler, 1);
}

[[noreturn]] inline void fail(const char* message) {
  failure = message;
  _longjmp(scheduler, 1);
}

inline void enter() {
  body();
  running->state = DONE;
  _longjmp(scheduler, 1);
}

[[gnu::noinline]] inline void resume(Fiber& fiber) {
  running = &fiber;
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = STACK;
  makecontext(&fiber.start, enter, 0);
  setcontext(&fiber.start);
}

inline int lane() { return running->index.x % 32; }

// Meet the other lanes of this warp in one instruction; `work` gets all their calls.
template <class Call>
void together(const char* instruction, Call& call, void (*work)(Call* const* calls)) {
  Warp& warp = warps[running->index.x / 32];
  if (warp.arrived && warp.instruction != instruction) fail("lanes of a warp parted");
  warp.instruction = instruction;
  warp.calls[lane()] = &call;
  if (++warp.arrived < 32) {
    running->state = WAITS_FOR_WARP;
    return give_way();
  }
  work(reinterpret_cast<Call* const*>(warp.calls));
  warp.arrived = 0;
  for (int i = 0; i < 32; i++) warp.lanes[i].state = READY;
}

inline void meet_block() {
  running->state = WAITS_FOR_BLOCK;
  give_way();
}

// Resume each fiber of a warp that can run; false when none could.
inline bool advance(Warp& warp) {
  bool ran = false;
  for (int i = 0; i < 32 && !failure; i++)
    if (warp.lanes[i].state == READY) {
      resume(warp.lanes[i]);
      ran = true;
    }
  return ran;
}

inline bool open_barrier() {
  bool waiting = false;
  for (Fiber& fiber : fibers) {
    if (fiber.state == WAITS_FOR_WARP) return false;
    waiting |= fiber.state == WAITS_FOR_BLOCK;
  }
  for (Fiber& fiber : fibers)
    if (fiber.state == WAITS_FOR_BLOCK) fiber.state = READY;
  return waiting;
}

inline void start_block(int threads, int shared_bytes) {
  memory.assign(shared_bytes, char(0xff));  // NaN as bf16, fp16 and fp32
  fibers.resize(threads);                   // their stacks are made once
  warps.assign(threads / 32, {});
  for (int i = 0; i < threads; i++) {
    fibers[i].index = dim3(i);
    fibers[i].state = READY;
    fibers[i].started = false;
    fibers[i].open.clear();
    fibers[i].groups.clear();
    if (i % 32 == 0) warps[i / 32].lanes = &fibers[i];
  }
}

inline void run_block(int threads, int shared_bytes) {
  start_block(threads, shared_bytes);
  do {
    for (size_t i = 0; i < warps.size(); i++) {
      Warp& warp = warps[settings.last_warp_first ? warps.size() - 1 - i : i];
      while (advance(warp)) continue;
    }
  } while (!failure && open_barrier());
  for (Fiber& fiber : fibers)
    if (!failure && fiber.state != DONE) failure = "lanes of a warp wait for ever";
}

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

}  // namespace emulation

inline char* shared_memory() { return emulation::memory.data(); }

inline void __syncthreads() { emulation::meet_block(); }

template <int BYTES>
void copy_async(void* to, const void* from, bool inside) {
  emulation::check_shared(to, BYTES);
  if (reinterpret_cast<uintptr_t>(from) % BYTES) emulation::fail("a copy that is not aligned");
  emulation::Copy copy = {to, inside ? from : nullptr, BYTES};
  if (!emulation::settings.late_copies) return emulation::land(copy);
  memset(to, 0xff, BYTES);
  emulation::running->open.push_back(copy);
}

inline void commit_copies() {
  emulation::running->groups.push_back(std::move(emulation::running->open));
  emulation::running->open.clear();
}

template <int GROUPS>
void wait_copies() {
  auto& groups = emulation::running->groups;
  for (; groups.size() > GROUPS; groups.erase(groups.begin()))
    for (const emulation::Copy& copy : groups.front()) emulation::land(copy);
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

inline const char* describe(int) { return emulation::failure; }

extern "C" void emulate(int late_copies, int last_warp_first) {
  emulation::settings = {bool(late_copies), bool(last_warp_first)};
  emulation::counts = {};
}

extern "C" void emulated(int64_t* counts) { memcpy(counts, &emulation::counts, 3 * 8); }
