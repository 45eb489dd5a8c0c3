/*
 A GPU's threads on a CPU: fibers that a scheduler resumes one at a time; emulate.h builds on it.

 A fiber has a stack of its own (ucontext starts it, longjmp switches to it) and gives way where
 a thread of the GPU would wait: for its block at a barrier, or for the 32 lanes of its warp in
 one of the warp's instructions. The last lane to come does the work for all.
*/
#pragma once
#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks
#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define threadIdx (emulation::running->index)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 blockIdx, gridDim;

namespace emulation {

constexpr size_t STACK = 1 << 16;  // bytes of a fiber; ours
constexpr int FAILED = -1;

// How a test wants copies to land, and warps to be ordered.
struct Settings {
  bool late_copies = false, last_warp_first = false;
} settings;

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
  std::vector<Copy> copies;  // under way
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
    fibers[i].copies.clear();
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

}  // namespace emulation
