// An adapter on the device, and what the host passes to adapt.cu. src/adapter.rs lays it out, src/params.rs has the same
// structs; a header by itself, because no other kernel knows of adapters.
#pragma once
#include "common.cuh"

// What an adapter adds to some of a weight's rows.
struct AdapterPart {
    const float* b;  // [ranks, rows]: transposed, so that neighbouring outputs lie side by side
    u32 first, rows; // of the weight
    u32 ranks, low;  // and where they begin among the ranks of all parts
};

// What an adapter adds to one weight. Its parts follow.
struct AdapterHead {
    const float* a; // [ranks, inputs], part below part
    u32 ranks, count;
    AdapterPart parts[1];
};

// Consecutive rows of one adapter: one, or up to eight where tiles are wide.
struct AdapterTile {
    u32 adapter; // its number; NO_ADAPTER: nothing to do
    u32 first, rows;
};

enum AdapterSizes : u32 {
    ADAPTERS = 16, // that a launch knows
    NO_ADAPTER = 0xffffffffu,
};

// out[t] += b (a x[t]) for the rows t of the tiles whose adapters are among these.
struct Adapt {
    void* out;                             // bf16 or f32 [rows, outputs], by kernel
    const void* x;                         // bf16 or f32 [rows, inputs], by kernel
    float* low;                            // [rows, room]: a x, on the way
    const AdapterTile* tiles;
    const AdapterHead* adapters[ADAPTERS]; // null where one adds nothing here
    u32 first;                             // number of adapters[0]
    u32 outputs, inputs, room;
};
