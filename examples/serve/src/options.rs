//! Where a server listens, whom it answers, and how much it lets in.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Options of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where to listen. With port 0 the system finds one.
    pub address: SocketAddr,
    /// Keys, one of which a request must bring as `Authorization: Bearer KEY` or `x-api-key: KEY`. None: anybody may ask.
    pub api_keys: Vec<String>,
    /// Names that requests may call this server by, besides `localhost` and addresses. They matter where it listens on a
    /// loopback address without keys: a page from elsewhere that has had its own name resolved to this machine is refused.
    pub hosts: Vec<String>,
    /// Let adapters come from this folder, and go, while the server runs: whoever may ask at all may then have them loaded and
    /// unloaded. None: there is no way to.
    pub adapter_folder: Option<PathBuf>,
    /// End on SIGTERM and ctrl-C.
    pub signals: bool,
    /// How much is let in.
    pub bounds: Bounds,
}

/// Everything that a stranger could otherwise make too much of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Sequences admitted and not through, queued and running. Sixteen texts that are compared count as one.
    pub sequences: usize,
    /// Tokens of their prompts together. One request may exceed it when there is no other.
    pub prompt_tokens: usize,
    /// Texts for one prompt.
    pub choices: usize,
    /// Bytes of one request's body.
    pub body: usize,
    /// Bytes of all bodies that are being received and understood.
    pub bodies: usize,
    /// Connections at once.
    pub connections: usize,
    /// Time for a request's head, from the moment the connection waits for it: so an idle connection lives no longer.
    pub head_time: Duration,
    /// Time for a request's body.
    pub body_time: Duration,
    /// Time in which a connection takes not a single byte of what is written to it.
    pub stall_time: Duration,
    /// Bytes of one answer that wait to be read, about.
    pub unread: usize,
    /// Time that requests get to be answered when the server ends.
    pub drain_time: Duration,
}

/// Texts that are compared, to a place of a sequence: each ends with its prompt, and only a vector stays of it until all are there.
const COMPARED_A_PLACE: usize = 16;
/// Most of them in one request.
const MAX_COMPARED: usize = 2048;

impl Bounds {
    /// Most texts that one request compares.
    pub fn compared(&self) -> usize {
        self.sequences.saturating_mul(COMPARED_A_PLACE).min(MAX_COMPARED)
    }

    /// Places that as many texts take which are compared.
    pub fn places(texts: usize) -> usize {
        texts.div_ceil(COMPARED_A_PLACE)
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            api_keys: Vec::new(),
            hosts: Vec::new(),
            adapter_folder: None,
            signals: false,
            bounds: Bounds::default(),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            sequences: 256,
            prompt_tokens: 1 << 20,
            choices: 8,
            body: 4 << 20,
            bodies: 64 << 20,
            connections: 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            stall_time: Duration::from_secs(30),
            unread: 256 << 10,
            drain_time: Duration::from_secs(10),
        }
    }
}
