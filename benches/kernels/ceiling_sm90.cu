// The ceiling of Hopper's matrix unit: wgmma m64n256k16 in bf16, both operands in shared memory, nothing else in the loop.
//
// thread  128 sums of its warpgroup's 64 x 256
// warp    a quarter of a warpgroup, which multiplies as one
// block   two warpgroups, so that one multiplies while the other waits for its group
// grid    a block a multiprocessor
// bytes   none but the operands, 10 KB of ones in shared memory, whatever layout the descriptors say
// floor   none: this is the ceiling. Order: exact in any, sums of ones.
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 PRODUCTS = 8; // of one group

#define SUMS \
    "{" \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127" \
    "}"
#define FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SIXTEEN(i) FOUR(i), FOUR(i + 4), FOUR(i + 8), FOUR(i + 12)
#define ALL SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48), SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
#define PRODUCT "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " SUMS ", %128, %129, 1, 1, 1, 0, 0;\n"

__device__ __forceinline__ void group(float (&d)[128], u64 a, u64 b) {
    asm volatile("wgmma.fence.sync.aligned;\n" PRODUCT PRODUCT PRODUCT PRODUCT PRODUCT PRODUCT PRODUCT PRODUCT
                 "wgmma.commit_group.sync.aligned;\n"
                 "wgmma.wait_group.sync.aligned 0;\n"
                 : ALL
                 : "l"(a), "l"(b)
                 : "memory");
}

// Matrices of 8 x 16 bytes one after the other: 128 bytes to the next along k, 256 along the rows.
__device__ __forceinline__ u64 descriptor(const void* shared) {
    const u64 at = (u64)__cvta_generic_to_shared(shared) >> 4;
    return at | (u64)(128 >> 4) << 16 | (u64)(256 >> 4) << 32;
}

extern "C" __global__ void __launch_bounds__(256, 1) wgmma_ceiling(float* out, u32 ones, u32 rounds) {
    __shared__ __align__(128) u32 a[64 * 16 / 2], b[256 * 16 / 2];
    for (u32 i = threadIdx.x; i < 64 * 16 / 2; i += blockDim.x) a[i] = ones;
    for (u32 i = threadIdx.x; i < 256 * 16 / 2; i += blockDim.x) b[i] = ones;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    float d[128] = {};
    for (u32 done = 0; done < rounds; done += PRODUCTS) group(d, descriptor(a), descriptor(b));
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 128; i++) sum += d[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
