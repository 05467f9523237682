//! From a checkpoint's map to tiles on the device: blocks go through two page-locked buffers, so that one is filled while
//! the other is copied, and a kernel puts them in order there.

use std::sync::Arc;

use bytemuck::Zeroable;
use llama_core::Result;
use llama_core::checkpoint::TensorView;

use crate::arena::Arena;
use crate::device::{Device, Event, Pinned, Span};
use crate::grouped;
use crate::kernels::Kernels;
use crate::launch::Launch;
use crate::params::Repack;
use crate::tiles::{TILE_ROWS, Tiles};

/// Bytes of one buffer, if a row group is not larger.
const BUFFER: usize = 4 << 20;

/// One of the two: what the host fills, and where it goes on the device.
struct Lane {
    host: Pinned,
    device: Span,
    /// Passed when the host may fill it again.
    free: Event,
}

/// The buffers, made when the first weight comes and gone when the last has.
#[derive(Default)]
pub(crate) struct Uploader {
    lanes: Vec<Lane>,
    next: usize,
}

impl Uploader {
    /// Repacks `view` to `at`, where there are as many bytes as [`Tiles::matrix_bytes`] says.
    pub fn upload(
        &mut self,
        device: &Arc<Device>,
        kernels: &Kernels,
        view: &TensorView<'_>,
        mut at: u64,
    ) -> Result<()> {
        let form = Tiles::of(view.format());
        let row_bytes = raw_row_bytes(form, view);
        let rows =
            (BUFFER / row_bytes / TILE_ROWS * TILE_ROWS).clamp(TILE_ROWS, view.rows().next_multiple_of(TILE_ROWS));
        self.fit(device, rows * row_bytes)?;
        for first in (0..view.rows()).step_by(rows) {
            let rows = rows.min(view.rows() - first);
            let lane = &mut self.lanes[self.next];
            self.next ^= 1;
            lane.free.wait()?;
            fill(lane.host.bytes_mut(), form, &view.slice_rows(first..first + rows), row_bytes);
            lane.device.write_from(0, &lane.host, rows * row_bytes)?;
            repack(device, kernels, form, lane.device.address(), at, (rows, view.cols(), row_bytes))?;
            lane.free.record()?;
            at += form.matrix_bytes(rows, view.cols());
        }
        Ok(())
    }

    /// Makes buffers of at least `bytes`.
    fn fit(&mut self, device: &Arc<Device>, bytes: usize) -> Result<()> {
        if self.lanes.first().is_some_and(|lane| lane.host.bytes().len() >= bytes) {
            return Ok(());
        }
        self.lanes.clear();
        for _ in 0..2 {
            // Not from the arena: this memory is given back before a model runs.
            let device_side = Arena::default().span(device, "uploading weights", bytes as u64)?;
            self.lanes.push(Lane { host: Pinned::new(device, bytes)?, device: device_side, free: Event::new(device)? });
        }
        Ok(())
    }
}

/// Bytes of a row as it is uploaded.
fn raw_row_bytes(form: Tiles, view: &TensorView<'_>) -> usize {
    match form {
        Tiles::Grouped => grouped::row_bytes(view.cols()),
        _ => view.data().len() / view.rows(),
    }
}

fn fill(out: &mut [u8], form: Tiles, rows: &TensorView<'_>, row_bytes: usize) {
    match form {
        Tiles::Grouped => {
            let out = out.chunks_exact_mut(row_bytes);
            out.zip(0..rows.rows()).for_each(|(out, r)| grouped::encode_row(rows.format(), rows.row(r), out));
        }
        _ => out[..rows.data().len()].copy_from_slice(rows.data()),
    }
}

fn repack(
    device: &Device,
    kernels: &Kernels,
    form: Tiles,
    raw: u64,
    tiles: u64,
    (rows, inputs, row_bytes): (usize, usize, usize),
) -> Result<()> {
    let name = form.names().repack;
    let params = Repack {
        raw,
        tiles,
        rows: rows as u32,
        inputs: inputs as u32,
        row_bytes: row_bytes as u32,
        ..Repack::zeroed()
    };
    let grid = [form.across(inputs) as u32, rows.div_ceil(TILE_ROWS) as u32, 1];
    Launch::new(kernels.get(name)?, name, grid, &params).enqueue(device)
}
