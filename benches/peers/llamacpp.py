#!/usr/bin/env python3
"""llama.cpp on one GGUF, through `llama-cpp-python`: two speeds as one line of JSON, or the logits of a text (see peer.py)."""

import ctypes

import llama_cpp

import peer

# The callback must outlive every call into llama.cpp, so it is kept in a name.
SILENCE = llama_cpp.llama_log_callback(lambda level, text, data: None)


class LlamaCpp(peer.Engine):
    lib = llama_cpp
    name = "llama.cpp"
    version = f"llama-cpp-python {llama_cpp.__version__}"

    def load(self, args):
        llama_cpp.llama_log_set(SILENCE, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 999 if args.gpu else 0
        return llama_cpp.llama_model_load_from_file(args.model.encode(), params)

    def adjust(self, params):
        # ctypes would take any name and change nothing.
        known = {field[0] for field in params._fields_}
        assert {"flash_attn_type", "n_outputs_max_per_seq"} <= known
        if self.args.gpu:
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if self.args.ids:
            params.n_outputs_max_per_seq = peer.UBATCH

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def synchronize(self):
        llama_cpp.llama_synchronize(self.context)


def gpu(parser):
    parser.add_argument("--gpu", action="store_true", help="all layers and flash attention on a GPU")


if __name__ == "__main__":
    peer.main(LlamaCpp, __doc__, gpu)
