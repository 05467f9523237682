//! The program as a user starts it.

use std::path::PathBuf;
use std::process::{Command, Output};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_opcodes"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A library loaded beforehand answers to the driver's name just as an installed one does.
#[test]
fn with_the_mock_driver_everything_agrees() {
    let here = std::env::current_exe().unwrap();
    let mock: PathBuf = here.with_file_name("libmock_cuda.so");
    assert!(mock.is_file(), "{}", mock.display());
    let output = program().args(["--threads", "128"]).env("LD_PRELOAD", mock).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("PTX simulator as compute capability 8.0"), "{text}");
    assert!(text.contains(" cases agree, 0 do not"), "{text}");
    assert!(text.contains("0 of 4096 elements depend on their place or neighbours"), "{text}");
}

/// Where there is a GPU it is used, else one line says that there is none.
#[test]
fn without_a_driver_one_line_says_so() {
    let output = program().args(["--threads", "128", "add.u32"]).output().unwrap();
    let text = text(&output);
    let none = "opcodes: no CUDA driver (libcuda) here: nothing to compare the simulator with\n";
    assert!(
        text == none && output.status.success() || text.contains("compute capability") || text.contains("no device")
    );
}

#[test]
fn kernels_are_written_and_nonsense_is_refused() {
    let folder = std::env::temp_dir().join(format!("opcodes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let output = program().arg("--write").arg(&folder).output().unwrap();
    assert!(output.status.success());
    let files = std::fs::read_dir(&folder).unwrap().count();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(files > 1000, "{files}");
    assert!(!program().arg("--threads").output().unwrap().status.success());
    assert!(!program().args(["add", "sub"]).output().unwrap().status.success());
}
