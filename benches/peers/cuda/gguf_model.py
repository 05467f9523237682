"""A Llama's sizes and its 16- or 32-bit weights out of a GGUF, as torch tensors in Hugging Face's names and order.

GGUF keeps the two columns that RoPE turns together side by side, Hugging Face a half apart, so the rows of q and k are put
back in the order that transformers expects.
"""

import dataclasses

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclasses.dataclass
class Sizes:
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    theta: float


def sizes(reader, vocab):
    """The sizes that the metadata of an open file names."""

    def number(key):
        return reader.get_field(f"llama.{key}").contents()

    heads, hidden = number("attention.head_count"), number("embedding_length")
    return Sizes(
        layers=number("block_count"),
        hidden=hidden,
        ffn=number("feed_forward_length"),
        heads=heads,
        kv_heads=number("attention.head_count_kv"),
        head_dim=number("rope.dimension_count") or hidden // heads,
        vocab=vocab,
        eps=number("attention.layer_norm_rms_epsilon"),
        theta=number("rope.freq_base"),
    )


def name_of(name):
    """Hugging Face's name of a tensor."""
    part = name.removesuffix(".weight")
    if part in WHOLE:
        return WHOLE[part] + ".weight"
    _, layer, part = part.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def halves(rows, heads):
    """Rows of q or k from pairs side by side to pairs half a head apart: an array or a tensor `[heads * head_dim, in]`."""
    out, columns = rows.shape
    return rows.reshape(heads, out // heads // 2, 2, columns).swapaxes(1, 2).reshape(out, columns)


def load(path, torch, device):
    """(sizes, {name: bf16 tensor on the device}) of a file in BF16, F16 or F32."""
    import gguf

    reader = gguf.GGUFReader(path)
    weights = {}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
        kind = kinds.get(tensor.tensor_type.name)
        if kind is None:
            raise SystemExit(f"{tensor.name} is {tensor.tensor_type.name}: give a file in BF16, F16 or F32")
        # A copy: the map of the file is read-only, and torch wants memory of its own.
        data = torch.frombuffer(bytearray(tensor.data.tobytes()), dtype=kind)
        weights[name_of(tensor.name)] = data.reshape(shape).to(device, torch.bfloat16).squeeze(0)
    found = sizes(reader, weights["model.embed_tokens.weight"].shape[0])
    for name in weights:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = found.heads if "q_proj" in name else found.kv_heads
            weights[name] = halves(weights[name], heads).contiguous()
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    return found, weights
