//! Every `unsafe` of the three crates is in docs/unsafe.md, with the obligation that it discharges, and nothing else is.
//!
//! A scan of text: what follows the word `unsafe` says what it is. On a difference the test prints the table's right lines,
//! with the obligations left open that nobody has written down yet.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Blocks, functions and implementations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts([usize; 3]);

#[test]
fn the_map_of_unsafe_code_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let map = fs::read_to_string(root.join("docs/unsafe.md")).expect("docs/unsafe.md");
    let (mapped, found) = (rows(&map), scan(root));
    let mut wrong = String::new();
    for (file, counts) in &found {
        let known = mapped.get(file);
        let obligations = known.map_or("?", |row| row.1.as_str());
        // A function states its obligation to its callers; blocks and implementations discharge one each.
        let discharged = counts.0[0] + counts.0[2];
        if known.is_none_or(|row| row.0 != *counts) || total(obligations) != discharged {
            let [blocks, functions, implementations] = counts.0;
            writeln!(wrong, "| {file} | {blocks} | {functions} | {implementations} | {obligations} |")
                .expect("a string");
        }
    }
    for file in mapped.keys().filter(|file| !found.contains_key(*file)) {
        writeln!(wrong, "{file} has no unsafe code").expect("a string");
    }
    for word in mapped.values().flat_map(|row| words(&row.1)).map(|(word, _)| word) {
        if !map.contains(&format!("| `{word}` |")) {
            writeln!(wrong, "no obligation is called {word}").expect("a string");
        }
    }
    assert!(wrong.is_empty(), "docs/unsafe.md should say:\n{wrong}");
}

/// Rows of the map: a file, three counts, obligations.
fn rows(map: &str) -> BTreeMap<String, (Counts, String)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [file, blocks, functions, implementations, obligations] = cells[..] else { return None };
        let counts = [blocks, functions, implementations].map(|cell| cell.parse().ok());
        let [Some(blocks), Some(functions), Some(implementations)] = counts else { return None };
        Some((file.to_owned(), (Counts([blocks, functions, implementations]), obligations.to_owned())))
    };
    map.lines().filter_map(row).collect()
}

/// `bytes 3, part 1`, taken apart.
fn words(obligations: &str) -> Vec<(String, usize)> {
    let pair = |pair: &str| {
        let (word, count) = pair.trim().rsplit_once(' ')?;
        Some((word.to_owned(), count.parse().ok()?))
    };
    obligations.split(',').filter_map(pair).collect()
}

fn total(obligations: &str) -> usize {
    words(obligations).iter().map(|(_, count)| count).sum()
}

/// Every file that has any.
fn scan(root: &Path) -> BTreeMap<String, Counts> {
    let mut found = BTreeMap::new();
    for krate in ["llama-core", "llama-kernels", "llama-cuda"] {
        for path in sources(&root.join(krate).join("src")) {
            let counts = count(&fs::read_to_string(&path).expect("a source file"), &path);
            let file = path.strip_prefix(root).expect("inside").to_string_lossy().replace('\\', "/");
            if counts != Counts::default() {
                found.insert(file, counts);
            }
        }
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let files = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    paths.flat_map(files).filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Comments end a line; a type of function pointers (`unsafe fn(`) is neither a block nor a function.
fn count(text: &str, path: &Path) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
        for (at, word) in line.match_indices("unsafe") {
            let name = |c: char| c.is_alphanumeric() || c == '_';
            let after = &line[at + word.len()..];
            if line[..at].ends_with(name) || after.starts_with(name) {
                continue;
            }
            match after.trim_start() {
                rest if rest.starts_with('{') => counts.0[0] += 1,
                rest if rest.starts_with("fn(") => {}
                rest if rest.starts_with("fn ") || rest.starts_with("extern") => counts.0[1] += 1,
                rest if rest.starts_with("impl") || rest.starts_with("trait ") => counts.0[2] += 1,
                rest => panic!("{}: unsafe what? {rest}", path.display()),
            }
        }
    }
    counts
}

#[test]
fn what_is_counted() {
    let text = "let x = unsafe { f() }; // unsafe {\nunsafe fn f() {}\ntype F = unsafe fn(u8);\nunsafe impl Send for X {}\n\
                #![deny(unsafe_code)]\nlet y = (unsafe { g() }, unsafe { h() });";
    assert_eq!(count(text, Path::new("text")), Counts([3, 1, 1]));
}
