/*
 The device instructions the kernels are made of, for an sm_80 or newer GPU.

 Nothing here decides anything: a function is an instruction with a name, or a call of CUDA's
 runtime. It is the only header that emulate.h replaces, so keep it small: what stands here no CPU
 test can see.

 PTX ISA: "Warp Level Matrix Instructions" (mma.m16n8k16, ldmatrix), "Data Movement" (cp.async).
*/
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#define DEVICE __device__ __forceinline__

// The 16 x 16 left operand of a product, spread over a warp: lane 4g + t holds, two to a word,
// rows g and g + 8 at columns 2t, 2t + 1 (words 0 and 1) and 2t + 8, 2t + 9 (words 2 and 3).
struct Fragment {
  uint32_t word[4];
};

// threadIdx.x, read anew at each call: nvcc would else keep what is made of it in registers.
DEVICE int thread_anew() {
  int x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}

DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copy BYTES (4 or 16) from global to shared memory without waiting; zeros where !inside.
template <int BYTES>
DEVICE void copy_async(void* to, const void* from, bool inside) {
  int size = inside ? BYTES : 0;
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(size)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(size)
                 : "memory");
}

// Wait until all copies of this thread have landed.
DEVICE void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Load four 8 x 8 matrices from shared memory; lane i names row i % 8 of matrix i / 8.
DEVICE Fragment load_matrices(const void* row) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.word[0]), "=r"(f.word[1]), "=r"(f.word[2]), "=r"(f.word[3])
               : "r"(shared_address(row))
               : "memory");
  return f;
}

DEVICE Fragment load_matrices_transposed(const void* row) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.word[0]), "=r"(f.word[1]), "=r"(f.word[2]), "=r"(f.word[3])
               : "r"(shared_address(row))
               : "memory");
  return f;
}

DEVICE float lane_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

DEVICE bool any_lane(bool x) { return __any_sync(0xffffffffu, x); }

DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Add to two floats in memory, at a multiple of 8 bytes, which others may add to as well.
DEVICE void add_pair(float* to, float x, float y) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(x), "f"(y) : "memory");
#else
  atomicAdd(to, x);
  atomicAdd(to + 1, y);
#endif
}

// c += a b: (16 x 16) by (16 x 8) in fp32. Lane 4g + t holds of c rows g and g + 8 at columns
// 2t, 2t + 1, and of b rows 2t, 2t + 1 (b0) and 2t + 8, 2t + 9 (b1) at column g.
#define MMA(TYPE)                                                                             \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                         \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                               \
               : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1))

struct Bf16 {
  DEVICE static void mma(float (&c)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
    MMA("bf16");
  }
  DEVICE static uint32_t pack(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
  }
  DEVICE static float2 unpack(uint32_t word) {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  }
};

struct Fp16 {
  DEVICE static void mma(float (&c)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
    MMA("f16");
  }
  DEVICE static uint32_t pack(float low, float high) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
  }
  DEVICE static float2 unpack(uint32_t word) {
    float2 pair;
    asm("{ .reg .f16 low, high; mov.b32 {low, high}, %2;"
        " cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(pair.x), "=f"(pair.y)
        : "r"(word));
    return pair;
  }
};

// Run `kernel` on grid blocks with this much shared memory; returns CUDA's error code.
// Above 48 KB the amount must be asked for, on each device: asking again costs nothing.
template <class... Arguments>
int launch(void (*kernel)(Arguments...), dim3 grid, int threads, int shared_bytes, void* stream,
           Arguments... arguments) {
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) {
    cudaGetLastError();  // forgets it, or it would be said of a later launch
    return error;
  }
  kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

// Bytes a block of the current device can have.
inline int most_shared_memory() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes;
}

inline const char* describe(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
