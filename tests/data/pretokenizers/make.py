#!/usr/bin/env python3
"""Writes words.json beside this script: what PyPI's `tokenizers` cuts random texts into, for each pre-tokenizer.

    pip install tokenizers==0.23.3
    python make.py [texts [seed]]

The pipelines are those of the models' tokenizer.json, without the last part, `ByteLevel`, which only respells. (Where it
brings GPT-2's expression, that expression stands in for it.) `name` is what GGUF calls the pre-tokenizer.
"""

import json
import pathlib
import random
import sys

from tokenizers import Regex, pre_tokenizers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = TEKKEN.replace(r"\p{M}]+|", r"\p{M}]+" + CONTRACTION + "|").replace(r"\p{M}]*|", r"\p{M}]*" + CONTRACTION + "|")
GPT4O = GPT4O.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
SEED = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}{1}").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", "[^\\s\\p{L}\\p{N}\r\n]+")
SEED = SEED.replace(r"\r\n", "\r\n")
CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌ"
    "ῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓"
    "𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃")
EAST_ASIAN = "[一-龥ࠀ-一가-\ud7ff]+"
DIGITS = None
PIPELINES = {
    "llama-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "tekken": [TEKKEN],
    "gpt-2": [GPT2],
    "smollm": [DIGITS, GPT2],
    "seed-coder": [SEED],
    "minicpm5": [r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, DIGITS],
    "deepseek-llm": ["[\r\n]", rf"\s?[{CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", EAST_ASIAN, DIGITS],
    "gpt-4o": [GPT4O],
}
# Classes of characters that the expressions tell apart.
ALPHABET = [" "] * 8 + list("\n\r\t'\u00a0\u3000\u2003\u0085") + list("aszdDtTmMrRlLvVeEſxXéÉßǅʰªµΩ\u2126K\u212aʔΔԱաⴀ") \
    + list("0123456789²½٣Ⅷ") + list("!.,;:-_/\\()[]{}<>=+^~|`$€©§«»“”‘’…—、。，！～") + list("你好龥龦ࠀあア한글각\ud7ff") \
    + list("\u0301\u0948🦙\u200d\ufe0f\U0001e900\U000104b0") + ["'s", "'LL", "\r\n", "  ", "\n\n", "123", "12345"]


def pre_tokenizer(expressions):
    cuts = [pre_tokenizers.Digits(True) if e is None else pre_tokenizers.Split(Regex(e), "isolated") for e in expressions]
    return pre_tokenizers.Sequence(cuts)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    out = []
    for name, expressions in PIPELINES.items():
        cutter = pre_tokenizer(expressions)
        texts = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 24))) for _ in range(count)]
        words = [[word for word, _ in cutter.pre_tokenize_str(text)] for text in texts]
        assert all("".join(w) == t for w, t in zip(words, texts))
        parts = [{"type": "Digits", "individual_digits": True} if e is None else
                 {"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": False} for e in expressions]
        out.append({"name": name, "parts": parts, "words": words})
    lines = ",\n".join(
        f'{{"name": "{o["name"]}",\n"parts": {json.dumps(o["parts"], ensure_ascii=False)},\n"words": [\n'
        + ",\n".join(json.dumps(w, ensure_ascii=False) for w in o["words"]) + "]}" for o in out)
    pathlib.Path(__file__).with_name("words.json").write_text(f"[\n{lines}\n]\n")


main()
