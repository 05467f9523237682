//! Bad containers: what is wrong before any model is looked at.

use super::Case;
use super::folder;
use super::gguf::{Gguf, Tensor, Value, model, string};

type Cases = Vec<Case<Vec<u8>>>;

/// Lengths that overflow, exceed the file, or both.
const HUGE: [(&str, u64); 5] =
    [("2^31", 1 << 31), ("2^40", 1 << 40), ("2^48", 1 << 48), ("2^63", 1 << 63), ("2^64-1", u64::MAX)];

/// All bad containers.
pub fn cases() -> Cases {
    [front(), counts(), pairs(), values(), alignments(), table(), shapes(), places()].concat()
}

/// A good model with one change.
fn changed(name: impl Into<String>, says: &[&str], change: impl FnOnce(&mut Gguf)) -> Case<Vec<u8>> {
    let mut file = model();
    change(&mut file);
    Case::new(name, file.bytes(), says)
}

fn front() -> Cases {
    vec![
        Case::new("no byte", vec![], &["file: is empty"]),
        Case::new("three bytes", b"GGU".to_vec(), &["magic at byte 0"]),
        Case::new("magic alone", b"GGUF".to_vec(), &["version at byte 4"]),
        Case::new("ends in version", b"GGUF\x03\0".to_vec(), &["version at byte 4"]),
        Case::new("ends before counts", b"GGUF\x03\0\0\0".to_vec(), &["tensor_count at byte 8"]),
        Case::new("a pointer of LFS", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), &["git lfs pull"]),
        Case::new("a web page", b"<html><body>404</body></html>".to_vec(), &["web page", "download"]),
        Case::new("a .bin of PyTorch", b"PK\x03\x04\x14\0\0\0archive/data.pkl".to_vec(), &["PyTorch", "convert"]),
        Case::new("an older .pth", b"\x80\x02\x8a\nl\xfc\x9cF".to_vec(), &["PyTorch", "convert"]),
        Case::new("ggml of 2023", b"tjgg\x03\0\0\0".to_vec(), &["before August 2023", "convert"]),
        Case::new("config.json", b"{\"model_type\": \"llama\"}".to_vec(), &["JSON", "open the folder"]),
        Case::new("a blob of safetensors", folder::shard(&folder::TENSORS), &["safetensors without that ending"]),
        changed("magic of ggml", &["magic at byte 0"], |f| f.magic = *b"ggml"),
        changed("magic backwards", &["magic at byte 0"], |f| f.magic = *b"FUGG"),
        changed("version 0", &["version at byte 4"], |f| f.version = 0),
        changed("version 1", &["GGUF version 1", "version at byte 4"], |f| f.version = 1),
        changed("version 4", &["GGUF version 4", "version at byte 4"], |f| f.version = 4),
        changed("version 2^32-1", &["version at byte 4"], |f| f.version = u32::MAX),
        changed("big-endian", &["big-endian", "version at byte 4"], |f| f.version = 3u32.swap_bytes()),
    ]
}

fn counts() -> Cases {
    let mut cases = Vec::new();
    for (name, count) in HUGE {
        cases.push(changed(format!("{name} tensors"), &["tensor_count at byte 8"], |f| f.tensor_count = Some(count)));
        cases.push(changed(format!("{name} pairs"), &["metadata_kv_count at byte 16"], |f| f.pair_count = Some(count)));
    }
    let mut bare = Gguf::empty();
    bare.pair_count = Some(500_000_000);
    cases.push(Case::new("24 bytes that claim 5e8 pairs", bare.bytes(), &["metadata_kv_count at byte 16"]));
    cases.push(changed("one pair too many", &["at byte"], |f| f.pair_count = Some(f.pairs.len() as u64 + 1)));
    cases.push(changed("one pair too few", &["at byte"], |f| f.pair_count = Some(f.pairs.len() as u64 - 1)));
    cases.push(changed("one tensor too many", &["tensor 12 at byte"], |f| f.tensor_count = Some(13)));
    cases.push(changed("one tensor too few", &["end of file at byte"], |f| f.tensor_count = Some(11)));
    cases
}

/// A file whose only pair is `bytes`, with claims of one pair.
fn pair(name: impl Into<String>, says: &[&str], bytes: &[u8]) -> Case<Vec<u8>> {
    let mut file = Gguf::empty();
    file.pair_count = Some(1);
    file.tail = bytes.to_vec();
    Case::new(name, file.bytes(), says)
}

fn pairs() -> Cases {
    let mut cases = Vec::new();
    for (name, length) in HUGE {
        let bytes = [&length.to_le_bytes()[..], b"a key and more"].concat();
        cases.push(pair(format!("key of {name} bytes"), &["key 0 at byte 24"], &bytes));
    }
    let one_more = [&15u64.to_le_bytes()[..], b"fourteen bytes"].concat();
    cases.push(pair("key one byte longer than the file", &["key 0 at byte 24"], &one_more));
    cases.extend([
        changed("key twice", &["llama.block_count at byte", "twice"], |f| {
            f.pairs.push((b"llama.block_count".to_vec(), Value::u32(1)));
        }),
        changed("empty key", &["key 17 at byte"], |f| f.pairs.push((vec![], Value::u32(1)))),
        changed("key of 65536 bytes", &["key 17 at byte"], |f| f.pairs.push((vec![b'k'; 65_536], Value::u32(1)))),
        changed("key not UTF-8", &["key 17 at byte", "UTF-8"], |f| f.pairs.push((vec![b'k', 0xff], Value::u32(1)))),
    ]);
    cases
}

fn values() -> Cases {
    let mut cases = Vec::new();
    let mut add = |name: String, value: Value| {
        cases.push(changed(name, &["x.y", "at byte"], |f| f.pairs.push((b"x.y".to_vec(), value))));
    };
    for (name, length) in HUGE {
        add(format!("string of {name} bytes"), Value::raw(8, length.to_le_bytes()));
        add(format!("array of {name} u8"), Value::array(0, length, b"few"));
        add(format!("array of {name} f64"), Value::array(12, length, b"few"));
        add(format!("array of {name} strings"), Value::array(8, length, &string(b"one")));
        add(format!("array with a string of {name} bytes"), Value::array(8, 1, &length.to_le_bytes()));
    }
    for kind in [13, 255, u32::MAX] {
        add(format!("value type {kind}"), Value::raw(kind, [0; 8]));
        add(format!("element type {kind}"), Value::array(kind, 1, &[0; 8]));
    }
    for depth in [2usize, 64, 10_000, 200_000] {
        let nest = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(depth);
        add(format!("arrays nested {depth} deep"), Value::raw(9, nest));
    }
    add("value not UTF-8".into(), Value::raw(8, string(b"\xc3\x28")));
    add("element not UTF-8".into(), Value::array(8, 2, &[string(b"ok"), string(b"\xff")].concat()));
    add("bool of 2".into(), Value::raw(7, [2]));
    add("array with a bool of 2".into(), Value::array(7, 2, &[1, 2]));
    cases
}

fn alignments() -> Cases {
    let key = "general.alignment";
    let mut cases = Vec::new();
    for n in [0u32, 1, 3, 4, 24, 1 << 21, 1 << 31, u32::MAX] {
        cases.push(changed(format!("alignment {n}"), &[key, &n.to_string()], |f| {
            f.set(key, Value::u32(n));
        }));
    }
    for (name, value) in [
        ("i32", Value::raw(5, 32i32.to_le_bytes())),
        ("u64 of 2^63", Value::raw(10, (1u64 << 63).to_le_bytes())),
        ("string", Value::string("32")),
        ("f32", Value::f32(32.0)),
    ] {
        cases.push(changed(format!("alignment as {name}"), &[key, "u32 was expected"], |f| {
            f.set(key, value);
        }));
    }
    cases
}

/// A good model with one change to the output norm, its last tensor but one.
fn norm(name: impl Into<String>, says: &[&str], change: impl FnOnce(&mut Tensor)) -> Case<Vec<u8>> {
    changed(name, says, |f| change(f.tensor("output_norm.weight")))
}

fn table() -> Cases {
    let mut cases = vec![
        norm("tensor without a name", &["name of tensor 10 at byte"], |t| t.name.clear()),
        norm("tensor name of 65 bytes", &["name of tensor 10 at byte"], |t| t.name = vec![b'n'; 65]),
        norm("tensor name of 1 MB", &["name of tensor 10 at byte"], |t| t.name = vec![b'n'; 1_000_000]),
        norm("tensor name not UTF-8", &["name of tensor 10 at byte", "UTF-8"], |t| t.name = vec![0xff; 4]),
        norm("tensor twice", &["tensor output.weight at byte", "twice"], |t| t.name = b"output.weight".to_vec()),
    ];
    for kind in [4, 5, 9, 15, 26, 36, 40, 239, 9999, u32::MAX] {
        let says =
            ["type of tensor output_norm.weight at byte", &format!("is {kind}"), "these are: F32 (0), F16 (1), "];
        cases.push(norm(format!("tensor type {kind}"), &says, |t| t.kind = kind));
    }
    cases
}

fn shapes() -> Cases {
    let says = &["dimensions of tensor output_norm.weight at byte"];
    let mut cases = Vec::new();
    for count in [0, 5, 255, u32::MAX] {
        cases.push(norm(format!("{count} dimensions"), says, |t| t.dim_count = Some(count)));
    }
    for (kind, dims) in [
        (0, vec![0]),
        (0, vec![8, 0]),
        (0, vec![1 << 33, 1 << 33]),
        (0, vec![1 << 40, 1 << 40]),
        (0, vec![1 << 16; 4]),
        (0, vec![1 << 62]),
        (0, vec![1 << 63]),
        (0, vec![u64::MAX, 2]),
        (0, vec![(1 << 62) - 1, 2]),
        (2, vec![(1 << 63) - 32, 32]),
        (8, vec![(1 << 62), 32]),
        (2, vec![16]),
        (2, vec![16, 2]),
        (12, vec![128, 2]),
        (23, vec![255]),
    ] {
        cases.push(norm(format!("dimensions {dims:?} of type {kind}"), says, |t| (t.kind, t.dims) = (kind, dims)));
    }
    for (kind, dims) in [(0, vec![(1 << 61) - 1]), (2, vec![(1 << 63) - 32]), (8, vec![1 << 63])] {
        let name = format!("dimensions {dims:?} of type {kind}, which end past the file");
        cases.push(norm(name, &["tensor output", "at byte"], |t| (t.kind, t.dims) = (kind, dims)));
    }
    cases
}

fn places() -> Cases {
    let offset = &["offset of tensor output_norm.weight at byte"];
    let mut cases = Vec::new();
    for (name, at) in [
        ("on the first tensor", 0),
        ("over the tensor before it", 2592),
        ("misaligned", 2628),
        ("after a gap", 2656),
        ("past the file", 1 << 20),
        ("at 2^64-32", u64::MAX - 31),
    ] {
        cases.push(norm(format!("tensor {name}"), offset, |t| t.offset = Some(at)));
    }
    cases.push(changed("last tensor one byte short", &["tensor output.weight at byte"], |f| {
        f.tensor("output.weight").data.pop();
    }));
    cases.push(changed("[512, 2] with 32 bytes of data", &["tensor output.weight at byte"], |f| {
        let tensor = f.tensor("output.weight");
        (tensor.dims, tensor.data) = (vec![512, 2], vec![0; 32]);
    }));
    cases.push(changed("no data at all", &["tensor token_embd.weight at byte"], |f| {
        let offsets: Vec<u64> = f
            .tensors
            .iter()
            .scan(0, |sum, t| {
                let at = *sum;
                *sum += t.data.len() as u64;
                Some(at)
            })
            .collect();
        for (tensor, at) in f.tensors.iter_mut().zip(offsets) {
            (tensor.offset, tensor.data) = (Some(at), vec![]);
        }
    }));
    for (name, tail) in [("one byte", b"!".to_vec()), ("a ZIP", b"PK\x05\x06".repeat(6)), ("a page", vec![0; 4096])] {
        cases.push(changed(format!("{name} after the last tensor"), &["end of file at byte"], |f| f.tail = tail));
    }
    cases
}
