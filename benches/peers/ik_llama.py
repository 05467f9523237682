#!/usr/bin/env python3
"""ik_llama.cpp on one GGUF, through `ik-llama-cpp-python`: two speeds as one line of JSON, or the logits of a text (see
peer.py).

It runs at its best: weights repacked into interleaved rows as they are loaded (llama-bench's `-rtr 1`) and flash attention,
which is its default. Several sequences at once fail an assertion in its flash attention where the CPU has no VNNI, and do
without it.
"""

import ctypes
import importlib.metadata

from ik_llama_cpp import _ctypes_api as ik

import peer

SILENCE = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, data: None)


class IkLlama(peer.Engine):
    lib = ik
    name = "ik_llama.cpp"
    version = f"ik-llama-cpp-python {importlib.metadata.version('ik-llama-cpp-python')}"

    def load(self, args):
        ik._lib.llama_log_set(SILENCE, None)
        params = ik.llama_model_default_params()
        # The package describes the C structures by hand: what it reads as their defaults shows whether it does so rightly.
        assert params.use_mmap and not params.use_mlock and not params.repack_tensors and params.n_ubatch == 512
        params.repack_tensors = not args.as_stored
        params.use_mmap = args.as_stored
        params.use_thp = args.huge_pages
        params.flash_attn = args.sequences == 1
        params.merge_qkv = args.merge_qkv
        return ik.llama_model_load_from_file(args.model.encode(), params)

    def adjust(self, params):
        assert params.flash_attn
        params.flash_attn = self.args.sequences == 1

    def clear(self):
        ik.llama_kv_cache_clear(self.context)

    def synchronize(self):
        """llama_decode returns when the CPU is done."""


def layout(parser):
    parser.add_argument("--as-stored", action="store_true", help="no repacking: the file's own layout, mapped")
    parser.add_argument("--huge-pages", action="store_true", help="llama-bench's -thp 1")
    parser.add_argument("--merge-qkv", action="store_true", help="one matrix of Q, K and V: llama-bench's -mqkv 1")


if __name__ == "__main__":
    peer.main(IkLlama, __doc__, layout)
