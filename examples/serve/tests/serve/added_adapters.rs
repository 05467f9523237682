//! Adapters that come and go while the server runs: whoever names one gets what it says, and nothing outside one folder is read.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use llama_core::Loader;
use llama_core::adapter::{Adapter, AdapterRoom};
use llama_core::engine::{Engine, Request};
use llama_core::text::Specials;
use llama_kernels::{Cpu, CpuOptions};
use llama_serve::{Bounds, Options, Server};
use serde_json::{Value, json};

use super::adapters::{PROMPT, write_ranks};
use crate::client::{Client, Reply, eventually, get, metric, post};
use crate::subject::{Gate, engine_options, serve, serve_with, shipped};

const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

fn loader() -> Loader {
    Loader::open(shipped()).unwrap().options(engine_options())
}

fn load(loader: Loader) -> Engine {
    loader.load(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap()).unwrap()
}

/// A server with room for so many adapters, of rank 2, out of `folder`.
fn server(folder: &Path, adapters: usize) -> Server {
    let engine = load(loader().adapter_room(AdapterRoom { adapters, rank: 2 }).unwrap());
    serve_with(engine, Options { adapter_folder: Some(folder.into()), ..Options::default() })
}

/// A folder of three: `one` and `two`, and `thick` of rank 3.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed, rank) in [("one", 1, 1), ("two", 2, 2), ("thick", 3, 3)] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        write_ranks(&folder.path().join(name), seed, rank);
    }
    folder
}

/// What an engine that was loaded with it says.
fn expected(path: &Path, tokens: usize) -> String {
    let mut engine = load(loader().adapter("x", Adapter::open(path).unwrap(), 1.0).unwrap());
    let prompt = engine.encode(PROMPT, Specials::AsText).unwrap();
    engine
        .complete(Request { max_tokens: Some(tokens), adapter: Some("x".into()), ..Request::new(prompt) })
        .unwrap()
        .text
}

fn ask(address: SocketAddr, name: &str) -> Reply {
    post(address, "/v1/completions", &json!({"model": name, "prompt": PROMPT, "max_tokens": 30, "temperature": 0}))
}

fn text(reply: &Reply) -> String {
    reply.json()["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{}", reply.text())).into()
}

fn names(address: SocketAddr) -> Vec<String> {
    let models = get(address, "/v1/models").json();
    models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().into()).collect()
}

#[test]
fn adapters_come_and_go() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|name| expected(&folder.path().join(name), 30));
    let server = server(folder.path(), 2);
    let address = server.address();
    let plain = ask(address, "stories");
    assert!(text(&plain) != one && one != two);
    assert_eq!(ask(address, "a").error().0, 404);
    let reply = post(address, LOAD, &json!({"lora_name": "a", "lora_path": "one", "lora_int_id": 7}));
    assert_eq!((reply.status, &reply.json()["id"], &reply.json()["parent"]), (200, &json!("a"), &json!("stories")));
    // By the whole path, too, where that leads into the folder.
    let path = folder.path().canonicalize().unwrap().join("two");
    assert_eq!(post(address, LOAD, &json!({"lora_name": "b", "lora_path": path})).status, 200);
    assert_eq!(names(address), ["stories", "a", "b"]);
    assert_eq!(get(address, "/v1/models/b").json()["parent"], "stories");
    let reply = ask(address, "a");
    assert_eq!((text(&reply), text(&ask(address, "b"))), (one.clone(), two.clone()));
    assert!(reply.json()["system_fingerprint"] != plain.json()["system_fingerprint"]);
    let gone = post(address, UNLOAD, &json!({"lora_name": "a", "lora_int_id": null}));
    assert_eq!((gone.status, gone.json()), (200, json!({"id": "a", "object": "model", "deleted": true})));
    assert_eq!(names(address), ["stories", "b"]);
    assert_eq!(ask(address, "a").error(), (404, "model_not_found".into(), Some("model".into())));
    assert_eq!(post(address, LOAD, &json!({"lora_name": "a", "lora_path": "two"})).status, 200);
    assert_eq!((text(&ask(address, "a")), text(&ask(address, "stories"))), (two, text(&plain)));
    assert!(server.stop());
}

/// Who is being answered when his adapter is unloaded, or its name given to another, has it to the end.
#[test]
fn an_answer_on_its_way_keeps_its_adapter() {
    let folder = folder();
    let want = expected(&folder.path().join("one"), 200);
    let server = server(folder.path(), 2);
    let address = server.address();
    assert_eq!(post(address, LOAD, &json!({"lora_name": "a", "lora_path": "one"})).status, 200);
    for way in [0, 1] {
        let mut client = Client::connect(address);
        let body = json!({"model": "a", "prompt": PROMPT, "max_tokens": 200, "temperature": 0, "stream": true});
        client.post("/v1/completions", &body.to_string());
        let mut told = client.head().unwrap();
        told.body.extend(client.chunk().unwrap());
        let changed = match way {
            0 => post(address, LOAD, &json!({"lora_name": "a", "lora_path": "two", "load_inplace": true})),
            _ => post(address, UNLOAD, &json!({"lora_name": "a"})),
        };
        assert_eq!(changed.status, 200, "{}", changed.text());
        while let Some(chunk) = client.chunk().filter(|chunk| !chunk.is_empty()) {
            told.body.extend(chunk);
        }
        let text: String = told.events().iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        match way {
            0 => assert_eq!(text, want),
            _ => assert_eq!(text, expected(&folder.path().join("two"), 200)),
        }
    }
    assert_eq!(ask(address, "a").error().0, 404);
    assert!(server.stop());
}

#[test]
fn what_leads_out_of_the_folder_is_refused() {
    let (outer, folder) = (tempfile::tempdir().unwrap(), folder());
    write_ranks(outer.path(), 1, 1);
    let secret = outer.path().join("adapter_model.safetensors");
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(outer.path(), folder.path().join("link")).unwrap();
        symlink(&secret, folder.path().join("link.safetensors")).unwrap();
        symlink("two", folder.path().join("inner")).unwrap();
        for (inside, file) in [("weights", "adapter_model.safetensors"), ("config", "adapter_config.json")] {
            let inside = folder.path().join(inside);
            std::fs::create_dir(&inside).unwrap();
            write_ranks(&inside, 1, 1);
            std::fs::remove_file(inside.join(file)).unwrap();
            symlink(outer.path().join(file), inside.join(file)).unwrap();
        }
    }
    let server = server(folder.path(), 2);
    let address = server.address();
    let ask = |path: &str| post(address, LOAD, &json!({"lora_name": "a", "lora_path": path}));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let own = name(folder.path());
    let mut outside = vec!["..".into(), "../".into(), format!("../{}", name(outer.path())), format!("../{own}/one")];
    outside.extend([format!("one/../../{}", name(outer.path())), "one/..".into(), "/".into(), "/etc/passwd".into()]);
    outside.extend([outer.path(), &secret].map(|path| path.to_str().unwrap().to_owned()));
    outside.push(format!("{}/one/../../{}", folder.path().display(), name(outer.path())));
    outside.push(format!("{}-other/one", folder.path().display()));
    if cfg!(unix) {
        outside.extend(
            ["link", "link.safetensors", "link/adapter_model.safetensors", "weights", "config"].map(str::to_owned),
        );
        outside.push("config/adapter_model.safetensors".into());
    }
    for path in outside {
        let reply = ask(&path);
        assert_eq!(reply.error(), (400, "invalid_value".into(), Some("lora_path".into())), "{path}");
        assert!(reply.text().contains("leads out of the folder of adapters"), "{path}: {}", reply.text());
    }
    // What is not there, or no adapter, says so.
    for path in ["", ".", "three", "one/adapter_config.json", "one\u{0}", "one/adapter_model.safetensors/x"] {
        assert_eq!(ask(path).error(), (400, "invalid_value".into(), Some("lora_path".into())), "{path:?}");
    }
    assert_eq!(names(address), ["stories"]);
    for path in ["./one", if cfg!(unix) { "inner" } else { "two" }, "two/adapter_model.safetensors"] {
        let reply = post(address, LOAD, &json!({"lora_name": "a", "lora_path": path, "load_inplace": true}));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    assert!(server.stop());
}

/// A path that begins as the folder was named leads into it, also where that is a link.
#[cfg(unix)]
#[test]
fn a_folder_goes_by_the_path_that_it_was_named_by() {
    let (outer, folder) = (tempfile::tempdir().unwrap(), folder());
    let link = outer.path().join("adapters");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    let server = server(&link, 2);
    let load =
        |path: &Path| post(server.address(), LOAD, &json!({"lora_name": "a", "lora_path": path, "load_inplace": true}));
    for path in [link.join("one"), folder.path().canonicalize().unwrap().join("two")] {
        let reply = load(&path);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    for path in [link.join("../adapters/one"), outer.path().join("one")] {
        assert!(load(&path).text().contains("leads out of the folder of adapters"), "{path:?}");
    }
    assert!(server.stop());
}

/// Who goes away has had his turn all the same: the next one waits for it, and orders do not pile up before the engine.
#[test]
fn one_at_a_time_though_clients_go_away() {
    let (folder, gate) = (folder(), Gate::default());
    let bounds = Bounds { sequences: 1, ..Bounds::default() };
    let options = Options { adapter_folder: Some(folder.path().into()), bounds, ..Options::default() };
    let server = serve_with(gate.engine(engine_options()), options);
    let address = server.address();
    let body = json!({"lora_name": "a", "lora_path": "one"});
    let answer = thread::spawn(move || ask(address, "stories"));
    eventually("a step", || metric(address, "llama_sequences_admitted") == 1);
    for _ in 0..4 {
        let mut client = Client::connect(address);
        client.post(LOAD, &body.to_string());
        // Time to get as far as the engine.
        thread::sleep(Duration::from_millis(100));
    }
    let last = thread::spawn(move || post(address, LOAD, &body));
    thread::sleep(Duration::from_millis(200));
    gate.open();
    assert_eq!(answer.join().unwrap().status, 200);
    // It came to the engine, which has no room.
    let last = last.join().unwrap();
    assert_eq!(last.status, 400, "{}", last.text());
    assert!(server.stop());
}

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    let folder = folder();
    let server = server(folder.path(), 1);
    let address = server.address();
    let refused = |path: &str, body: Value, status: u16, param: &str, problem: &str| {
        let reply = post(address, path, &body);
        let (got, _, about) = reply.error();
        assert_eq!((got, about.as_deref()), (status, Some(param)), "{body}: {}", reply.text());
        assert!(reply.text().contains(problem), "{body}: {}", reply.text());
    };
    for name in [json!(null), json!(1), json!(""), json!("x".repeat(257)), json!("a\nb"), json!("stories")] {
        refused(LOAD, json!({"lora_name": name, "lora_path": "one"}), 400, "lora_name", "lora_name");
    }
    refused(LOAD, json!({"lora_name": "a"}), 400, "lora_path", "is missing");
    refused(LOAD, json!({"lora_name": "a", "lora_path": ["one"]}), 400, "lora_path", "a string");
    refused(
        LOAD,
        json!({"lora_name": "a", "lora_path": "one", "load_inplace": 1}),
        400,
        "load_inplace",
        "true or false",
    );
    refused(LOAD, json!({"lora_name": "a", "lora_path": "one", "base": 1}), 400, "base", "not a parameter");
    refused(LOAD, json!({"lora_name": "a", "lora_path": "thick"}), 400, "lora_name", "there is room for rank 2");
    assert_eq!(post(address, LOAD, &json!({"lora_name": "a", "lora_path": "one"})).status, 200);
    refused(LOAD, json!({"lora_name": "a", "lora_path": "two"}), 400, "lora_name", "is loaded already");
    refused(LOAD, json!({"lora_name": "b", "lora_path": "two"}), 400, "lora_name", "remove one of them first");
    let both = json!({"lora_name": "a", "lora_path": "two", "load_inplace": true});
    refused(LOAD, both, 400, "lora_name", "remove one of them first");
    refused(UNLOAD, json!({"lora_name": "b"}), 404, "lora_name", "there is no adapter");
    refused(UNLOAD, json!({"lora_name": "stories"}), 404, "lora_name", "there is no adapter");
    refused(UNLOAD, json!({}), 400, "lora_name", "is missing");
    for path in [LOAD, UNLOAD] {
        assert_eq!(get(address, path).status, 405);
    }
    assert_eq!(names(address), ["stories", "a"]);
    assert!(server.stop());
}

/// A server that was not told to may not be asked.
#[test]
fn nothing_comes_or_goes_unless_the_server_was_told_so() {
    let folder = folder();
    let engine = load(loader().adapter("a", Adapter::open(folder.path().join("one")).unwrap(), 1.0).unwrap());
    let server = serve(engine, Bounds::default());
    let address = server.address();
    for (path, body) in [(LOAD, json!({"lora_name": "b", "lora_path": "one"})), (UNLOAD, json!({"lora_name": "a"}))] {
        let reply = post(address, path, &body);
        assert_eq!((reply.error().0, reply.error().1), (404, "not_found".into()));
        assert!(reply.text().contains("--adapter-folder"), "{}", reply.text());
    }
    assert_eq!(names(address), ["stories", "a"]);
    assert!(server.stop());
    let missing = Options { adapter_folder: Some(folder.path().join("none")), ..Options::default() };
    let model = llama_serve::Model { engine: load(loader()), template: None, name: "stories".into() };
    let error = Server::start(model, missing).err().unwrap();
    assert!(error.to_string().contains("none"), "{error}");
}

/// One name is loaded, unloaded and asked for by many at once: each answer is of one adapter or of none, and in the end there is room.
#[test]
fn everybody_at_once() {
    let folder = folder();
    let want = ["one", "two"].map(|name| expected(&folder.path().join(name), 30));
    let server = server(folder.path(), 2);
    let address = server.address();
    thread::scope(|scope| {
        for worker in 0..6 {
            let want = &want;
            scope.spawn(move || {
                for round in 0..8 {
                    let path = if round % 2 == 0 { "one" } else { "two" };
                    let body = json!({"lora_name": "a", "lora_path": path, "load_inplace": round % 3 == 0});
                    let status = match worker {
                        0 | 1 => post(address, LOAD, &body).status,
                        2 => post(address, UNLOAD, &json!({"lora_name": "a"})).status,
                        _ => {
                            let reply = ask(address, "a");
                            assert!(reply.status == 404 || want.contains(&text(&reply)), "{}", reply.text());
                            reply.status
                        }
                    };
                    assert!([200, 400, 404].contains(&status), "{status}");
                }
            });
        }
    });
    post(address, UNLOAD, &json!({"lora_name": "a"}));
    for (name, path, want) in [("b", "one", &want[0]), ("c", "two", &want[1])] {
        let reply = post(address, LOAD, &json!({"lora_name": name, "lora_path": path}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(text(&ask(address, name)), *want);
    }
    assert!(server.stop());
}
