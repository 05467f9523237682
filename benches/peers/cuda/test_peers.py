"""What can be tested of the peers without a GPU and without torch: names, the order of rows, tokens, dry runs."""

import json
import pathlib
import subprocess
import sys
import unittest

import gguf_model
import torch_peer

HERE = pathlib.Path(__file__).resolve().parent


class Rows:
    """As much of an array as `halves` uses, over a list of row numbers."""

    def __init__(self, rows, shape):
        self.rows, self.shape = rows, shape

    def reshape(self, *shape):
        if len(shape) == 4:
            heads, half, two, _ = shape
            turned = [[[self.rows[(h * half + i) * two + j] for j in range(two)] for i in range(half)] for h in range(heads)]
            return Rows(turned, shape)
        return Rows([row for head in self.rows for part in head for row in part], shape)

    def swapaxes(self, a, b):
        assert (a, b) == (1, 2)
        return Rows([[list(column) for column in zip(*head)] for head in self.rows], self.shape)


class Peers(unittest.TestCase):
    def test_names(self):
        self.assertEqual(gguf_model.name_of("token_embd.weight"), "model.embed_tokens.weight")
        self.assertEqual(gguf_model.name_of("blk.11.attn_q.weight"), "model.layers.11.self_attn.q_proj.weight")
        self.assertEqual(gguf_model.name_of("output.weight"), "lm_head.weight")

    def test_pairs_side_by_side_become_pairs_half_a_head_apart(self):
        turned = gguf_model.halves(Rows(list(range(8)), (8, 1)), heads=2)
        self.assertEqual(turned.rows, [0, 2, 1, 3, 4, 6, 5, 7])

    def test_tokens_are_those_of_the_other_engines(self):
        self.assertEqual(torch_peer.ids(5, 2, 512), [5 * 7919 % 509 + 3, 6 * 7919 % 509 + 3])

    def test_dry_runs(self):
        for kind in ["transformers", "static"]:
            command = [sys.executable, HERE / "torch_peer.py", "--kind", kind, "--model", "m.gguf", "--dry-run"]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            self.assertEqual(json.loads(out)["would"], ["pp2048", "tg128@0"])
        out = subprocess.run([HERE / "run", "--dry-run", "1b"], capture_output=True, text=True, check=True).stdout
        for word in ["--write", "pip install", "GGML_CUDA", "--kind static", "llamacpp.py", "compare.py"]:
            self.assertIn(word, out)


if __name__ == "__main__":
    unittest.main()
