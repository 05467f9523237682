//! A client that sends what it is told and reads what comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any answer takes on a busy machine: a test that waits for this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub struct Client(BufReader<TcpStream>);

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Sends JSON on a connection of its own, and returns what came back.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    let mut client = Client::connect(address);
    client.post(path, &body.to_string());
    client.reply()
}

/// What `path` has.
pub fn get(address: SocketAddr, path: &str) -> Reply {
    let mut client = Client::connect(address);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    client.reply()
}

/// A figure of `/metrics`.
pub fn metric(address: SocketAddr, name: &str) -> u64 {
    let text = String::from_utf8(get(address, "/metrics").body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Looks again and again until `holds`, which must come true.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} never came true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A request with a body of JSON.
pub fn request(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends bytes as they are. A server that has heard enough may have closed.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    pub fn post(&mut self, path: &str, body: &str) {
        self.send(&request(path, body));
    }

    /// The next response, all of it.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("a response")
    }

    /// The next response; `None` if the connection ends before it is whole.
    pub fn try_reply(&mut self) -> Option<Reply> {
        let mut reply = self.head()?;
        reply.body = match reply.header("transfer-encoding") {
            Some(_) => std::iter::from_fn(|| self.chunk()).take_while(|chunk| !chunk.is_empty()).flatten().collect(),
            None => {
                let mut body = vec![0; reply.header("content-length").map_or(0, |length| length.parse().unwrap())];
                self.0.read_exact(&mut body).ok()?;
                body
            }
        };
        Some(reply)
    }

    /// A response's status and headers.
    pub fn head(&mut self) -> Option<Reply> {
        let status = self.line()?.split(' ').nth(1)?.parse().ok()?;
        let lines = std::iter::from_fn(|| self.line()).take_while(|line| !line.is_empty());
        let header = |line: String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Some(Reply { status, headers: lines.filter_map(header).collect(), body: Vec::new() })
    }

    /// A chunk of a body; empty for the last, `None` if the connection breaks.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut chunk = vec![0; usize::from_str_radix(&self.line()?, 16).ok()?];
        self.0.read_exact(&mut chunk).ok()?;
        self.line()?;
        Some(chunk)
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(1..) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
            _ => None,
        }
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The objects of a stream that ends as it should.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let text = text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end in {text}"));
        text.split_terminator("\n\n").map(event).collect()
    }

    /// The objects of a message's stream, each of which is named before it.
    pub fn named_events(&self) -> Vec<Value> {
        let text = self.text();
        let events = text.split_terminator("\n\n").map(|named| {
            let (name, object) = named.split_once('\n').unwrap();
            let object = event(object);
            assert_eq!(name.strip_prefix("event: "), object["type"].as_str());
            object
        });
        events.collect()
    }

    /// Those of a response's stream, each of which has its number, too.
    pub fn numbered_events(&self) -> Vec<Value> {
        let events = self.named_events();
        assert!(events.iter().enumerate().all(|(number, event)| event["sequence_number"] == number), "{events:?}");
        events
    }

    /// Status, type and message of an error in Anthropic's words.
    pub fn anthropic_error(&self) -> (u16, String, String) {
        let json = self.json();
        let text = |name: &str| json["error"][name].as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
        let (kind, message) = (text("type"), text("message"));
        assert_eq!(json, serde_json::json!({"type": "error", "error": {"type": kind, "message": message}}));
        (self.status, kind, message)
    }

    /// Status, code and param of an error, which must have a message.
    pub fn error(&self) -> (u16, String, Option<String>) {
        let json = self.json();
        let error = &json["error"];
        assert!(error["message"].as_str().is_some_and(|message| message.len() > 5), "{json}");
        assert!(error["type"].is_string(), "{json}");
        let code = error["code"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
        (self.status, code, error["param"].as_str().map(str::to_owned))
    }
}

/// The object of an event.
pub fn event(line: &str) -> Value {
    let json = line.strip_prefix("data: ").unwrap_or_else(|| panic!("{line:?} is no event"));
    serde_json::from_str(json).unwrap()
}

/// The last object of what has come of a stream.
pub fn last_event(text: &str) -> Value {
    event(text.trim_end().rsplit("\n\n").next().unwrap())
}
