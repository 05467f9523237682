//! What the ISA does not say about matrix products and the backend relies on: that an element of the result is a function of its own
//! row, column and addend, wherever in the tile they lie and whatever lies beside them; and that `wgmma` gives the bits of
//! `mma.sync`. Without the first a token's result would depend on the batch around it, without the second on which kernel the
//! batch's size picks.
//!
//! In fragments (PTX ISA 9.7.14.5, m16n8k16) lane 4 g + q holds inputs 2q, 2q + 1 and those eight further on, of rows g and g + 8 of a
//! (`a0` to `a3`), of column g of b (`b0`, `b1`), and of the sums columns 2q and 2q + 1 of both rows.

use crate::case::{Case, Needs};
use crate::cases::{mma, wgmma};
use crate::machine::{Gpu, Machine, RunError};
use crate::values::{Domain, Rng};

/// Operands of a lane: four registers of a, two of b, four of c.
const WIDTH: usize = 10;
/// Results of a lane: four sums and what they are judged by.
const RESULTS: usize = 5;
const LANES: usize = 32;

/// Tiles that are tried.
const TILES: usize = 4096;

/// Operands over every magnitude that does not overflow: sums then round at every term.
fn domain(ty: &str) -> Domain {
    if ty == "bf16" { Domain::ModestPair(8, 7) } else { Domain::ModestPair(5, 10) }
}

/// An element of the 16 x 8 sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Element {
    row: usize,
    column: usize,
}

impl Element {
    fn random(rng: &mut Rng) -> Self {
        Element { row: rng.below(16) as usize, column: rng.below(8) as usize }
    }

    /// Where its sum lies: lane and register.
    fn place(self) -> (usize, usize) {
        (4 * (self.row % 8) + self.column / 2, 2 * (self.row / 8) + self.column % 2)
    }

    /// Copies its row of a, its column of b and its addend from one tile to the place of another element in another.
    fn copy_to(self, other: Element, from: &[u64], to: &mut [u64]) {
        let mut copy = |source: (usize, usize), target: (usize, usize)| {
            to[target.0 * WIDTH + target.1] = from[source.0 * WIDTH + source.1];
        };
        for q in 0..4 {
            for part in [0, 2] {
                let lane_and_register = |e: Element| (4 * (e.row % 8) + q, part + e.row / 8);
                copy(lane_and_register(self), lane_and_register(other));
            }
            for part in [4, 5] {
                copy((4 * self.column + q, part), (4 * other.column + q, part));
            }
        }
        let addend = |e: Element| (e.place().0, 6 + e.place().1);
        copy(addend(self), addend(other));
    }
}

/// One element of each tile moves elsewhere, among other rows and columns: how many then have other bits, of how many.
///
/// Where several warps share the first one's b, only that one's tiles are looked at.
pub fn moved(machine: &impl Machine, case: &Case, tiles: usize) -> Result<(usize, usize), RunError> {
    let original = case.operands(tiles * LANES);
    let mut changed = Case { form: format!("{} (changed)", case.form), ..case.clone() }.operands(tiles * LANES);
    let mut rng = Rng(11);
    let elements: Vec<(Element, Element)> =
        (0..tiles).map(|_| (Element::random(&mut rng), Element::random(&mut rng))).collect();
    let tile = LANES * WIDTH;
    for (i, (here, there)) in elements.iter().enumerate() {
        here.copy_to(*there, &original[i * tile..][..tile], &mut changed[i * tile..][..tile]);
    }
    let (before, after) = (machine.run(case, &original)?, machine.run(case, &changed)?);
    let sum = |results: &[u64], i: usize, element: Element| {
        let (lane, register) = element.place();
        results[(i * LANES + lane) * RESULTS + register]
    };
    let differs =
        |(i, (here, there)): &(usize, &(Element, Element))| sum(&before, *i, *here) != sum(&after, *i, *there);
    let looked_at = || elements.iter().enumerate().step_by(case.threads as usize / LANES);
    Ok((looked_at().filter(differs).count(), looked_at().count()))
}

/// Of so many sums, how many have other bits from `wgmma` than from `mma.sync`. A warpgroup's four tiles share the first one's b.
pub fn asynchronous(machine: &impl Machine, ty: &str, tiles: usize) -> Result<(usize, usize), RunError> {
    let (synchronous, asynchronous) = (mma(ty, 16, domain(ty)), wgmma(ty, domain(ty)));
    let mut operands = synchronous.operands(tiles * LANES);
    for group in operands.chunks_exact_mut(4 * LANES * WIDTH) {
        let (first, others) = group.split_at_mut(LANES * WIDTH);
        for other in others.chunks_exact_mut(LANES * WIDTH) {
            (0..LANES).for_each(|lane| other[lane * WIDTH + 4..][..2].copy_from_slice(&first[lane * WIDTH + 4..][..2]));
        }
    }
    let (own, other) = (machine.run(&synchronous, &operands)?, machine.run(&asynchronous, &operands)?);
    let pairs = own.chunks_exact(RESULTS).zip(other.chunks_exact(RESULTS));
    let differing = pairs.flat_map(|(a, b)| a[..4].iter().zip(&b[..4])).filter(|(a, b)| a != b).count();
    Ok((differing, tiles * LANES * 4))
}

/// All of it, in words.
pub fn report(gpu: &Gpu, capability: (i32, i32)) -> String {
    let on_hopper = Needs::HopperAlone.met_by(capability);
    let types = ["bf16", "f16"];
    let mut lines: Vec<String> = types.map(|ty| places(gpu, &mma(ty, 16, domain(ty)))).to_vec();
    if !on_hopper {
        lines.push("wgmma: not on this device".to_owned());
        return lines.join("\n");
    }
    lines.extend(types.map(|ty| places(gpu, &wgmma(ty, domain(ty)))));
    lines.extend(types.map(|ty| match asynchronous(gpu, ty, TILES) {
        Ok((differing, all)) => format!("wgmma and mma.sync, {ty}: {differing} of {all} sums have other bits"),
        Err(error) => format!("wgmma and mma.sync, {ty}: {error}"),
    }));
    lines.join("\n")
}

fn places(machine: &impl Machine, case: &Case) -> String {
    match moved(machine, case, TILES) {
        Ok((differing, all)) => {
            format!("{}: {differing} of {all} elements depend on their place or neighbours", case.form)
        }
        Err(error) => format!("{}: {error}", case.form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Simulator;

    /// The simulator, with a device's fault.
    struct Faulty(fn(&[u64], &mut [u64]));

    impl Machine for Faulty {
        fn run(&self, case: &Case, operands: &[u64]) -> Result<Vec<u64>, RunError> {
            let mut results = Simulator.run(case, operands)?;
            let tiles = results.chunks_exact_mut(LANES * RESULTS).zip(operands.chunks_exact(LANES * WIDTH));
            tiles.for_each(|(results, operands)| (self.0)(operands, results));
            Ok(results)
        }
    }

    fn differing(fault: fn(&[u64], &mut [u64])) -> (usize, usize) {
        moved(&Faulty(fault), &mma("bf16", 16, domain("bf16")), 64).unwrap()
    }

    #[test]
    fn the_simulator_knows_no_neighbours() {
        assert_eq!(differing(|_, _| {}), (0, 64));
    }

    /// Two readings of the ISA, of fragments here and of descriptors there, that must meet.
    #[test]
    fn the_simulators_products_are_one() {
        for ty in ["bf16", "f16"] {
            assert_eq!(asynchronous(&Simulator, ty, 16).unwrap(), (0, 16 * 128), "{ty}");
        }
        assert_eq!(moved(&Simulator, &wgmma("bf16", domain("bf16")), 64).unwrap(), (0, 16));
    }

    #[test]
    fn a_leak_from_a_neighbour_is_seen() {
        // The last bit of every sum of a lane depends on the first register of the next lane.
        let leak = |operands: &[u64], results: &mut [u64]| {
            for lane in 0..LANES {
                let bit = operands[(lane + 4) % LANES * WIDTH] >> 3 & 1;
                results[lane * RESULTS..][..4].iter_mut().for_each(|sum| *sum ^= bit);
            }
        };
        let (seen, all) = differing(leak);
        assert!(seen > all / 4, "{seen} of {all}");
    }

    #[test]
    fn a_place_that_matters_is_seen() {
        let place = |_: &[u64], results: &mut [u64]| {
            (0..LANES / 2).for_each(|lane| results[lane * RESULTS..][..4].iter_mut().for_each(|sum| *sum ^= 1));
        };
        let (seen, all) = differing(place);
        assert!(seen > all / 4, "{seen} of {all}");
    }
}
