#!/usr/bin/env python3
"""Time a torch Llama on one GGUF in 16 bits and print one line of JSON: prompt and generation, in tokens per second.

--kind transformers   LlamaForCausalLM with its static cache, eager, sdpa attention: what most people run
--kind static         a decode loop of our own: fixed buffers, every step one compiled graph (torch.compile with
                      mode="reduce-overhead", which records CUDA graphs), in the manner of gpt-fast

The measures are those of the other engines in this folder: `pp` is one forward of the prompt in an empty cache with logits of
its last token, `tg` a row of single-token steps with the likeliest token picked on the device. Tokens are the same ids
everywhere. Each is the median of --repeat runs after warm ones; compiling is not counted.
"""

import argparse
import json
import os
import statistics
import time

import gguf_model


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["transformers", "static"], required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, help="not used; every engine is given it")
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--context", type=int, default=0, help="tokens in the cache when generation starts")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured; needs no package")
    return parser.parse_args()


def ids(position, count, vocab):
    """The tokens at some positions, alike in every engine."""
    return [(position + i) * 7919 % (vocab - 3) + 3 for i in range(count)]


class Transformers:
    """transformers' own model and static cache."""

    def __init__(self, torch, sizes, weights, length):
        from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

        config = LlamaConfig(
            hidden_size=sizes.hidden,
            intermediate_size=sizes.ffn,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            vocab_size=sizes.vocab,
            rms_norm_eps=sizes.eps,
            rope_theta=sizes.theta,
            max_position_embeddings=length,
        )
        with torch.device("meta"):
            self.model = LlamaForCausalLM(config).to(torch.bfloat16)
        missing = self.model.load_state_dict(weights, strict=False, assign=True)
        if missing.missing_keys or missing.unexpected_keys:
            raise SystemExit(f"weights do not fit: {missing}")
        # What is computed and not loaded (the frequencies of RoPE) was made on no device.
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(config=config).to("cuda")
        self.model.eval()
        self.torch, self.cache = torch, StaticCache(config=config, max_cache_len=length)

    def restart(self):
        self.cache.reset()

    def feed(self, tokens, position):
        positions = self.torch.arange(position, position + tokens.shape[1], device="cuda")
        out = self.model(tokens, past_key_values=self.cache, cache_position=positions, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1)


class Static:
    """A loop of our own over a compiled step."""

    def __init__(self, torch, sizes, weights, length):
        from static_llama import StaticLlama

        self.torch, model = torch, StaticLlama(sizes, weights, length)
        self.decode = torch.compile(model, mode="reduce-overhead", fullgraph=True)
        self.prompt = torch.compile(model, dynamic=False)

    def restart(self):
        """Positions that were written before are masked or written again."""

    def feed(self, tokens, position):
        positions = self.torch.arange(position, position + tokens.shape[1], device="cuda")
        run = self.decode if tokens.shape[1] == 1 else self.prompt
        # What a graph returns is written again by the next.
        return run(tokens, positions).clone()


def tokens_per_second(torch, peer, vocab, context, count, chunk, repeat):
    """The median speed of feeding `count` tokens, `chunk` at a time, after `context` untimed ones."""

    def batch(position, n):
        return torch.tensor([ids(position, n, vocab)], device="cuda")

    pieces = [(batch(p, chunk), p) for p in range(context, context + count, chunk)]

    def run():
        peer.restart()
        if context:
            peer.feed(batch(0, context), 0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for tokens, position in pieces:
            following = peer.feed(tokens, position)
        int(following)
        return count / (time.perf_counter() - start), int(following)

    # The first compile, the second record.
    for _ in range(3):
        _, following = run()
    return round(statistics.median(run()[0] for _ in range(repeat)), 2), following


def main():
    args = arguments()
    if args.dry_run:
        measures = [f"pp{args.prompt}", f"tg{args.generate}@{args.context}"]
        print(json.dumps({"engine": args.kind, "model": args.model, "would": measures}))
        return
    import torch

    torch.set_grad_enabled(False)
    sizes, weights = gguf_model.load(args.model, torch, "cuda")
    length = max(args.prompt, args.context + args.generate) + 1
    peer = {"transformers": Transformers, "static": Static}[args.kind](torch, sizes, weights, length)
    prompt, following = tokens_per_second(torch, peer, sizes.vocab, 0, args.prompt, args.prompt, args.repeat)
    generate, _ = tokens_per_second(torch, peer, sizes.vocab, args.context, args.generate, 1, args.repeat)
    result = {"engine": args.kind, "model": os.path.basename(args.model), "version": f"torch {torch.__version__}"}
    result |= {"next": following, f"pp{args.prompt}": prompt, f"tg{args.generate}@{args.context}": generate}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
