//! A planted bug: one line of a shipped kernel broken the way a programmer might.

/// One bug: in `file`, on the `nth` line that contains `line`, `from` becomes `to` (the whole line goes if `from` is empty).
pub struct Bug {
    pub what: &'static str,
    pub file: &'static str,
    pub line: &'static str,
    pub nth: usize,
    pub from: &'static str,
    pub to: &'static str,
}

pub const fn bug(
    what: &'static str,
    file: &'static str,
    (line, nth): (&'static str, usize),
    from: &'static str,
    to: &'static str,
) -> Bug {
    Bug { what, file, line, nth, from, to }
}

/// The text with the bug in it.
pub fn plant(bug: &Bug, text: &str) -> String {
    let mut seen = 0;
    let mut planted = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let here = line.contains(bug.line) && seen == bug.nth;
        seen += usize::from(line.contains(bug.line));
        planted |= here;
        match here {
            true if bug.from.is_empty() => {}
            true => lines.push(line.replace(bug.from, bug.to)),
            false => lines.push(line.to_owned()),
        }
    }
    assert!(planted, "{}, {}: no such line", bug.file, bug.what);
    let changed = lines.join("\n") + "\n";
    assert_ne!(changed, text, "{}, {}: nothing to change on that line", bug.file, bug.what);
    changed
}
