#!/usr/bin/env python3
"""Hidden states and scores of labels, by Hugging Face transformers, of two of the checkpoints in ../tiny.

For each of them NAME.safetensors holds, computed in float32 (eager attention) from the checkpoint's bfloat16 weights and
its reference's input_ids:

    states      float32 [batch, time, hidden]   LlamaModel(input_ids).last_hidden_state, or MistralModel's
    mean        float32 [batch, hidden]         their mean over time
    normalised  float32 [batch, hidden]         the last one, through torch.nn.functional.normalize
    score       float32 [labels, hidden]        random: the score.weight of a classifier on these states
    scores      float32 [batch, labels]         LlamaForSequenceClassification(input_ids).logits, or Mistral's, with it

Usage: make.py      needs: torch, transformers, safetensors. What lies here was made by transformers 5.24.0, torch 2.15.0.
"""
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

HERE = Path(__file__).parent
LABELS = 3
FLOAT = dict(dtype=torch.float32, attn_implementation="eager")


def make(name, seed):
    torch.manual_seed(seed)
    folder = HERE.parent / "tiny" / name
    ids = load_file(folder / "reference.safetensors")["input_ids"]
    model = AutoModel.from_pretrained(folder, **FLOAT).eval()
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS, pad_token_id=0, **FLOAT)
    with torch.no_grad():
        classifier.eval().score.weight.normal_(0.0, 0.5)
        states = model(ids).last_hidden_state
        save_file(dict(
            states=states,
            mean=states.mean(1).contiguous(),
            normalised=torch.nn.functional.normalize(states[:, -1]).contiguous(),
            score=classifier.score.weight.clone(),
            scores=torch.cat([classifier(row[None]).logits for row in ids]),
        ), HERE / f"{name}.safetensors")


for seed, name in enumerate(["llama3-gqa", "mistral-window"]):
    make(name, seed)
