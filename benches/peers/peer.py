"""What the engines behind llama.cpp's C interface share: the flags, the tokens, the two measures, and the line of JSON.

llama.cpp and its fork ik_llama.cpp are called through that interface alone: no sampler, no tokenizer and no Python between
the tokens of a prompt. A script here makes an `Engine` of its library and hands it to `main`. Each process either times,

pp  one llama_decode of the whole prompt in an empty cache, with logits of its last token only;
tg  a row of llama_decodes of one token for each of --sequences, each with logits, after --context tokens;

the measures of llama-bench, each the median of --repeat runs after a prompt and one further token that are not counted; or,
with --ids and --logits, writes the logits of every position of a text, for `accuracy.py`.
"""

import argparse
import array
import ctypes
import json
import os
import pathlib
import statistics
import time

# The longest piece of a prompt that goes through the graph at once; the default of both libraries.
UBATCH = 512


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens in the timed prompt")
    parser.add_argument("--generate", type=int, default=64, help="tokens generated in a timed run")
    parser.add_argument("--context", type=int, default=0, help="tokens in the cache when generation starts")
    parser.add_argument("--sequences", type=int, default=1, help="sequences generated side by side")
    parser.add_argument("--repeat", type=int, default=5, help="counted runs of each measure")
    parser.add_argument("--ids", type=pathlib.Path, help="token ids, 32 bits each: time nothing, write their logits")
    parser.add_argument("--window", type=int, default=1024, help="with --ids: positions after which the cache is emptied")
    parser.add_argument("--logits", type=pathlib.Path, help="with --ids: the file to write, f32 rows of the vocabulary")
    return parser


class Engine:
    """A model, a context long enough for every run, and the batch that carries tokens into it.

    A subclass is a library: `lib` the Python module with its C interface, `name` and `version` for the table, and what
    the two libraries spell differently: `load`, `adjust` (the context's parameters) and `clear`.
    """

    def __init__(self, args):
        self.args = args
        self.lib.llama_backend_init()
        self.model = self.load(args)
        if not self.model:
            raise SystemExit(f"{self.name} cannot load {args.model}")
        params = self.lib.llama_context_default_params()
        longest = args.window if args.ids else max(args.prompt + 1, args.context + args.generate)
        params.n_ctx = longest * args.sequences
        params.n_seq_max = args.sequences
        params.n_batch = params.n_ubatch = UBATCH
        params.n_threads = params.n_threads_batch = args.threads
        self.adjust(params)
        self.context = self.lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"{self.name} cannot make a context")
        self.vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        self.batch = self.lib.llama_batch_init(UBATCH, 0, 1)

    def adjust(self, params):
        """Changes what the library wants otherwise."""

    def spread(self, position):
        """The token at a position: the ids are spread over the vocabulary, alike in every engine."""
        return position * 7919 % (self.vocab - 3) + 3

    def decode(self, rows):
        """One llama_decode of (token, position, sequence, whether its logits are wanted)."""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        status = self.lib.llama_decode(self.context, self.batch)
        if status != 0:
            raise SystemExit(f"llama_decode returned {status}")

    def feed(self, position, count, sequence=0):
        """Decodes `count` tokens of one sequence from `position` on, with logits of the last."""
        end = position + count
        for start in range(position, end, UBATCH):
            piece = range(start, min(start + UBATCH, end))
            self.decode([(self.spread(p), p, sequence, p == end - 1) for p in piece])
        self.synchronize()

    def step(self, position):
        """Decodes one token of every sequence, each with its logits."""
        self.decode([(self.spread(position), position, sequence, True) for sequence in range(self.args.sequences)])
        self.synchronize()

    def row(self, index):
        """Logits of the batch's token `index` (-1: the last that has any), as bytes."""
        return ctypes.string_at(self.lib.llama_get_logits_ith(self.context, index), 4 * self.vocab)

    def likeliest(self):
        """The token with the greatest of the last logits: engines that do the same work mostly agree on it."""
        logits = array.array("f", self.row(-1))
        return max(range(self.vocab), key=logits.__getitem__)


def prompt_speed(engine, args):
    """Tokens per second of one prompt in an empty cache."""
    engine.clear()
    start = time.perf_counter()
    engine.feed(0, args.prompt)
    return args.prompt / (time.perf_counter() - start)


def generation_speed(engine, args):
    """Tokens per second of all sequences together, after the context's untimed ones."""
    engine.clear()
    if args.context:
        for sequence in range(args.sequences):
            engine.feed(0, args.context, sequence)
    start = time.perf_counter()
    for position in range(args.context, args.context + args.generate):
        engine.step(position)
    return args.generate * args.sequences / (time.perf_counter() - start)


def measure(engine, args):
    """The line of JSON."""
    engine.feed(0, args.prompt)
    following = engine.likeliest()
    engine.feed(args.prompt, 1)
    middle = lambda speed: round(statistics.median(speed(engine, args) for _ in range(args.repeat)), 2)
    side_by_side = f"x{args.sequences}" if args.sequences > 1 else ""
    return {
        "engine": engine.name,
        "model": os.path.basename(args.model),
        "threads": args.threads,
        "version": engine.version,
        "next": following,
        f"pp{args.prompt}": middle(prompt_speed),
        f"tg{args.generate}@{args.context}{side_by_side}": middle(generation_speed),
    }


def write_logits(engine, args):
    """The logits of every position of the text, a window after the other, each in an empty cache."""
    ids = array.array("I", args.ids.read_bytes())
    with args.logits.open("wb") as out:
        for first in range(0, len(ids), args.window):
            engine.clear()
            window = ids[first : first + args.window]
            for start in range(0, len(window), UBATCH):
                piece = range(start, min(start + UBATCH, len(window)))
                engine.decode([(window[p], p, 0, True) for p in piece])
                engine.synchronize()
                for i in range(len(piece)):
                    out.write(engine.row(i))


def main(engine, description, more=lambda parser: None):
    """Parses the command line, adding the flags of `more`, and does what it says with an engine of the given class."""
    parser = arguments(description)
    more(parser)
    args = parser.parse_args()
    if bool(args.ids) != bool(args.logits):
        parser.error("--ids and --logits go together")
    engine = engine(args)
    if args.ids:
        write_logits(engine, args)
    else:
        print(json.dumps(measure(engine, args)))
