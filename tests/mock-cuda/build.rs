//! Gives the shared library the name under which programs look for the driver.
//!
//! A loaded library answers to its `DT_SONAME`: once the mock is loaded from wherever it was built, `dlopen("libcuda.so")`
//! finds it already there and searches no further. (`dlopen(3)`; glibc compares the name asked for with the names of what
//! is loaded before it looks for a file.)

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-link-arg-cdylib=-Wl,-soname,libcuda.so");
    }
}
