// What the host passes: one struct a family of kernels, by value in a launch, by address in the persistent kernel's list.
// src/params.rs has the same fields in the same order. Pointers come first, then 32-bit words, so there is no padding but
// at the end, which is spelled out.
#pragma once
#include "common.cuh"

// Where a linear's input comes from.
enum Source : u32 {
    SOURCE_BF16 = 0,   // bf16 [columns, inputs]
    SOURCE_NORM = 1,   // f32 residual [columns, inputs], normed by gain and eps on the way
    SOURCE_SWIGLU = 2, // bf16 [columns, 2 inputs], gate then up
    SOURCE_F32 = 3,    // f32 [columns, inputs]: the kernels of the precise numerics only
};

// What becomes of a linear's output.
enum Sink : u32 {
    SINK_BF16 = 0, // written as bf16
    SINK_F32 = 1,  // written as f32
    SINK_ADD = 2,  // added to the f32 that is there: the residual
};

// out[c][r] = weights[r] . x[c] + bias[r] for one segment of a fused weight.
struct Linear {
    const u8* weights;  // tiles of the segment's format
    const void* input;  // see Source
    const u32* gather;  // [columns]: column c reads row gather[c] of the input; null: row c
    const float* gain;  // [inputs], for SOURCE_NORM
    const float* bias;  // [rows] or null
    void* out;          // [columns, stride], at the segment's first row
    u32 rows, inputs, columns;
    u32 stride;         // elements from a column of out to the next: the rows of the whole weight
    u32 source, sink;   // Source, Sink
    float eps;          // for SOURCE_NORM
    u32 unused;
};

// out[t] = table[tokens[t]]
struct Embed {
    const u8* table;   // tiles
    const u32* tokens; // [count]
    float* out;        // the f32 residual, [count, hidden]
    u32 hidden, count;
};

// Whole rows of a checkpoint's blocks to tiles.
struct Repack {
    const u8* raw; // [rows, row_bytes]
    u8* tiles;     // at the tile of the first row, which is a multiple of 16 of the weight's rows
    u32 rows, inputs;
    u32 row_bytes;
    u32 unused;
};

// out[r] = norm(residual[r]) * gain, after residual[r] += x[r] where x is not null.
struct Norm {
    void* out;         // bf16 or f32 [rows, features], by kernel
    float* residual;   // [rows, features]
    const void* x;     // the type of out, or null
    const float* gain; // [features]
    u32 rows, features;
    float eps;
    u32 unused;
};

// cos and sin of every token's position times every frequency.
struct Angles {
    float2* angles;        // [tokens, half]
    const u32* positions;  // [tokens]
    const float* inv_freq; // [half]
    u32 tokens, half;      // half = rope_dim / 2
    float scale;           // multiplies both
    u32 unused;
};

// How heads lie in a row of qkv, and where keys and values are kept.
struct Heads {
    u32 heads, kv_heads, head_dim, padded; // padded: head_dim of the cache, 64, 128 or 256
    u32 half, interleaved;                 // rope_dim / 2; pairs (2i, 2i+1), else (i, i + half)
};

// Turns q and k in place and stores k and v.
struct Rope {
    void* qkv;            // [tokens, (heads + 2 kv_heads) head_dim]
    void* k;              // this layer's cache: [blocks][kv_heads][16][padded]
    void* v;
    const float2* angles; // [tokens, half]
    const u32* slots;     // [tokens]
    Heads shape;
    u32 tokens;
    u32 factors;          // words from slots to what q is multiplied by, float [tokens]; 0: by 1
};

// out[r] = silu(gate) * up of row r.
struct SwiGlu {
    void* out;           // bf16 or f32 [rows, ffn], by kernel
    const void* gate_up; // the type of out, [rows, 2 ffn]: gate then up
    u32 rows, ffn;
};

// acc += x
struct Add {
    float* acc;    // [count]
    const void* x; // bf16 or f32 [count], by kernel
    u32 count, unused;
};

// out = x in another type.
struct Convert {
    void* out;     // [count]
    const void* x; // [count]
    u32 count, unused;
};

// out[i] = x[index[i]]
struct TakeRows {
    void* out;        // bf16 or f32 [rows, features], by kernel
    const void* x;    // the type of out, [.., features]
    const u32* index; // [rows]
    u32 rows, features;
};

// Blocks of one layer's cache, copied within it.
struct CopyBlocks {
    u8* k;
    u8* v;
    const u32* pairs; // [count][2]: from, to
    u32 count, bytes; // bytes of one block of k, a multiple of 16
};

// A tile of prefill: rows of one sequence, a row being a query token and a head of the kv head's group, token by token.
struct RowTile {
    u32 sequence, first; // NO_SEQUENCE: nothing to do
};

// Attention of every row of a batch over its sequence's cache.
struct Attention {
    void* out;              // [tokens, heads head_dim]
    const void* qkv;        // as in Rope; turned already, except for decode, which turns q and k itself
    void* k;                // this layer's cache, as in Rope
    void* v;
    const float2* angles;   // [tokens, half], decode
    const u32* positions;   // [tokens]
    const u32* slots;       // [tokens], decode
    const u32* sequence_of; // [tokens], decode and f32
    const u32* q_indptr;    // [sequences + 1], prefill
    const u32* kv_indptr;   // [sequences + 1], in blocks
    const u32* block_ids;
    const RowTile* tiles;   // prefill
    float* partials;        // decode: [units][heads][padded]; see attention_decode.cu for all three
    float2* stats;          // decode: [units][heads] of (maximum, sum)
    u32* arrivals;          // decode: [tokens][kv_heads][tiles of heads], zero
    Heads shape;
    float scale;            // log2(e) times the scale of scores
    u32 window;             // a query sees this many positions, its own included; 0: all
    u32 run;                // decode: units a block takes
    u32 factors;            // decode: as in Rope
};

// How one token is picked: a row of logits, Sampling, History and position of llama-core, by the same names.
struct Draw {
    u32 row;                                           // of the logits
    float temperature;
    u32 top_k;                                         // 0: all
    float top_p, min_p;
    float repetition, presence, frequency;             // the penalties
    u32 history, generated, history_end;               // in Sample.tokens: the window, and where in it the prompt ends
    u32 bias, bias_end;                                // in Sample.biases, ascending by token
    u32 seed_low, seed_high, position_low, position_high;
    u32 unused[3];
};

// Added to one token's logit.
struct Bias {
    u32 token;
    float value;
};

// What became of a draw.
struct Pick {
    u32 kind;  // 0: picked; 1: a logit is not finite; 2: nothing is allowed
    u32 token; // picked, or the first whose logit is not finite
    u32 bits;  // that logit's
    u32 unused;
};

enum SampleSizes : u32 {
    SAMPLE_CHUNK = 2048, // tokens that a block looks at
    SAMPLE_LIST = 2048,  // candidates near a cut that have room on a list
    SAMPLE_BINS = 256,
};

// A draw under way: zeros before its first step. What blocks add to is zero again after each launch.
struct DrawState {
    u64 best, bad;         // greatest key; complement of the first token that is not finite and its bits
    u64 floors[2];         // keys below are cut, by top-k and by top-p
    u64 need;              // what is needed of the cut's bin
    u64 bins[SAMPLE_BINS]; // how much of the measure falls where
    u64 list[SAMPLE_LIST]; // keys in the cut's bin, in any order
    u32 arrived, listed;   // blocks; keys
    u32 bin;               // where the cut falls
    u32 live;              // whether there is something to draw
    float greatest;        // logit
    u32 unused;
};

// Picks a token for each of `draws`.
struct Sample {
    float* logits;       // [rows, vocab], adjusted in place
    const Draw* draws;   // [count]
    const u32* tokens;   // the windows of all histories
    const Bias* biases;  // of all draws
    DrawState* states;   // [count]
    u64* sums;           // [count, ceil(vocab / SAMPLE_CHUNK)], scratch
    Pick* picks;         // [count]
    u32 vocab, count;
    u32 by_weight;       // sample_bin, sample_gather: the cut of top-p, else that of top-k
    u32 unused;
};
