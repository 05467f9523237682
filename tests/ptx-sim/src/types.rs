//! Fundamental types and state spaces (PTX ISA 5.1 and 5.2).

use crate::float::Format;

/// The type suffix of an instruction or declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the ISA's
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Type {
    /// The type a suffix such as `u32` names.
    pub fn named(name: &str) -> Option<Type> {
        use Type::*;
        let all = [Pred, B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, F16x2, Bf16, Bf16x2, F32, F64];
        all.into_iter().find(|ty| ty.name() == name)
    }

    /// The suffix, without its dot.
    pub fn name(self) -> &'static str {
        use Type::*;
        match self {
            Pred => "pred",
            B8 => "b8",
            B16 => "b16",
            B32 => "b32",
            B64 => "b64",
            U8 => "u8",
            U16 => "u16",
            U32 => "u32",
            U64 => "u64",
            S8 => "s8",
            S16 => "s16",
            S32 => "s32",
            S64 => "s64",
            F16 => "f16",
            F16x2 => "f16x2",
            Bf16 => "bf16",
            Bf16x2 => "bf16x2",
            F32 => "f32",
            F64 => "f64",
        }
    }

    /// Size in memory; a predicate has none but counts as one.
    pub fn bytes(self) -> usize {
        use Type::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    /// All ones over the type's width.
    pub fn mask(self) -> u64 {
        match self {
            Type::Pred => 1,
            _ => u64::MAX >> (64 - 8 * self.bytes()),
        }
    }

    /// Whether loads and conversions sign-extend.
    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// The format of one element and whether two are packed in a register; `None` for integers and bits.
    pub fn float(self) -> Option<(Format, bool)> {
        Some(match self {
            Type::F16 => (Format::F16, false),
            Type::F16x2 => (Format::F16, true),
            Type::Bf16 => (Format::Bf16, false),
            Type::Bf16x2 => (Format::Bf16, true),
            Type::F32 => (Format::F32, false),
            Type::F64 => (Format::F64, false),
            _ => return None,
        })
    }

    /// The type's value in 64 bits: the low bytes of `bits`, sign-extended if signed.
    pub fn extend(self, bits: u64) -> u64 {
        let unused = 64 - 8 * self.bytes() as u32;
        match self.is_signed() {
            true => (((bits << unused) as i64) >> unused) as u64,
            false => bits & self.mask(),
        }
    }
}

/// Where an address points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Space {
    Param,
    Global,
    Const,
    Shared,
    Local,
    Generic,
}

impl Space {
    /// The space a modifier names.
    pub fn named(name: &str) -> Option<Space> {
        Some(match name {
            "param" | "param::entry" => Space::Param,
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
            "local" => Space::Local,
            _ => return None,
        })
    }
}
