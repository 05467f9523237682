//! The blocks of a launch: one after the other, or all at once in a cooperative one; whose turn it is, and when nobody can
//! go on.
//!
//! Warps take turns. A turn ends when all of a warp's threads wait, when a *poll* failed (a strong load or an atomic that
//! found what it found before, an mbarrier's phase that is not complete), or after so many instructions that no loop may
//! keep others from running. Whatever another thread could be waiting for counts as a change; where round after round brings
//! none, those who still run spin for ever.

use super::Machine;
use super::block::{Block, State, Turn};
use crate::finding::Finding;

/// Rounds without a change after which spinning is a deadlock: programs may count a few tries before they give up.
const PATIENCE: u32 = 64;

pub(super) fn run(machine: &mut Machine<'_>) -> Result<(), Finding> {
    let blocks = machine.launch.blocks() as u32;
    if machine.launch.cooperative {
        let mut states: Vec<State> = (0..blocks).map(|linear| State::new(machine, linear)).collect();
        return run_together(machine, &mut states);
    }
    let mut state = State::new(machine, 0);
    for linear in 0..blocks {
        state.begin(machine, linear);
        run_together(machine, std::slice::from_mut(&mut state))?;
    }
    Ok(())
}

fn run_together(machine: &mut Machine<'_>, states: &mut [State]) -> Result<(), Finding> {
    let mut idle_rounds = 0;
    loop {
        let (changes, mut busy, mut polled) = (machine.changes, false, None);
        for (i, state) in states.iter_mut().enumerate() {
            let mut block = Block { machine, state };
            for warp in 0..block.state.warps.len() {
                match block.turn(warp)? {
                    Turn::Waits => {}
                    Turn::Polls => polled = Some((i, warp)),
                    Turn::Goes => busy = true,
                }
            }
        }
        let idle = !busy && machine.changes == changes;
        idle_rounds = if idle { idle_rounds + 1 } else { 0 };
        let stuck = idle && (polled.is_none() || idle_rounds > PATIENCE);
        if stuck {
            return end(machine, states, polled);
        }
    }
}

/// Nobody goes on: all have exited, or somebody waits in vain.
fn end(machine: &mut Machine<'_>, states: &mut [State], polled: Option<(usize, usize)>) -> Result<(), Finding> {
    if let Some((i, warp)) = polled {
        return Err(Block { machine, state: &mut states[i] }.spins(warp));
    }
    states.iter_mut().try_for_each(|state| Block { machine, state }.finish())
}
