"""The build's own tests: each complaint it can make, made once. Needs no wheels."""

import pathlib
import tempfile
import unittest

import assemble
import compile
import tables

REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'clean' for 'sm_80'
ptxas info    : Function properties for clean
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 22 registers, used 1 barriers, 32 bytes smem, 380 bytes cmem[0]
ptxas info    : Compiling entry function 'spills' for 'sm_80'
ptxas info    : Function properties for spills
    16 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 255 registers, 380 bytes cmem[0]
"""
DISASSEMBLY = """
    Function : clean
        /*0050*/  LDG.E.128.CONSTANT R4, [R4.64] ;
        /*0060*/  HMMA.16816.F32.BF16 R4, R4, R8, R12 ;
    Function : spills
        /*0050*/  LDG.E.64.CONSTANT R4, [R4.64] ;
        /*0060*/  STL [R1], R4 ;
"""


def facts(registers=22, shared=32, spilled=0, words=()):
    return {"registers": registers, "shared": shared, "spilled": spilled, "words": list(words)}


class Build(unittest.TestCase):
    def test_reads_what_ptxas_says(self):
        usage = assemble.usage(REPORT)
        self.assertEqual(usage["clean"], {"registers": 22, "shared": 32, "spilled": 0})
        self.assertEqual(usage["spills"], {"registers": 255, "shared": 0, "spilled": 68})

    def test_reads_the_disassembly(self):
        self.assertEqual(assemble.words(DISASSEMBLY), {"clean": ["load128", "hmma"], "spills": ["local"]})
        for line in ["LDGSTS.E.BYPASS.128 [R1]", "UBLKCP.S.G [UR1]", "LDG.E.EF.128 R1", "UTMALDG.2D [UR8]"]:
            self.assertIn("load128", assemble.words(f"Function : k\n{line}")["k"], line)
        self.assertEqual(assemble.words("Function : k\nLDS.128 R1 ; LDG.E.64 R1 ; STG.E.128 R1")["k"], [])

    def test_budgets_survive_being_written(self):
        sets = {"compute_80": type("Set", (), {"archs": ["sm_80", "sm_90a"]})}
        budgets = {("compute_80", "k"): (32, [22, 23])}
        self.assertEqual(tables.read_budgets(tables.write_budgets(sets, budgets)), budgets)

    def test_complains_of_what_was_not_assembled(self):
        proofs = {("compute_80", "gemv"): "ab", ("compute_90a", "gemv"): "cd"}
        told = tables.read_assembled(tables.write_assembled(proofs))
        self.assertEqual(list(tables.unassembled(told, proofs)), [])
        for other in [{**proofs, ("compute_80", "gemv"): "ef"}, {("compute_90a", "gemv"): "cd"}]:
            for told, found in [(proofs, other), (other, proofs)]:
                complaints = list(tables.unassembled(told, found))
                self.assertEqual(len(complaints), 1)
                self.assertIn("compute_80 gemv is not", complaints[0])

    def test_finds_kernels(self):
        ptx = "// k.cu sha256 00\n.visible .entry one(\n)\n{\n}\n.func two()\n.visible .entry three("
        self.assertEqual(compile.entries(ptx), ["one", "three"])
        self.assertEqual(compile.code(ptx).split("\n")[0], ".visible .entry one(")

    def test_complains_of_budgets(self):
        def complaints(used, budgets={("s", "k"): (32, [22])}):
            return list(tables.over_budget(("s", "k"), {"sm_80": used}, budgets))

        self.assertEqual(complaints(facts()), [])
        self.assertIn("over the budget", complaints(facts(registers=23))[0])
        self.assertIn("over the budget", complaints(facts(shared=33))[0])
        self.assertIn("spilled", complaints(facts(spilled=4))[0])
        self.assertIn("no budget", complaints(facts(), {})[0])

    def test_complains_of_machine_code(self):
        table = tables.rows("# a comment\ngemv_* * load128 hmma\ngemm_* compute_90a hgmma\n* * -\n")
        lacking = lambda key, *words: list(tables.lacking(key, {"sm_80": facts(words=words)}, table))
        self.assertEqual(lacking(("compute_80", "gemv_a"), "load128", "hmma"), [])
        self.assertIn("no hmma", lacking(("compute_80", "gemv_a"), "load128")[0])
        self.assertIn("no hgmma", lacking(("compute_90a", "gemm_a"), "hmma")[0])
        self.assertEqual(lacking(("compute_80", "gemm_a")), [])
        self.assertIn("local memory", lacking(("compute_80", "norm"), "local")[0])
        self.assertEqual(list(tables.lacking(("s", "k"), {}, [])), ["s k: no line of sass.txt fits"])
        idle = list(tables.idle_lines([("compute_80", "gemv_a"), ("compute_80", "gemm_a")], table))
        self.assertEqual(idle, ["sass.txt: no kernel fits gemm_* compute_90a hgmma"])

    def test_hashes_what_is_included_and_no_more(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            write = lambda name, text: (folder / name).write_text(text)
            write("a.cu", '#include "b.cuh"\n#include <cuda_bf16.h>\n'), write("b.cuh", '#include "c.cuh"\n')
            write("c.cuh", "#pragma once\n"), write("d.cuh", "#pragma once\n")
            hash_of = lambda: compile.source_hash(folder / "a.cu")
            before = hash_of()
            write("d.cuh", "#pragma once\nint d;\n")
            self.assertEqual(hash_of(), before)
            write("c.cuh", "#pragma once\nint c;\n")
            self.assertNotEqual(hash_of(), before)

    def test_stamps_the_version(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "a.cu"
            source.write_text("")
            text = compile.committed_form(source, "7.0", "//\n// banner\n.version 8.8\n.target sm_80 \n\n")
            self.assertRegex(text, r"\A// a\.cu sha256 [0-9a-f]{64}\n\.version 7\.0\n\.target sm_80\n\Z")


if __name__ == "__main__":
    unittest.main()
