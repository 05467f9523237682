#!/usr/bin/env python3
"""Logits of a Ministral 3, whose attention has a temperature, by Hugging Face transformers, at positions where that is not 1.

Its weights are those of ../tiny/rope-yarn, its config.json is the one beside this file. reference.safetensors holds, computed in
float32 (eager attention) from the bfloat16 weights and the input_ids of ../tiny/rope-yarn/reference.safetensors:

    input_ids  int64   [batch, time]
    logits     float32 [batch, time, vocab]   Ministral3ForCausalLM(input_ids).logits
    greedy     int64   [batch, time + 32]     input_ids followed by 32 greedily decoded tokens

Usage: make.py      needs: torch, transformers, safetensors. What lies here was made by transformers 5.24.0, torch 2.15.0.
"""
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Ministral3Config, Ministral3ForCausalLM

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "tiny" / "rope-yarn"
NEW = 32

config = Ministral3Config.from_json_file(HERE / "config.json")
config._attn_implementation = "eager"
model = Ministral3ForCausalLM(config).float().eval()
weights = {name: tensor.float() for name, tensor in load_file(WEIGHTS / "model.safetensors").items()}
print(model.load_state_dict(weights))
ids = load_file(WEIGHTS / "reference.safetensors")["input_ids"]
with torch.no_grad():
    logits, row = model(ids).logits, ids
    for _ in range(NEW):             # no cache: every step recomputes the whole sequence
        row = torch.cat([row, model(row, use_cache=False).logits[:, -1:].argmax(-1)], 1)
save_file(dict(input_ids=ids, logits=logits.contiguous(), greedy=row.contiguous()), HERE / "reference.safetensors")
