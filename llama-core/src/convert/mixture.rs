//! Which tensor of a model gets which format: ggml's mixtures.
//!
//! A mixture is named after the format that most matrices get. Those that hurt most when they are rounded get more bits: the head
//! first, then values and `down`, and of these the ones in the first and last layers. Which those are is llama.cpp's choice
//! (`src/llama-quant.cpp`), so that a name means the same in both, except that embeddings are not rounded below four bits.

use std::str::FromStr;

use crate::checkpoint::Name;
use crate::config::{Config, Head};
use crate::error::{Error, Result, by_name};
use crate::format::Format;

/// How a whole model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)]
pub enum Mixture {
    /// One format; the head in Q6_K where that has more bits.
    Plain(Format),
    Q2_K,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
}

use Mixture::*;

impl Mixture {
    /// Every mixture that has a name: from the most bits to the least, floats first.
    pub const ALL: [Mixture; 29] = [
        Plain(Format::F32),
        Plain(Format::BF16),
        Plain(Format::F16),
        Plain(Format::Q8_0),
        Plain(Format::Q6_K),
        Q5_K_M,
        Q5_K_S,
        Plain(Format::Q5_1),
        Plain(Format::Q5_0),
        Q4_K_M,
        Q4_K_S,
        Plain(Format::Q4_1),
        Plain(Format::Q4_0),
        Plain(Format::IQ4_NL),
        Plain(Format::IQ4_XS),
        Plain(Format::MXFP4),
        Q3_K_L,
        Q3_K_M,
        Q3_K_S,
        Plain(Format::IQ3_S),
        Plain(Format::IQ3_XXS),
        Q2_K,
        Plain(Format::IQ2_S),
        Plain(Format::IQ2_XS),
        Plain(Format::IQ2_XXS),
        Plain(Format::TQ2_0),
        Plain(Format::TQ1_0),
        Plain(Format::IQ1_M),
        Plain(Format::IQ1_S),
    ];

    /// Its name, ggml's.
    pub fn name(self) -> &'static str {
        match self {
            Plain(format) => format.name(),
            Q2_K => "Q2_K",
            Q3_K_S => "Q3_K_S",
            Q3_K_M => "Q3_K_M",
            Q3_K_L => "Q3_K_L",
            Q4_K_S => "Q4_K_S",
            Q4_K_M => "Q4_K_M",
            Q5_K_S => "Q5_K_S",
            Q5_K_M => "Q5_K_M",
        }
    }

    /// The format of most matrices.
    pub fn base(self) -> Format {
        match self {
            Plain(format) => format,
            Q2_K => Format::Q2_K,
            Q3_K_S | Q3_K_M | Q3_K_L => Format::Q3_K,
            Q4_K_S | Q4_K_M => Format::Q4_K,
            Q5_K_S | Q5_K_M => Format::Q5_K,
        }
    }

    /// The format of a tensor that holds the matrices `names`, if its columns are whole blocks of it; what else it gets then is
    /// [`fitting`]'s to say.
    pub(super) fn format(self, names: &[Name], config: &Config) -> Format {
        let base = self.base();
        let logits = if config.head == Head::Tied { Name::Embed } else { Name::Head };
        let &[name] = names else { return self.fused(names[0]) };
        match name {
            _ if !base.is_quantised() => base,
            _ if name == logits => {
                if base == Format::Q8_0 {
                    base
                } else {
                    Format::Q6_K
                }
            }
            Name::Embed if is_tiny(base) => Format::Q4_K,
            Name::V(layer) => self.values(layer, config),
            Name::O(_) => self.output(),
            Name::Down(layer) => self.down(layer, config.layers),
            _ => base,
        }
    }

    /// The format of a tensor that holds several matrices, of which `first` is the first: values are one third of a tensor with
    /// queries and keys, or less.
    fn fused(self, first: Name) -> Format {
        match self {
            Q3_K_M | Q3_K_L if first.is_rotated() => Format::Q4_K,
            Q4_K_M if first.is_rotated() => Format::Q5_K,
            Q5_K_M if first.is_rotated() => Format::Q6_K,
            _ => self.base(),
        }
    }

    /// Eight heads share the values of a 70B: they are so few that more bits cost nothing.
    fn values(self, layer: usize, config: &Config) -> Format {
        match self.values_by_layer(layer, config) {
            Format::Q3_K | Format::Q4_K if config.layers == LAYERS_OF_70B => Format::Q5_K,
            format => format,
        }
    }

    fn values_by_layer(self, layer: usize, config: &Config) -> Format {
        match self {
            Q2_K if config.heads / config.kv_heads >= 4 => Format::Q4_K,
            Q2_K => Format::Q3_K,
            Q3_K_M if layer < 2 => Format::Q5_K,
            Q3_K_M => Format::Q4_K,
            Q3_K_L => Format::Q5_K,
            Q4_K_S if layer < 4 => Format::Q5_K,
            Q4_K_M | Q5_K_M if deserves_more(layer, config.layers) => Format::Q6_K,
            _ => self.base(),
        }
    }

    fn output(self) -> Format {
        match self {
            Q2_K => Format::Q3_K,
            Q3_K_M => Format::Q4_K,
            Q3_K_L => Format::Q5_K,
            _ => self.base(),
        }
    }

    fn down(self, layer: usize, layers: usize) -> Format {
        match self {
            Q2_K => Format::Q3_K,
            Q3_K_M if layer < layers / 16 => Format::Q5_K,
            Q3_K_M => Format::Q4_K,
            Q3_K_L => Format::Q5_K,
            Q4_K_S if layer < layers / 8 => Format::Q5_K,
            Q4_K_M | Q5_K_M if deserves_more(layer, layers) => Format::Q6_K,
            _ => self.base(),
        }
    }

    /// The number of `general.file_type` (llama.h, `enum llama_ftype`), where there is one.
    pub(super) fn file_type(self) -> Option<u32> {
        Some(match self {
            Plain(Format::F32) => 0,
            Plain(Format::F16) => 1,
            Plain(Format::Q4_0) => 2,
            Plain(Format::Q4_1) => 3,
            Plain(Format::Q8_0) => 7,
            Plain(Format::Q5_0) => 8,
            Plain(Format::Q5_1) => 9,
            Q2_K => 10,
            Q3_K_S => 11,
            Q3_K_M => 12,
            Q3_K_L => 13,
            Q4_K_S => 14,
            Q4_K_M => 15,
            Q5_K_S => 16,
            Q5_K_M => 17,
            Plain(Format::Q6_K) => 18,
            Plain(Format::IQ2_XXS) => 19,
            Plain(Format::IQ2_XS) => 20,
            Plain(Format::IQ3_XXS) => 23,
            Plain(Format::IQ1_S) => 24,
            Plain(Format::IQ4_NL) => 25,
            Plain(Format::IQ3_S) => 26,
            Plain(Format::IQ2_S) => 28,
            Plain(Format::IQ4_XS) => 30,
            Plain(Format::IQ1_M) => 31,
            Plain(Format::BF16) => 32,
            Plain(Format::TQ1_0) => 36,
            Plain(Format::TQ2_0) => 37,
            _ => return None,
        })
    }
}

impl FromStr for Mixture {
    type Err = Error;

    /// By its name, in any case; Q3_K, Q4_K and Q5_K are the middle ones, as in llama.cpp.
    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_uppercase().as_str() {
            "Q3_K" => Ok(Q3_K_M),
            "Q4_K" => Ok(Q4_K_M),
            "Q5_K" => Ok(Q5_K_M),
            upper => by_name("to", upper, Mixture::ALL, Mixture::name),
        }
    }
}

/// By which llama.cpp knows a 70B.
const LAYERS_OF_70B: usize = 80;

/// The first and last eighth of the layers, and every third between.
fn deserves_more(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// Whether a format has so few bits that an embedding needs others.
fn is_tiny(format: Format) -> bool {
    use Format::*;
    matches!(format, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | TQ1_0 | TQ2_0)
}

/// `format`, or where `cols` are not whole blocks of it, one of blocks of 32 with at least as many bits, or `float`.
pub(super) fn fitting(format: Format, cols: usize, float: Format) -> Format {
    let narrower = match format {
        Format::Q6_K => Format::Q8_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q4_K => Format::Q5_0,
        _ => Format::IQ4_NL,
    };
    let fits = |format: &Format| cols.is_multiple_of(format.block_len());
    [format, narrower].into_iter().find(fits).unwrap_or(float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for mixture in Mixture::ALL {
            assert_eq!(mixture.name().parse::<Mixture>().unwrap(), mixture);
            assert_eq!(mixture.name().to_lowercase().parse::<Mixture>().unwrap(), mixture);
        }
        assert_eq!("q4_k".parse::<Mixture>().unwrap(), Q4_K_M);
        let error = "Q9".parse::<Mixture>().unwrap_err().to_string();
        assert!(error.contains("Q9") && error.contains("Q4_K_M"), "{error}");
    }

    #[test]
    fn more_bits_go_to_the_ends_and_to_every_third() {
        let of = |layers| (0..layers).filter(|&layer| deserves_more(layer, layers)).collect::<Vec<_>>();
        assert_eq!(of(16), [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(of(1), [0]);
    }

    /// What llama.cpp gives values and `down` of Llama 2 7B and of a 70B, in the first layer, the third, and one in the middle.
    #[test]
    fn values_and_down_get_what_llama_cpp_gives_them() {
        use Format::{Q3_K, Q4_K, Q5_K, Q6_K};
        let of = |mixture: Mixture, layers: usize, kv_heads: usize| {
            let config = Config { layers, heads: 32, kv_heads, ..Config::of_tests() };
            [Name::V as fn(usize) -> Name, Name::Down]
                .map(|name| [0, 2, 20].map(|layer| mixture.format(&[name(layer)], &config)))
        };
        assert_eq!(of(Q2_K, 32, 32), [[Q3_K; 3], [Q3_K; 3]]);
        assert_eq!(of(Q3_K_S, 32, 32), [[Q3_K; 3], [Q3_K; 3]]);
        assert_eq!(of(Q3_K_M, 32, 32), [[Q5_K, Q4_K, Q4_K], [Q5_K, Q4_K, Q4_K]]);
        assert_eq!(of(Q3_K_L, 32, 32), [[Q5_K; 3], [Q5_K; 3]]);
        assert_eq!(of(Q4_K_S, 32, 32), [[Q5_K, Q5_K, Q4_K], [Q5_K, Q5_K, Q4_K]]);
        assert_eq!(of(Q4_K_M, 32, 32), [[Q6_K, Q6_K, Q4_K], [Q6_K, Q6_K, Q4_K]]);
        assert_eq!(of(Q5_K_M, 32, 32), [[Q6_K, Q6_K, Q5_K], [Q6_K, Q6_K, Q5_K]]);
        assert_eq!(of(Q2_K, 80, 4), [[Q5_K; 3], [Q3_K; 3]]);
        assert_eq!(of(Q3_K_S, 80, 4), [[Q5_K; 3], [Q3_K; 3]]);
        assert_eq!(of(Q4_K_M, 80, 4), [[Q6_K, Q6_K, Q5_K], [Q6_K, Q6_K, Q4_K]]);
    }

    #[test]
    fn odd_rows_get_smaller_blocks_or_floats() {
        assert_eq!(fitting(Format::Q4_K, 512, Format::F16), Format::Q4_K);
        assert_eq!(fitting(Format::Q4_K, 576, Format::F16), Format::Q5_0);
        assert_eq!(fitting(Format::Q6_K, 96, Format::F16), Format::Q8_0);
        assert_eq!(fitting(Format::IQ2_XS, 32, Format::F16), Format::IQ4_NL);
        assert_eq!(fitting(Format::Q4_0, 172, Format::BF16), Format::BF16);
        assert_eq!(fitting(Format::F32, 1, Format::F16), Format::F32);
    }
}
