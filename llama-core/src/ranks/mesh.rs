//! Numbers between all ranks: each sends its own to the others and puts theirs where they belong.
//!
//! Every rank has a connection to every other, and all of them are served in turn without waiting for one: whoever sent
//! before it received would hang as soon as two ranks' numbers filled the buffers between them. Who has nothing to do spins for
//! a while, since the others are about to finish, then lets others run, then sleeps.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, cast_slice_mut};

use super::PATIENCE;
use super::cut::Place;
use super::wire::lost;
use crate::error::{Error, Result};

/// What a gathering takes without a system call's pause.
const SPIN: Duration = Duration::from_micros(50);
/// What a rank is late by when it shares its processor.
const YIELD: Duration = Duration::from_millis(2);
/// Between two looks at connections on which nothing has come for long.
const NAP: Duration = Duration::from_micros(100);

/// Where the numbers of each rank go: runs of one matrix, in the order in which the rank sends them.
pub trait Layout {
    /// How many runs a rank has.
    fn runs(&self, place: Place) -> usize;
    /// Its `i`-th.
    fn run(&self, place: Place, i: usize) -> Range<usize>;
}

/// Each rank has a cut of the columns.
pub struct Columns {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
}

impl Layout for Columns {
    fn runs(&self, _place: Place) -> usize {
        self.rows
    }

    fn run(&self, place: Place, i: usize) -> Range<usize> {
        let cut = place.cut(self.cols);
        i * self.cols + cut.start..i * self.cols + cut.end
    }
}

/// The connections of a rank to all others.
#[derive(Debug)]
pub struct Mesh {
    place: Place,
    links: Vec<Link>,
    /// Why there is no group any more.
    lost: Option<String>,
}

#[derive(Debug)]
struct Link {
    place: Place,
    stream: TcpStream,
    peer: String,
    transfer: Transfer,
}

/// How far one gathering has come on a link.
#[derive(Debug, Default, Clone, Copy)]
struct Transfer {
    /// Bytes, of how many.
    sent: usize,
    to_send: usize,
    /// Runs received, of how many, and bytes of the next.
    run: usize,
    runs: usize,
    within: usize,
}

impl Transfer {
    fn is_over(&self) -> bool {
        self.sent == self.to_send && self.run == self.runs
    }
}

impl Mesh {
    /// A rank's connections: rank, stream and name of each other rank.
    pub fn new(place: Place, others: Vec<(usize, TcpStream, String)>) -> Result<Self> {
        let link = |(rank, stream, peer): (usize, TcpStream, String)| {
            let ready = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
            ready.map_err(|error| Error::peer(&peer, error.to_string()))?;
            Ok(Link { place: place.of(rank), stream, peer, transfer: Transfer::default() })
        };
        Ok(Mesh { place, links: others.into_iter().map(link).collect::<Result<_>>()?, lost: None })
    }

    /// Which rank of how many.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The connections themselves, for who may have to end them while this waits.
    pub fn connections(&self) -> Result<Vec<TcpStream>> {
        let copy = |link: &Link| link.stream.try_clone().map_err(|error| Error::peer(&link.peer, error.to_string()));
        self.links.iter().map(copy).collect()
    }

    /// Puts `own` and what all others send into `all`.
    ///
    /// # Errors
    /// [`Error::Peer`] about a rank that went away or was silent for a minute. The group is lost then, and the others notice.
    pub fn all_gather(&mut self, own: &[f32], all: &mut [f32], layout: &impl Layout) -> Result<()> {
        self.keep(own, all, layout);
        let to_send = size_of_val(own);
        let transfer = |place| Transfer { to_send, runs: layout.runs(place), ..Transfer::default() };
        self.exchange(own, all, layout, transfer)
    }

    /// Puts them into `all` of rank 0; the others' `all` is not looked at.
    ///
    /// # Errors
    /// As [`Mesh::all_gather`].
    pub fn gather(&mut self, own: &[f32], all: &mut [f32], layout: &impl Layout) -> Result<()> {
        if self.place.rank == 0 {
            self.keep(own, all, layout);
            return self
                .exchange(&[], all, layout, |place| Transfer { runs: layout.runs(place), ..Transfer::default() });
        }
        let to_send = |place: Place| if place.rank == 0 { size_of_val(own) } else { 0 };
        self.exchange(own, all, layout, |place| Transfer { to_send: to_send(place), ..Transfer::default() })
    }

    fn keep(&self, own: &[f32], all: &mut [f32], layout: &impl Layout) {
        let mut at = 0;
        for range in (0..layout.runs(self.place)).map(|i| layout.run(self.place, i)) {
            let next = at + range.len();
            all[range].copy_from_slice(&own[at..next]);
            at = next;
        }
        assert_eq!(at, own.len(), "numbers of rank {}", self.place.rank);
    }

    fn exchange(
        &mut self,
        own: &[f32],
        all: &mut [f32],
        layout: &impl Layout,
        transfer: impl Fn(Place) -> Transfer,
    ) -> Result<()> {
        if let Some(lost) = &self.lost {
            return Err(Error::peer(format!("the group of {} ranks", self.place.ranks), lost));
        }
        self.links.iter_mut().for_each(|link| link.transfer = transfer(link.place));
        let mut waiting = Waiting::default();
        loop {
            let mut moved = false;
            for i in 0..self.links.len() {
                match self.links[i].advance(cast_slice(own), all, layout) {
                    Ok(some) => moved |= some,
                    Err(error) => return Err(self.lose(i, lost(&error))),
                }
            }
            let Some(late) = self.links.iter().position(|link| !link.transfer.is_over()) else { return Ok(()) };
            if !waiting.pause(moved) {
                return Err(self.lose(late, format!("has been silent for {} s", PATIENCE.as_secs())));
            }
        }
    }

    /// There is no going on without one: the others are left, too, and notice at once.
    fn lose(&mut self, link: usize, problem: String) -> Error {
        for link in &self.links {
            let _ = link.stream.shutdown(Shutdown::Both);
        }
        let peer = &self.links[link].peer;
        self.lost = Some(format!("has lost {peer}, which {problem}"));
        Error::peer(peer, problem)
    }
}

impl Link {
    /// Sends and receives what goes without waiting; whether anything went.
    fn advance(&mut self, own: &[u8], all: &mut [f32], layout: &impl Layout) -> std::io::Result<bool> {
        let Link { place, stream, transfer, .. } = self;
        let mut moved = false;
        while transfer.sent < transfer.to_send {
            let Some(sent) = some(stream.write(&own[transfer.sent..]))? else { break };
            transfer.sent += sent;
            moved = true;
        }
        while transfer.run < transfer.runs {
            let run = layout.run(*place, transfer.run);
            let bytes: &mut [u8] = &mut cast_slice_mut(&mut all[run])[transfer.within..];
            if !bytes.is_empty() {
                let Some(received) = some(stream.read(bytes))? else { break };
                transfer.within += received;
                moved = true;
                if received < bytes.len() {
                    continue;
                }
            }
            (transfer.run, transfer.within) = (transfer.run + 1, 0);
        }
        Ok(moved)
    }
}

/// How many bytes went; `None` where that would have to wait.
fn some(moved: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match moved {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How long nothing has moved.
#[derive(Default)]
struct Waiting(Option<Instant>);

impl Waiting {
    /// Lets time pass; `false` once too much has.
    fn pause(&mut self, moved: bool) -> bool {
        if moved {
            self.0 = None;
            return true;
        }
        let waited = self.0.get_or_insert_with(Instant::now).elapsed();
        match waited {
            short if short < SPIN => std::hint::spin_loop(),
            some if some < YIELD => std::thread::yield_now(),
            _ => std::thread::sleep(NAP),
        }
        waited < PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Meshes of ranks that know each other.
    fn meshes(ranks: usize) -> Vec<Mesh> {
        let mut others: Vec<Vec<(usize, TcpStream, String)>> = (0..ranks).map(|_| Vec::new()).collect();
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        for (a, b) in (0..ranks).flat_map(|b| (0..b).map(move |a| (a, b))) {
            let there = TcpStream::connect(door.local_addr().unwrap()).unwrap();
            others[a].push((b, there, format!("rank {b}")));
            others[b].push((a, door.accept().unwrap().0, format!("rank {a}")));
        }
        others.into_iter().enumerate().map(|(rank, others)| Mesh::new(Place { rank, ranks }, others).unwrap()).collect()
    }

    /// What each rank ends with when it starts with its columns of `whole`.
    fn gathered(whole: &[f32], layout: &Columns, ranks: usize, to_all: bool) -> Vec<Vec<f32>> {
        let rank = |mut mesh: Mesh| {
            let runs = (0..layout.rows).map(|i| layout.run(mesh.place(), i));
            let own: Vec<f32> = runs.flat_map(|run| whole[run].to_vec()).collect();
            let mut all = vec![f32::NAN; whole.len()];
            if to_all {
                mesh.all_gather(&own, &mut all, layout).unwrap();
            } else {
                mesh.gather(&own, &mut all, layout).unwrap();
            }
            all
        };
        thread::scope(|scope| {
            let ranks: Vec<_> = meshes(ranks).into_iter().map(|mesh| scope.spawn(|| rank(mesh))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| i as f32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn columns_come_together(rows in 0usize..20, cols in 1usize..300, ranks in 1usize..5) {
            let (whole, layout) = (numbers(rows * cols), Columns { rows, cols });
            for all in gathered(&whole, &layout, ranks, true) {
                prop_assert_eq!(&all, &whole);
            }
            prop_assert_eq!(&gathered(&whole, &layout, ranks, false)[0], &whole);
        }
    }

    #[test]
    fn more_than_fits_between_them() {
        let layout = Columns { rows: 300, cols: 16_384 };
        let whole = numbers(layout.rows * layout.cols);
        assert!(gathered(&whole, &layout, 3, true).iter().all(|all| *all == whole));
    }

    #[test]
    fn a_rank_that_goes_away_is_named_and_the_others_notice() {
        let mut meshes = meshes(3);
        drop(meshes.remove(1));
        let layout = Columns { rows: 1, cols: 6 };
        let errors: Vec<String> = thread::scope(|scope| {
            let ranks: Vec<_> = meshes
                .iter_mut()
                .map(|mesh| {
                    scope.spawn(|| mesh.all_gather(&[1.0, 2.0], &mut [0.0; 6], &layout).unwrap_err().to_string())
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert!(errors.iter().any(|error| error == "rank 1: has gone away"), "{errors:?}");
        let again = meshes[0].all_gather(&[1.0, 2.0], &mut [0.0; 6], &layout).unwrap_err().to_string();
        assert!(again.starts_with("the group of 3 ranks: has lost rank "), "{again}");
    }
}
