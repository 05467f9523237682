//! Floating-point formats: little-endian numbers, one after the other, at any address.
//!
//! Narrowing rounds to nearest, ties to even, and overflows to infinity, as IEEE 754 and NumPy do.

/// Decodes numbers of `N` bytes.
pub(super) fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = number(bytes);
    }
}

/// Encodes numbers of `N` bytes.
pub(super) fn encode<const N: usize>(x: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, &x) in out.as_chunks_mut().0.iter_mut().zip(x) {
        *out = bytes(x);
    }
}
