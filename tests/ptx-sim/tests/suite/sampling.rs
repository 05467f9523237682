//! The sampling kernels against the CPU's sampler over many random settings, and over a vocabulary so large that a thread
//! has several chunks to search.

use crate::common::{parse, ptx, sample};

#[test]
#[ignore = "takes a minute or two"]
fn any_setting_picks_the_cpu_s_token() {
    let module = parse(&ptx("sample")).expect("shipped PTX");
    sample::many(&module).unwrap_or_else(|error| panic!("{error}"));
}
