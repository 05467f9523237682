#!/usr/bin/env python3
"""Widen SmolLM2-135M to sizes that every format divides: smollm2_wide.py SmolLM2-135M-Instruct.Q4_1.gguf WIDE.F32.gguf

K-quants come in blocks of 256 weights, and SmolLM2's rows are 576 wide: quantisers leave such tensors to other formats,
so that a comparison of K-quants on it would compare something else. Zeros change no sum, so the model is written again
with a hidden width of 768 and 12 heads on 4 KV heads, every new row and column zero. What is not a sum is the mean under
the norms' root: over 768 columns it is 3/4 of what it was, so eps becomes 3/4 eps and the gains sqrt(3/4) gains. The
tokens' probabilities are those of the original, up to f32 rounding. Weights are decoded to F32.
"""

import sys

import gguf
import numpy as np

OLD, NEW = 576, 768
HEAD = 64


def widen(name, tensor):
    """A tensor in its new shape. Rows are outputs; norms have one dimension."""
    kind = name.split(".")[-2]
    if kind.endswith("norm"):
        return np.pad(tensor * np.float32((OLD / NEW) ** 0.5), (0, NEW - OLD))
    if kind in ("attn_k", "attn_v"):
        return np.pad(tensor, ((0, HEAD), (0, NEW - OLD)))
    if kind in ("attn_q", "attn_output"):
        return np.pad(tensor, ((0, NEW - OLD), (0, NEW - OLD)))
    if kind == "ffn_down":
        return np.pad(tensor, ((0, NEW - OLD), (0, 0)))
    assert kind in ("token_embd", "ffn_gate", "ffn_up"), name
    return np.pad(tensor, ((0, 0), (0, NEW - OLD)))


def metadata(reader, writer):
    """Copies the header; what the shapes decide is changed."""
    changed = {
        "llama.embedding_length": NEW,
        "llama.attention.head_count": NEW // HEAD,
        "llama.attention.head_count_kv": NEW // HEAD // 3,
        "llama.attention.layer_norm_rms_epsilon": 1e-5 * OLD / NEW,
        "general.file_type": int(gguf.LlamaFileType.ALL_F32),
    }
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, changed.get(key, field.contents()), field.types[0], inner)


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    reader = gguf.GGUFReader(sys.argv[1])
    writer = gguf.GGUFWriter(sys.argv[2], "llama")
    metadata(reader, writer)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, np.ascontiguousarray(widen(tensor.name, values), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
