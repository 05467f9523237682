//! What a launch did: deterministic figures to hold a kernel's performance to, and the lines it executed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ir::Class;

/// Bytes of the unit in which global memory is fetched.
const SECTOR: u64 = 32;
/// Banks of shared memory, each four bytes wide.
const BANKS: u64 = 32;

/// Sums over a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions issued, once a warp (or part of one, where it diverged).
    pub warp_instructions: u64,
    /// Instructions executed, once a thread.
    pub thread_instructions: u64,
    /// Warp instructions by kind.
    pub classes: BTreeMap<Class, u64>,
    /// Bytes that threads asked for from global memory.
    pub global_bytes_read: u64,
    /// Sectors of 32 bytes that were touched for it, counted once an instruction.
    pub global_sectors_read: u64,
    /// Bytes that threads wrote to global memory.
    pub global_bytes_written: u64,
    /// Sectors touched for it.
    pub global_sectors_written: u64,
    /// Accesses to shared memory, in the passes that a device without bank conflicts would need.
    pub shared_passes: u64,
    /// Passes more than that.
    pub shared_conflicts: u64,
    /// Block-wide barriers.
    pub barriers: u64,
    /// `mma` instructions.
    pub mma: u64,
    /// `wgmma` instructions, once a warp.
    pub wgmma: u64,
    /// Bytes that bulk copies moved to or from shared memory.
    pub bulk_bytes: u64,
}

impl Counters {
    /// Counts a warp's access to global memory: the addresses, each of `bytes` bytes.
    pub(crate) fn global(&mut self, addresses: &[u64], bytes: usize, write: bool) {
        let sectors = distinct(addresses.iter().map(|address| address / SECTOR));
        let bytes = (addresses.len() * bytes) as u64;
        if write {
            self.global_sectors_written += sectors;
            self.global_bytes_written += bytes;
        } else {
            self.global_sectors_read += sectors;
            self.global_bytes_read += bytes;
        }
    }

    /// Counts a warp's access to shared memory. Wide accesses go in phases of 128 bytes: 16 lanes of 8, 8 lanes of 16.
    pub(crate) fn shared(&mut self, addresses: &[u64], bytes: usize) {
        for phase in addresses.chunks((128 / bytes.max(4)).max(1)) {
            let passes = bank_passes(phase, bytes as u64);
            self.shared_passes += 1;
            self.shared_conflicts += passes - 1;
        }
    }
}

/// How many different numbers there are among at most 32.
fn distinct(numbers: impl Iterator<Item = u64>) -> u64 {
    let (mut all, mut count, mut ascending) = ([0; 32], 0, true);
    for number in numbers {
        if count > 0 && all[count - 1] == number {
            continue;
        }
        ascending &= count == 0 || all[count - 1] < number;
        all[count] = number;
        count += 1;
    }
    if !ascending {
        let all = &mut all[..count];
        all.sort_unstable();
        count = all.chunk_by(|a, b| a == b).count();
    }
    count as u64
}

/// The most distinct words that one bank has to deliver: at most 32 words, or two for each of at most 32 addresses.
fn bank_passes(addresses: &[u64], bytes: u64) -> u64 {
    let (mut words, mut count) = ([0; 64], 0);
    for at in addresses {
        for word in at / 4..at.saturating_add(bytes).div_ceil(4) {
            words[count] = word;
            count += 1;
        }
    }
    let words = &mut words[..count];
    if !words.is_sorted() {
        words.sort_unstable();
    }
    let mut load = [0u64; BANKS as usize];
    words.chunk_by(|a, b| a == b).for_each(|same| load[(same[0] % BANKS) as usize] += 1);
    load.into_iter().max().unwrap_or(1).max(1)
}

/// How often each instruction of a kernel was executed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Line in the PTX text, the line, threads that executed it; in the order of the text.
    pub lines: Vec<(usize, Arc<str>, u64)>,
}

impl Coverage {
    /// Lines no thread executed.
    pub fn missed(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().filter(|(_, _, threads)| *threads == 0).map(|(line, text, _)| (*line, text.as_ref()))
    }

    /// Adds the counts of another launch of the same kernel.
    pub fn merge(&mut self, other: &Coverage) {
        if self.lines.is_empty() {
            self.lines.clone_from(&other.lines);
            return;
        }
        for (own, more) in self.lines.iter_mut().zip(&other.lines) {
            own.2 += more.2;
        }
    }
}

/// The outcome of a launch without findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Sums over the launch.
    pub counters: Counters,
    /// Which lines ran.
    pub coverage: Coverage,
}
