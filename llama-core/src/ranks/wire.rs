//! Messages between a leader and a follower: words of 32 bits behind their number, in the order of the sender's bytes (the
//! greeting shows whether that is the receiver's).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, cast_slice_mut};

use crate::error::{Error, Result};

/// A message that is being written.
#[derive(Debug, Default)]
pub struct Message(Vec<u32>);

impl Message {
    /// Begins anew and keeps the room.
    pub fn begin(&mut self, kind: u32) -> &mut Self {
        self.0.clear();
        self.0.extend([0, kind]);
        self
    }

    /// One word.
    pub fn word(&mut self, word: u32) -> &mut Self {
        self.0.push(word);
        self
    }

    /// A number of 64 bits.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.word(number as u32).word((number >> 32) as u32)
    }

    /// Words behind their number.
    pub fn list(&mut self, words: &[u32]) -> &mut Self {
        self.word(words.len() as u32);
        self.0.extend_from_slice(words);
        self
    }

    /// Text, a byte a word: it is short and rare.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.word(text.len() as u32);
        self.0.extend(text.bytes().map(u32::from));
        self
    }

    /// What the receiver will see behind the kind.
    #[cfg(test)]
    pub fn words(&self) -> Words<'_> {
        Words(&self.0[2..])
    }

    fn frame(&mut self) -> &[u8] {
        self.0[0] = self.0.len() as u32 - 1;
        cast_slice(&self.0)
    }
}

/// A message that is being read: each part is `None` where the message is not what it should be.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a>(pub &'a [u32]);

impl<'a> Words<'a> {
    /// One word.
    pub fn word(&mut self) -> Option<u32> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A number of 64 bits.
    pub fn number(&mut self) -> Option<u64> {
        Some(u64::from(self.word()?) | u64::from(self.word()?) << 32)
    }

    /// A number of things.
    pub fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    /// Words behind their number.
    pub fn list(&mut self) -> Option<&'a [u32]> {
        let words = self.word()? as usize;
        let (list, rest) = self.0.split_at_checked(words)?;
        self.0 = rest;
        Some(list)
    }

    /// Text. Bytes that are no UTF-8 become U+FFFD.
    pub fn text(&mut self) -> Option<String> {
        let bytes: Option<Vec<u8>> = self.list()?.iter().map(|&word| u8::try_from(word).ok()).collect();
        Some(String::from_utf8_lossy(&bytes?).into_owned())
    }

    /// `Some` at the end of the message.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A connection that carries messages.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    peer: String,
    room: Vec<u32>,
}

impl Wire {
    /// Messages over `stream`, from and to what errors call `peer`.
    pub fn new(stream: TcpStream, peer: String) -> Result<Self> {
        let wire = Wire { stream, peer, room: Vec::new() };
        wire.stream.set_nodelay(true).map_err(|error| wire.error(error))?;
        wire.stream.set_write_timeout(Some(super::PATIENCE)).map_err(|error| wire.error(error))?;
        Ok(wire)
    }

    /// Another name for the peer.
    pub fn named(self, peer: String) -> Self {
        Wire { peer, ..self }
    }

    /// The connection.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// An error about the peer.
    pub fn error(&self, problem: impl ToString) -> Error {
        Error::peer(&self.peer, problem.to_string())
    }

    /// Sends a message.
    pub fn send(&mut self, message: &mut Message) -> Result<()> {
        self.stream.write_all(message.frame()).map_err(|error| self.error(lost(&error)))
    }

    /// Waits for a message of at most `most` words, for ever, and says what kind it is.
    pub fn receive(&mut self, most: usize) -> Result<(u32, Words<'_>)> {
        self.receive_before(None, most)
    }

    /// The same, of one that has `time` for the whole message.
    pub fn receive_within(&mut self, time: Duration, most: usize) -> Result<(u32, Words<'_>)> {
        self.receive_before(Some(Instant::now() + time), most)
    }

    fn receive_before(&mut self, end: Option<Instant>, most: usize) -> Result<(u32, Words<'_>)> {
        let mut length = [0];
        self.fill(&mut length, end)?;
        let length = length[0] as usize;
        if length == 0 || length > most {
            return Err(self.error(format!("sent a message of {length} words where 1 to {most} are expected")));
        }
        let mut room = std::mem::take(&mut self.room);
        room.resize(length, 0);
        let filled = self.fill(&mut room, end);
        self.room = room;
        filled?;
        Ok((self.room[0], Words(&self.room[1..])))
    }

    fn fill(&self, words: &mut [u32], end: Option<Instant>) -> Result<()> {
        let bytes = cast_slice_mut(words);
        let filled = match end {
            None => (&self.stream).read_exact(bytes),
            Some(end) => read_until(&self.stream, bytes, end),
        };
        filled.map_err(|error| self.error(lost(&error)))
    }
}

/// Fills `bytes` before `end`. A read's own timeout begins anew with every byte.
fn read_until(mut stream: &TcpStream, mut bytes: &mut [u8], end: Instant) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => bytes = &mut bytes[received..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.set_read_timeout(None)
}

/// `bytes`, which are whole words, wherever they lie.
pub fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}

/// What an error of a connection says to people.
pub fn lost(error: &std::io::Error) -> String {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    match error.kind() {
        UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted => "has gone away".into(),
        WouldBlock | TimedOut => "does not answer".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_that_comes_byte_by_byte_has_no_more_time_than_another() {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(door.local_addr().unwrap()).unwrap();
        let writer = thread::spawn(move || {
            let bytes = [30_u32.to_ne_bytes(), [0; 4]].concat();
            for byte in bytes.iter().chain(&[0; 60]) {
                if slow.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(30));
            }
        });
        let mut wire = Wire::new(door.accept().unwrap().0, "a stranger".into()).unwrap();
        let start = Instant::now();
        let error = wire.receive_within(Duration::from_millis(200), 100).unwrap_err().to_string();
        assert_eq!(error, "a stranger: does not answer");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        drop(wire);
        writer.join().unwrap();
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind: u32, number: u64, list: Vec<u32>, text in ".*") {
            let mut message = Message::default();
            message.begin(9).list(&[1]).begin(kind).number(number).list(&list).text(&text);
            let mut words = message.words();
            prop_assert_eq!(message.0[1], kind);
            prop_assert_eq!(words.number(), Some(number));
            prop_assert_eq!(words.list(), Some(&list[..]));
            prop_assert_eq!(words.text(), Some(text));
            prop_assert_eq!(words.end(), Some(()));
        }

        #[test]
        fn a_message_cut_short_is_none(list: Vec<u32>, cut: prop::sample::Index) {
            let mut message = Message::default();
            message.begin(0).list(&list);
            let Words(whole) = message.words();
            prop_assert_eq!(Words(&whole[..cut.index(whole.len())]).list(), None);
        }

        #[test]
        fn any_words_are_read_without_a_panic(words: Vec<u32>) {
            let mut list = Words(&words);
            while list.list().is_some() {}
            let mut text = Words(&words);
            while text.text().is_some() {}
        }
    }
}
