//! Lists the committed PTX, so that it is embedded without a table to keep. Compiles nothing.

use std::path::{Path, PathBuf};
use std::{env, fmt::Write, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("ptx");
    let mut list = String::new();
    for (name, folder) in [("COMPUTE_80", "compute_80"), ("COMPUTE_90A", "compute_90a")] {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        writeln!(list, "/// Every file of the set.\npub(crate) const {name}: &[File] = &[").expect("a string");
        for path in sources(&folder)? {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            println!("cargo::rerun-if-changed={}", path.display());
            writeln!(list, "    File {{ name: {stem:?}, text: include_str!({path:?}) }},").expect("a string");
        }
        list.push_str("];\n");
    }
    fs::write(PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("ptx.rs"), list)
}

fn sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "ptx"));
    paths.sort();
    Ok(paths)
}
