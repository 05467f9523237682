#!/usr/bin/env python3
"""Random LoRA adapters of two checkpoints in ../tiny as PEFT saves them, and the logits of the models with them.

Each folder NAME is what PeftModel.save_pretrained writes (without its README) for the base of that name, and reference.safetensors,
computed in float32 (eager attention) from the base's bfloat16 weights and its reference's input_ids:

    input_ids  int64   [batch, 24]            the first of the base's
    logits     float32 [batch, 24, vocab]     of the model with the adapter, not merged

Usage: make.py      needs: torch, transformers, peft, safetensors. What lies here was made by peft 0.21.2, transformers 5.24.0, torch 2.15.0.
"""
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "llama3-gqa": LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    # Scaled by the root of the rank, with ranks and alphas of their own, and the head's.
    "llama31-rope": LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=4, use_rslora=True, target_modules=LINEARS + ["lm_head"],
        rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 3}, alpha_pattern={"k_proj": 12},
    ),
}


def make(seed, name, config):
    torch.manual_seed(seed)
    folder = HERE.parent / "tiny" / name
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model = get_peft_model(base, config).eval()
    ids = load_file(folder / "reference.safetensors")["input_ids"][:, :24].contiguous()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.normal_(0.0, 0.1)
        logits = model(ids).logits
    model.peft_config["default"].base_model_name_or_path = name
    model.save_pretrained(HERE / name, save_embedding_layers=False)
    (HERE / name / "README.md").unlink(missing_ok=True)
    save_file(dict(input_ids=ids, logits=logits), HERE / name / "reference.safetensors")


for seed, (name, config) in enumerate(CASES.items()):
    make(seed, name, config)
