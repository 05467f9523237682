//! The program: it starts, serves, and ends on SIGTERM when it has answered.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::client::{Client, event, post};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-serve"));
    command.args(["--port", "0", "--threads", "1"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program once it listens, and where.
fn start(arguments: &[&str]) -> (Child, SocketAddr) {
    let mut child = program(arguments).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit("http://").next().and_then(|address| address.parse().ok());
    (child, address.unwrap_or_else(|| panic!("{line:?} names no address")))
}

#[cfg(unix)]
#[test]
fn it_serves_until_it_is_told_to_end() {
    let (mut child, address) = start(&["--name", "tiny"]);
    let body = json!({"model": "tiny", "prompt": "Once upon a time", "max_tokens": 5, "temperature": 0});
    assert_eq!(post(address, "/v1/completions", &body).json()["choices"][0]["text"], ", there was a little");
    let mut client = Client::connect(address);
    let body = json!({"prompt": "Once", "max_tokens": 400, "stream": true, "ignore_eos": true});
    client.post("/v1/completions", &body.to_string());
    assert_eq!(client.head().unwrap().status, 200);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let mut text = String::new();
    while let Some(chunk) = client.chunk().filter(|chunk| !chunk.is_empty()) {
        text.push_str(str::from_utf8(&chunk).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "the stream was not ended: {text}");
    assert!(event(text.split("\n\n").next().unwrap())["choices"][0]["text"].is_string());
    assert!(child.wait().unwrap().success());
}

/// What a long text takes is a small multiple of it, for its answer is as long as that.
#[cfg(target_os = "linux")]
#[test]
fn a_long_text_is_tokenized_in_little_memory() {
    let (mut child, address) = start(&[]);
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
    };
    let (before, text) = (peak(), "zq ".repeat(1 << 18));
    let answer = post(address, "/tokenize", &json!({"prompt": text, "return_token_strs": true})).json();
    assert!(answer["token_strs"].as_array().unwrap().len() > 500_000);
    let taken = peak() - before;
    assert!(taken < 60, "{taken} MiB for a text of {} KiB", text.len() >> 10);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_cannot_be_started_says_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("keys");
    std::fs::write(&empty, "\n \n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (arguments, says) in [
        (vec!["--model", "nowhere.gguf"], "nowhere.gguf"),
        (vec!["--context", "0"], "context"),
        (vec!["--queue", "0"], "queue"),
        (vec!["--api-key-file", "nowhere.txt"], "nowhere.txt"),
        (vec!["--api-key-file", empty.to_str().unwrap()], "no key"),
        (vec!["--port", &port], &port),
    ] {
        // The last --port counts.
        let mut command = Command::new(env!("CARGO_BIN_EXE_llama-serve"));
        let output = command.args(["--threads", "1"]).args(&arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{arguments:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains(says), "{arguments:?}: {text}");
    }
}
