#!/usr/bin/env python3
"""Time llama.cpp on one GGUF and print one line of JSON: prompt processing and generation, in tokens per second.

llama.cpp is the one that llama-cpp-python wraps, called through its C interface alone: no sampler, no tokenizer and no
Python between the tokens of a prompt. The measures are llama-bench's, and those of the other engines in this folder:

pp  one llama_decode of the whole prompt in an empty cache, with logits of its last token only;
tg  a row of single-token llama_decodes, each with logits, after --context tokens.

Each is the median of --repeat runs, after a prompt and one further token that are not counted.
"""

import argparse
import ctypes
import json
import os
import statistics
import time

import llama_cpp as llama

# The longest piece of a prompt that goes through the graph at once; llama.cpp's own default.
UBATCH = 512


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens in the timed prompt")
    parser.add_argument("--generate", type=int, default=64, help="tokens generated in a timed run")
    parser.add_argument("--context", type=int, default=0, help="tokens in the cache when generation starts")
    parser.add_argument("--repeat", type=int, default=5, help="counted runs of each measure")
    parser.add_argument("--gpu", action="store_true", help="all layers and flash attention on a GPU")
    return parser.parse_args()


class Peer:
    """A model, a context long enough for every run, and the batch that carries tokens into it."""

    def __init__(self, args):
        llama.llama_backend_init()
        model = llama.llama_model_default_params()
        model.n_gpu_layers = 999 if args.gpu else 0
        self.model = llama.llama_model_load_from_file(args.model.encode(), model)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {args.model}")
        params = llama.llama_context_default_params()
        params.n_ctx = max(args.prompt + 1, args.context + args.generate)
        params.n_batch = params.n_ubatch = UBATCH
        params.n_threads = params.n_threads_batch = args.threads
        if args.gpu:
            # ctypes would take any name and change nothing.
            assert "flash_attn_type" in {field[0] for field in params._fields_}
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.batch = llama.llama_batch_init(UBATCH, 0, 1)

    def restart(self):
        """Empties the KV cache."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def feed(self, position, count):
        """Decodes `count` tokens from `position` on; the ids are spread over the vocabulary, alike in every engine."""
        end = position + count
        while position < end:
            n = min(end - position, UBATCH)
            self.batch.n_tokens = n
            for i in range(n):
                self.batch.token[i] = (position + i) * 7919 % (self.vocab - 3) + 3
                self.batch.pos[i] = position + i
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = 0
                self.batch.logits[i] = position + i == end - 1
            status = llama.llama_decode(self.context, self.batch)
            if status != 0:
                raise SystemExit(f"llama_decode returned {status}")
            position += n
        llama.llama_synchronize(self.context)

    def likeliest(self):
        """The token with the greatest of the last logits: engines that do the same work mostly agree on it."""
        logits = llama.llama_get_logits_ith(self.context, -1)
        return max(range(self.vocab), key=lambda token: logits[token])


def tokens_per_second(peer, context, count, chunk, repeat):
    """The median speed of feeding `count` tokens, `chunk` at a time, after `context` untimed ones."""

    def run():
        peer.restart()
        peer.feed(0, context)
        start = time.perf_counter()
        for position in range(context, context + count, chunk):
            peer.feed(position, chunk)
        return count / (time.perf_counter() - start)

    return round(statistics.median(run() for _ in range(repeat)), 2)


def main():
    args = arguments()
    # The callback must outlive every call into llama.cpp, so it is kept in a name.
    silence = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silence, ctypes.c_void_p(0))
    peer = Peer(args)
    peer.feed(0, args.prompt)
    following = peer.likeliest()
    peer.feed(args.prompt, 1)
    result = {
        "engine": "llama.cpp",
        "model": os.path.basename(args.model),
        "threads": args.threads,
        "version": f"llama-cpp-python {llama.__version__}",
        "next": following,
        f"pp{args.prompt}": tokens_per_second(peer, 0, args.prompt, args.prompt, args.repeat),
        f"tg{args.generate}@{args.context}": tokens_per_second(peer, args.context, args.generate, 1, args.repeat),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
