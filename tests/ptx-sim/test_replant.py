"""A kernel, the same compiled anew, and bugs whose lines are found again or not."""

import unittest

import replant

OLD = """.visible .entry k(
{
.reg .b32 %r<5>;
mov.u32 \t%r1, 7;
bar.sync \t0;
add.s32 \t%r2, %r1, 1;
shr.u32 \t%r3, %r2, 4;
$L__BB0_1:
add.s32 \t%r4, %r3, 1;
ret;
}
"""
# An instruction and a barrier more, a shift less, and every register has another number.
NEW = """.visible .entry k(
{
.reg .b32 %r<12>;
mov.u32 \t%r7, 7;
bar.sync \t0;
xor.b32 \t%r8, %r7, 3;
bar.sync \t0;
add.s32 \t%r9, %r7, 1;
$L__BB0_2:
add.s32 \t%r11, %r10, 1;
ret;
}
"""


def bug(line, nth, before="", after=""):
    return f'    bug("b", "k", ("{line}", {nth}), "{before}", "{after}"),\n'


class Replant(unittest.TestCase):
    def again(self, source, old=OLD, new=NEW):
        return replant.replanted(source, lambda file: replant.Twins(old, new))

    def test_spells_registers_anew(self):
        text, told = self.again(bug(r"add.s32 \t%r2, %r1", 0, "%r1, 1", "%r1, 2"))
        self.assertEqual(text, bug(r"add.s32 \t%r9, %r7", 0, "%r7, 1", "%r7, 2"))
        self.assertEqual(told, {"k: b": text.strip(" ,\n")})

    def test_counts_lines_anew(self):
        self.assertEqual(self.again(bug("add.s32", 1))[0], bug("add.s32", 1))
        more = NEW.replace("bar.sync", "add.s32 \t%r7, %r7, 5;\nbar.sync", 1)
        self.assertEqual(self.again(bug("add.s32", 1), new=more)[0], bug("add.s32", 2))

    def test_finds_a_register_of_another_line(self):
        self.assertEqual(self.again(bug("ret", 0, "ret", "@%r1 ret"))[0], bug("ret", 0, "ret", "@%r7 ret"))

    def test_takes_registers_of_another_line_from_the_nearest(self):
        both = {"old": OLD + OLD, "new": NEW + NEW.replace("%r7", "%r21")}
        self.assertEqual(self.again(bug("ret", 0, "ret", "@%r1 ret"), **both)[0], bug("ret", 0, "ret", "@%r7 ret"))
        self.assertEqual(self.again(bug("ret", 1, "ret", "@%r1 ret"), **both)[0], bug("ret", 1, "ret", "@%r21 ret"))

    def test_names_what_it_does_not_find(self):
        gone = bug("shr.u32", 0, ", 4", ", 5")
        never, unknown = bug("mul.lo", 0), bug("ret", 0, "ret", "@%p1 ret")
        for lost in [gone, never, unknown, bug("bar.sync", 1), bug("ret", 0, "exit", "")]:
            self.assertEqual(self.again(lost), (lost, {"k: b": None}), lost)

    def test_tells_nothing_of_the_same(self):
        same = bug(r"add.s32 \t%r2, %r1", 0, "%r1", "%r3") + "not a bug(1, 2)\n"
        self.assertEqual(self.again(same, new=OLD), (same, {}))


if __name__ == "__main__":
    unittest.main()
