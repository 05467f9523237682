//! safetensors files that other programs wrote.

use std::path::{Path, PathBuf};

use llama_core::checkpoint::safetensors::File;
use llama_core::format::Format;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny").join(name)
}

#[test]
fn weights_and_references() {
    let file = File::open(tiny("gqa-9-3/model.safetensors")).unwrap();
    let k = file.find("model.layers.2.self_attn.k_proj.weight").unwrap();
    assert_eq!((k.dtype(), k.shape()), ("BF16", [48, 144].as_slice()));
    let view = file.view(k).unwrap();
    assert_eq!((view.format(), view.rows(), view.cols()), (Format::BF16, 48, 144));

    let file = File::open(tiny("gqa-9-3/reference.safetensors")).unwrap();
    let ids = file.find("input_ids").unwrap();
    assert_eq!((ids.dtype(), ids.shape(), file.data(ids).len()), ("I64", [2, 80].as_slice(), 2 * 80 * 8));
    let refused = file.view(ids).unwrap_err().to_string();
    assert!(
        refused.ends_with("reference.safetensors: tensor input_ids: is stored as I64; F32, F16 or BF16 was expected")
    );
    assert_eq!(file.view(file.find("logits").unwrap()).unwrap().rows(), 160);
}
