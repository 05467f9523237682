"""Llama in a page of torch, in the manner of gpt-fast: buffers that stay where they are, so that a step can be compiled and
recorded as a CUDA graph. Weights and cache are buffers of a module, for torch.compile copies any other tensor that a
recorded graph reads.
"""

import torch
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu


class Layer(torch.nn.Module):
    """One layer; matrices with equal inputs are one."""

    def __init__(self, sizes, weights, prefix, length):
        super().__init__()
        w = lambda name: weights[f"{prefix}{name}.weight"]
        self.sizes = sizes
        self.register_buffer("attn_norm", w("input_layernorm"))
        self.register_buffer("ffn_norm", w("post_attention_layernorm"))
        self.register_buffer("qkv", torch.cat([w(f"self_attn.{part}_proj") for part in "qkv"]))
        self.register_buffer("o", w("self_attn.o_proj"))
        self.register_buffer("gate_up", torch.cat([w("mlp.gate_proj"), w("mlp.up_proj")]))
        self.register_buffer("down", w("mlp.down_proj"))
        cache = torch.zeros(1, sizes.kv_heads, length, sizes.head_dim, dtype=torch.bfloat16, device="cuda")
        self.register_buffer("keys", cache)
        self.register_buffer("values", cache.clone())

    def forward(self, x, turns, mask, positions):
        x = x + linear(self.attention(rms_norm(x, x.shape[-1:], self.attn_norm, self.sizes.eps), turns, mask, positions), self.o)
        gate, up = linear(rms_norm(x, x.shape[-1:], self.ffn_norm, self.sizes.eps), self.gate_up).chunk(2, -1)
        return x + linear(silu(gate) * up, self.down)

    def attention(self, x, turns, mask, positions):
        s = self.sizes
        kv = s.kv_heads * s.head_dim
        parts = linear(x, self.qkv).split([s.heads * s.head_dim, kv, kv], -1)
        q, k, v = (part.view(1, x.shape[1], -1, s.head_dim).transpose(1, 2) for part in parts)
        self.keys.index_copy_(2, positions, turn(k, turns))
        self.values.index_copy_(2, positions, v)
        out = scaled_dot_product_attention(turn(q, turns), self.keys, self.values, attn_mask=mask, enable_gqa=True)
        return out.transpose(1, 2).reshape(1, x.shape[1], -1)


def turn(x, turns):
    """RoPE of pairs half a head apart."""
    (cos, sin), (low, high) = turns, x.chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


class StaticLlama(torch.nn.Module):
    """A model whose cache holds `length` positions."""

    def __init__(self, sizes, weights, length):
        super().__init__()
        self.eps = sizes.eps
        self.layers = torch.nn.ModuleList(
            Layer(sizes, weights, f"model.layers.{layer}.", length) for layer in range(sizes.layers)
        )
        self.register_buffer("embed", weights["model.embed_tokens.weight"])
        self.register_buffer("norm", weights["model.norm.weight"])
        self.register_buffer("head", weights["lm_head.weight"])
        powers = torch.arange(0, sizes.head_dim, 2, device="cuda") / sizes.head_dim
        self.register_buffer("slots", torch.arange(length, device="cuda"))
        angles = torch.outer(self.slots.float(), sizes.theta**-powers)
        self.register_buffer("cos", angles.cos().bfloat16())
        self.register_buffer("sin", angles.sin().bfloat16())

    def forward(self, tokens, positions):
        """The likeliest token after the last of `tokens`."""
        x = embedding(tokens, self.embed)
        turns = self.cos[positions], self.sin[positions]
        mask = self.slots[None, None, None, :] <= positions[None, None, :, None]
        for layer in self.layers:
            x = layer(x, turns, mask, positions)
        last = rms_norm(x[:, -1:], x.shape[-1:], self.norm, self.eps)
        return linear(last, self.head)[:, -1].argmax(-1)
