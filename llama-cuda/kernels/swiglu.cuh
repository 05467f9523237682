// silu(gate) * up, in two precisions. Kernels that gate on the way keep to `gate_bf16`, so that bits agree.
#pragma once
#include "four.cuh"
#include "params.cuh"

// For bf16: 2^x and the quotient are the device's approximations, a few f32 ulps each.
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + exp2f(x * -1.44269504f)); }

__device__ __forceinline__ float gate_bf16(float gate, float up) { return silu(gate) * up; }

// e^x for x <= 0 to about one ulp: x = n ln 2 + r, a polynomial for e^r (Taylor's terms to r^7, |r| <= 0.35, leave 2^-28),
// and 2^n in two factors, since n may be below the exponents of f32.
__device__ __forceinline__ float exp_of_negative(float x) {
    x = fmaxf(x, -104.0f); // e^-104 rounds to zero
    const float n = rintf(x * 1.44269504f);
    const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x)); // ln 2 in two parts
    float p = 1.98412698e-4f;
    p = fmaf(p, r, 1.38888889e-3f);
    p = fmaf(p, r, 8.33333333e-3f);
    p = fmaf(p, r, 4.16666667e-2f);
    p = fmaf(p, r, 1.66666667e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    const int whole = (int)n, half = whole / 2;
    return p * __int_as_float((half + 127) << 23) * __int_as_float((whole - half + 127) << 23);
}

// x / (1 + e^-x), written with e^-|x| so that nothing overflows and the tail keeps its digits.
__device__ __forceinline__ float gate_f32(float gate, float up) {
    const float e = exp_of_negative(-fabsf(gate));
    return gate * (gate < 0.0f ? e : 1.0f) / (1.0f + e) * up;
}

__device__ __forceinline__ float gated(float gate, float up, const bf16*) { return gate_bf16(gate, up); }
__device__ __forceinline__ float gated(float gate, float up, const float*) { return gate_f32(gate, up); }

template <typename T>
__device__ __forceinline__ float4 gated_four(float4 gate, float4 up, const T* kind) {
    return make_float4(gated(gate.x, up.x, kind), gated(gate.y, up.y, kind), gated(gate.z, up.z, kind),
                       gated(gate.w, up.w, kind));
}
