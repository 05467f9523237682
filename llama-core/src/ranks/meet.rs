//! How ranks find each other: followers come to the leader, who tells each of them where the others are.
//!
//! A follower greets with the port at which it can be reached, and waits. When all are there, the leader gives each a rank,
//! the addresses of all, and a number by which they know each other. Then every rank connects to those after it. Whoever
//! comes and does not greet as a follower does is let go, and nothing else happens.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::cut::Place;
use super::mesh::Mesh;
use super::wire::{Message, Wire, Words};
use crate::error::{Error, Result};

/// More ranks than heads are of no use to any model there is.
pub const MAX_RANKS: usize = 128;

/// `"LLMR"`, and in another order of bytes something else.
const GREETING: u32 = 0x4C4C_4D52;
/// What ranks say to each other; those of other versions are refused.
const VERSION: u32 = 1;
const WELCOME: u32 = 1;
const REFUSED: u32 = 2;

/// Words of the longest message here: addresses of all ranks.
const LONGEST: usize = 64 * MAX_RANKS + 16;
/// How long a greeting may take.
const GREETS_WITHIN: Duration = Duration::from_secs(5);
/// How often somebody looks whether a connection has come, or whether a leader is there already.
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// The first rank, which has the engine, and its connections to all others.
#[derive(Debug)]
pub struct Leader {
    pub(super) mesh: Mesh,
    pub(super) followers: Vec<Wire>,
}

impl Leader {
    /// Waits at `door` until `ranks - 1` followers have joined. It waits as long as it takes.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no ranks or more than [`MAX_RANKS`]; [`Error::Peer`] about the door, or a follower that went away.
    pub fn wait(door: &TcpListener, ranks: usize) -> Result<Self> {
        if !(1..=MAX_RANKS).contains(&ranks) {
            return Err(Error::parameter("ranks", ranks, format!("must be from 1 to {MAX_RANKS}")));
        }
        let mut joined = Vec::new();
        while joined.len() + 1 < ranks {
            let (stream, address) =
                door.accept().map_err(|error| Error::peer("the leader's door", error.to_string()))?;
            // A stranger's errors are a stranger's.
            if let Ok((wire, port)) = greeted(stream, address) {
                let rank = joined.len() + 1;
                joined.push((wire.named(format!("rank {rank} at {address}")), SocketAddr::new(address.ip(), port)));
            }
        }
        let group = RandomState::new().build_hasher().finish();
        let (mut followers, addresses): (Vec<Wire>, Vec<SocketAddr>) = joined.into_iter().unzip();
        for (i, wire) in followers.iter_mut().enumerate() {
            let mut welcome = Message::default();
            welcome.begin(WELCOME).word(i as u32 + 1).word(ranks as u32).number(group);
            addresses.iter().for_each(|address| {
                welcome.text(&address.to_string());
            });
            wire.send(&mut welcome)?;
        }
        let mesh = Mesh::new(Place { rank: 0, ranks }, connect(0, &addresses, group)?)?;
        Ok(Leader { mesh, followers })
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.mesh.place().ranks
    }
}

/// A rank that computes what its leader says.
#[derive(Debug)]
pub struct Follower {
    pub(super) mesh: Mesh,
    pub(super) leader: Wire,
}

impl Follower {
    /// Joins the leader at `address`, for whom it waits a minute, and then for the other followers as long as it takes.
    ///
    /// # Errors
    /// [`Error::Peer`] with what is wrong: no leader, one of another version, a rank that cannot be reached.
    pub fn join(address: &str) -> Result<Self> {
        let mut leader = Wire::new(reach(address)?, format!("the leader at {address}"))?;
        let here = leader.stream().local_addr().map_err(|error| leader.error(error))?;
        let local = |error: std::io::Error| Error::peer(format!("this rank at {}", here.ip()), error.to_string());
        let door = TcpListener::bind((here.ip(), 0)).map_err(local)?;
        let port = door.local_addr().map_err(local)?.port();
        leader.send(Message::default().begin(GREETING).word(VERSION).word(u32::from(port)))?;

        let welcome = match leader.receive(LONGEST)? {
            (WELCOME, words) => Welcome::read(words),
            (REFUSED, mut words) => {
                let why = words.text().unwrap_or_default();
                return Err(leader.error(why));
            }
            _ => None,
        };
        let welcome = welcome.ok_or_else(|| leader.error("does not welcome as a leader does"))?;
        let Welcome { place, group, addresses } = welcome;
        let mut others = admit(&door, place.rank, group, PATIENCE).map_err(local)?;
        others.extend(connect(place.rank, &addresses, group)?);
        Ok(Follower { mesh: Mesh::new(place, others)?, leader })
    }

    /// Its number, from 1, and how many ranks there are.
    pub fn rank(&self) -> (usize, usize) {
        let Place { rank, ranks } = self.mesh.place();
        (rank, ranks)
    }
}

struct Welcome {
    place: Place,
    group: u64,
    /// Of ranks 1 and up.
    addresses: Vec<SocketAddr>,
}

impl Welcome {
    fn read(mut words: Words<'_>) -> Option<Welcome> {
        let place = Place { rank: words.word()? as usize, ranks: words.word()? as usize };
        if place.ranks > MAX_RANKS || !(1..place.ranks).contains(&place.rank) {
            return None;
        }
        let group = words.number()?;
        let addresses: Option<Vec<_>> = (1..place.ranks).map(|_| words.text()?.parse().ok()).collect();
        words.end()?;
        Some(Welcome { place, group, addresses: addresses? })
    }
}

/// A follower's greeting: its connection and its port.
fn greeted(stream: TcpStream, address: SocketAddr) -> Result<(Wire, u16)> {
    let mut wire = Wire::new(stream, address.to_string())?;
    let greeting = match wire.receive_within(GREETS_WITHIN, LONGEST)? {
        (GREETING, mut words) => (words.word(), words.word().and_then(|port| u16::try_from(port).ok())),
        (kind, _) if kind == GREETING.swap_bytes() => (None, None),
        _ => return Err(wire.error("does not greet as a follower does")),
    };
    let (Some(VERSION), Some(port)) = greeting else {
        let why =
            format!("speaks version {VERSION} of the ranks' language, in another order of bytes or version than this");
        wire.send(Message::default().begin(REFUSED).text(&why))?;
        return Err(wire.error("speaks another version"));
    };
    Ok((wire, port))
}

/// Connections from `rank` to all ranks after it; `addresses` begin with rank 1's.
fn connect(rank: usize, addresses: &[SocketAddr], group: u64) -> Result<Vec<(usize, TcpStream, String)>> {
    let later = addresses.iter().enumerate().skip(rank);
    let link = |(i, address): (usize, &SocketAddr)| {
        let peer = format!("rank {} at {address}", i + 1);
        let unreachable = |error: std::io::Error| Error::peer(&peer, format!("cannot be reached: {error}"));
        let stream = TcpStream::connect_timeout(address, PATIENCE).map_err(unreachable)?;
        let mut wire = Wire::new(stream.try_clone().map_err(unreachable)?, peer.clone())?;
        wire.send(Message::default().begin(GREETING).number(group).word(rank as u32))?;
        Ok((i + 1, stream, peer))
    };
    later.map(link).collect()
}

/// Connections from all ranks before `rank`, who come to `door` and know the `group`. Whoever else comes, they have `time`.
fn admit(
    door: &TcpListener,
    rank: usize,
    group: u64,
    time: Duration,
) -> std::io::Result<Vec<(usize, TcpStream, String)>> {
    door.set_nonblocking(true)?;
    let mut others: Vec<(usize, TcpStream, String)> = Vec::new();
    let start = Instant::now();
    while others.len() < rank {
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() {
            let problem = format!("{} of {rank} ranks before this one came within {} s", others.len(), time.as_secs());
            return Err(std::io::Error::new(ErrorKind::TimedOut, problem));
        }
        match door.accept() {
            Ok((stream, address)) => {
                let (Ok(()), Ok(copy)) = (stream.set_nonblocking(false), stream.try_clone()) else { continue };
                let known = |other: &usize| *other < rank && others.iter().all(|(known, ..)| known != other);
                if let Some(other) = member(copy, group, left.min(GREETS_WITHIN)).filter(known) {
                    others.push((other, stream, format!("rank {other} at {address}")));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOKS_EVERY),
            Err(error) => return Err(error),
        }
    }
    Ok(others)
}

/// The rank of somebody who belongs to `group`, and says so in `time`.
fn member(stream: TcpStream, group: u64, time: Duration) -> Option<usize> {
    let mut wire = Wire::new(stream, String::new()).ok()?;
    let (GREETING, mut words) = wire.receive_within(time, LONGEST).ok()? else { return None };
    let (theirs, rank) = (words.number()?, words.word()? as usize);
    words.end()?;
    (theirs == group).then_some(rank)
}

/// A connection to the leader, who may not be there yet.
fn reach(address: &str) -> Result<TcpStream> {
    let unreachable = |error: std::io::Error| Error::peer(format!("the leader at {address}"), error.to_string());
    let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(unreachable)?.collect();
    let start = Instant::now();
    loop {
        let mut last = std::io::Error::other("has no address");
        for address in &addresses {
            match TcpStream::connect_timeout(address, GREETS_WITHIN) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        if start.elapsed() > PATIENCE {
            return Err(unreachable(last));
        }
        thread::sleep(10 * LOOKS_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn door() -> (TcpListener, SocketAddr) {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        (door, address)
    }

    /// A leader and its followers, after `before` was done to the leader's address.
    fn met(ranks: usize, before: impl FnOnce(SocketAddr)) -> (Leader, Vec<Follower>) {
        let (door, address) = door();
        thread::scope(|scope| {
            let leader = scope.spawn(move || Leader::wait(&door, ranks).unwrap());
            before(address);
            let join = move || Follower::join(&address.to_string()).unwrap();
            let followers: Vec<_> = (1..ranks).map(|_| scope.spawn(join)).collect();
            let followers = followers.into_iter().map(|follower| follower.join().unwrap()).collect();
            (leader.join().unwrap(), followers)
        })
    }

    #[test]
    fn everybody_has_a_rank() {
        let (leader, followers) = met(4, |_| ());
        assert_eq!(leader.ranks(), 4);
        let mut ranks: Vec<_> = followers.iter().map(Follower::rank).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, [(1, 4), (2, 4), (3, 4)]);
    }

    #[test]
    fn strangers_are_let_go() {
        let strange = |address| {
            for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xFF; 64], &[4, 0, 0], b""] {
                let mut stranger = TcpStream::connect(address).unwrap();
                stranger.write_all(words).unwrap();
                stranger.shutdown(std::net::Shutdown::Write).unwrap();
            }
        };
        assert_eq!(met(2, strange).0.ranks(), 2);
    }

    #[test]
    fn another_version_is_told_so() {
        let other = |address| {
            let mut wire = Wire::new(TcpStream::connect(address).unwrap(), "the leader".into()).unwrap();
            wire.send(Message::default().begin(GREETING).word(VERSION + 1).word(1)).unwrap();
            let (kind, mut words) = wire.receive(LONGEST).unwrap();
            assert_eq!(kind, REFUSED);
            assert!(words.text().unwrap().contains("version"));
        };
        met(2, other);
    }

    #[test]
    fn who_does_not_know_the_group_is_not_admitted() {
        let (door, address) = door();
        let mut wires = Vec::new();
        for (group, rank) in [(8, 0), (7, 9), (7, 0), (7, 0), (7, 1)] {
            let mut wire = Wire::new(TcpStream::connect(address).unwrap(), "a rank".into()).unwrap();
            wire.send(Message::default().begin(GREETING).number(group).word(rank)).unwrap();
            wires.push(wire);
        }
        let mut others: Vec<_> = admit(&door, 2, 7, PATIENCE).unwrap().into_iter().map(|(rank, ..)| rank).collect();
        others.sort_unstable();
        assert_eq!(others, [0, 1]);
    }

    /// The time is theirs all together: a stranger who comes again and again does not begin it anew.
    #[test]
    fn strangers_do_not_keep_a_rank_waiting() {
        let (door, address) = door();
        let (waits, time) = (AtomicBool::new(true), Duration::from_millis(200));
        thread::scope(|scope| {
            for says in [&[][..], b"GET / HTTP/1.1\r\n\r\n"] {
                let waits = &waits;
                scope.spawn(move || {
                    let mut here = Vec::new();
                    for _ in (0..2000).take_while(|_| waits.load(Ordering::Relaxed)) {
                        here.extend(TcpStream::connect(address).and_then(|mut stream| {
                            stream.write_all(says)?;
                            Ok(stream)
                        }));
                        here.drain(..here.len().saturating_sub(2));
                        thread::sleep(Duration::from_millis(5));
                    }
                });
            }
            let start = Instant::now();
            let error = admit(&door, 1, 7, time).unwrap_err();
            waits.store(false, Ordering::Relaxed);
            assert_eq!(error.to_string(), "0 of 1 ranks before this one came within 0 s");
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        });
    }

    #[test]
    fn a_leader_that_is_none() {
        let (door, address) = door();
        let answer = thread::spawn(move || {
            let (mut stream, _) = door.accept().unwrap();
            let _ = stream.read(&mut [0; 64]);
            stream.write_all(&[1, 0, 0, 0, 77, 0, 0, 0]).unwrap();
        });
        let error = Follower::join(&address.to_string()).unwrap_err().to_string();
        assert_eq!(error, format!("the leader at {address}: does not welcome as a leader does"));
        answer.join().unwrap();
    }

    #[test]
    fn what_is_no_address_is_said_at_once() {
        let error = Follower::join("localhost").unwrap_err().to_string();
        assert!(error.starts_with("the leader at localhost: invalid"), "{error}");
    }

    #[test]
    fn numbers_of_ranks() {
        let (door, _) = door();
        assert_eq!(Leader::wait(&door, 1).unwrap().ranks(), 1);
        for ranks in [0, MAX_RANKS + 1] {
            assert!(matches!(Leader::wait(&door, ranks), Err(Error::Parameter { name: "ranks", .. })));
        }
    }
}
