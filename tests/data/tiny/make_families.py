#!/usr/bin/env python3
"""Small checkpoints of random weights of the families beside Llama and Mistral, and what Hugging Face transformers makes of them.

    qwen2      Qwen2: biases of queries, keys and values
    qwen3      Qwen3: heads of queries and keys are normed; heads wider than hidden / heads, tied
    smollm3    SmolLM3: every fourth layer does not turn
    phi3       Phi-3: queries, keys and values in one matrix, gate and up in another; three quarters of a head turn, by LongRoPE
    granite    Granite 3: multipliers of the embedding, of what layers add, of attention, of logits
    seed_oss   Seed-OSS: biases of queries, keys and values alone; heads wider than hidden / heads

Each is a folder here: config.json, model.safetensors (bfloat16), and reference.safetensors, computed in float32 (eager attention)
from exactly those weights:

    input_ids  int64   [batch, time]          ids at positions 0..time
    logits     float32 [batch, time, vocab]   ForCausalLM(input_ids).logits
    greedy     int64   [batch, time + 32]     input_ids and 32 greedily decoded tokens
    short      float32 [batch, SHORT, vocab]  phi3 alone: logits of the first ids by themselves, which LongRoPE's short divisors turn

Usage: make_families.py [NAME ...]      needs: torch, transformers, safetensors. What lies here was made by transformers 5.24.0, torch 2.7.1.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (GraniteConfig, GraniteForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM, SeedOssConfig, SeedOssForCausalLM, SmolLM3Config,
                          SmolLM3ForCausalLM)

HERE = Path(__file__).parent
BATCH, TIME, NEW, SHORT = 2, 80, 32, 48
SIZES = dict(vocab_size=384, hidden_size=64, intermediate_size=112, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2,
             pad_token_id=0, attn_implementation="eager")


def rope(theta):
    return dict(rope_parameters=dict(rope_type="default", rope_theta=theta))


FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, dict(tie_word_embeddings=False, **rope(1e6))),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, dict(tie_word_embeddings=True, head_dim=32, **rope(1e6))),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM, dict(tie_word_embeddings=True, **rope(5e6))),
    "phi3": (Phi3Config, Phi3ForCausalLM, dict(
        tie_word_embeddings=False, original_max_position_embeddings=SHORT, rope_parameters=dict(
            rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.75, original_max_position_embeddings=SHORT,
            short_factor=[1.0, 1.0, 1.1, 1.25, 1.5, 1.75], long_factor=[1.0, 1.5, 2.5, 4.0, 6.5, 10.5]))),
    "granite": (GraniteConfig, GraniteForCausalLM, dict(
        tie_word_embeddings=True, embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.0625,
        logits_scaling=3.0, **rope(1e4))),
    "seed_oss": (SeedOssConfig, SeedOssForCausalLM, dict(
        tie_word_embeddings=False, head_dim=24, attention_bias=True, attention_out_bias=False, **rope(1e7))),
}


def spread(name, value):
    """Large enough that attention is far from even and logits differ."""
    if value.dim() > 1:
        value.normal_(0.0, 1.6 / value.shape[-1] ** 0.5)
    elif name.endswith("bias"):
        value.normal_(0.0, 0.3)
    else:
        value.uniform_(0.6, 1.4)


def spell_as_published(path):
    """As transformers 4 spelled it, and as the published Qwen2 and Qwen2.5 are."""
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    del config["layer_types"]
    path.write_text(json.dumps(config | dict(sliding_window=512, transformers_version="4.43.1"), indent=2) + "\n")


def leave_out(path, key):
    """As transformers 4 did with what was every configuration's default."""
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config, indent=2) + "\n")


def make(seed, name, config, model, sizes):
    torch.manual_seed(seed)
    random = model(config(**SIZES, **sizes))
    with torch.no_grad():
        for key, value in random.named_parameters():
            spread(key, value)
    folder = HERE / name
    random.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    # Read again: a cast would have rounded the rotary frequencies, too.
    model = model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, SIZES["vocab_size"], (BATCH, TIME))
    with torch.no_grad():
        logits, row = model(ids).logits, ids
        for _ in range(NEW):         # no cache: every step recomputes the whole sequence
            row = torch.cat([row, model(row, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    if name == "qwen2":
        spell_as_published(folder / "config.json")
    if name == "smollm3":
        leave_out(folder / "config.json", "tie_word_embeddings")
    tensors = dict(input_ids=ids, logits=logits.contiguous(), greedy=row.contiguous())
    if name == "phi3":
        with torch.no_grad():
            tensors["short"] = model(ids[:, :SHORT]).logits.contiguous()
    save_file(tensors, folder / "reference.safetensors")
    print(name, "logits from", logits.min().item(), "to", logits.max().item())


for seed, (name, (config, model, sizes)) in enumerate(FAMILIES.items()):
    if not sys.argv[1:] or name in sys.argv[1:]:
        make(seed, name, config, model, sizes)
