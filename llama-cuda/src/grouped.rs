//! The common form of the formats that have no kernels of their own: for every 16 weights an f32 scale, an f32 minimum and
//! 16 int8 codes. Exact: it is what [`Format::group`] says, in 24 bytes for 16.

use llama_core::format::Format;

/// Weights that share a scale.
const GROUP: usize = 16;
/// Bytes of a group: its codes, its scale, its minimum.
const GROUP_BYTES: usize = GROUP + 8;

/// Bytes of a row of `cols` weights.
pub(crate) fn row_bytes(cols: usize) -> usize {
    cols / GROUP * GROUP_BYTES
}

/// A row of `format`'s blocks as groups.
pub(crate) fn encode_row(format: Format, row: &[u8], out: &mut [u8]) {
    for (i, out) in out.chunks_exact_mut(2 * GROUP_BYTES).enumerate() {
        let group = format.group(row, i);
        for (half, out) in out.chunks_exact_mut(GROUP_BYTES).enumerate() {
            let codes = &group.codes[half * GROUP..][..GROUP];
            // -0 is what changes no sum: a format without minima adds nothing, not even the sign of zero.
            let min = if format.has_min() { group.min[half] } else { -0.0 };
            out[..GROUP].copy_from_slice(bytemuck::cast_slice(codes));
            out[GROUP..GROUP + 4].copy_from_slice(&group.scale[half].to_le_bytes());
            out[GROUP + 4..].copy_from_slice(&min.to_le_bytes());
        }
    }
}
