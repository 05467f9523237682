//! Two of the tiny checkpoints without their heads, as embedding models and classifiers are saved, and what transformers
//! makes of them (`tests/data/heads/make.py`).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::arrays::Arrays;
use crate::hostile::folder::safetensors;
use crate::models::data;

/// Their names.
pub const NAMES: [&str; 2] = ["llama3-gqa", "mistral-window"];

/// One checkpoint's prompts, and their hidden states and scores.
pub struct Case {
    folder: PathBuf,
    score: Vec<f32>,
    /// Two prompts.
    pub ids: Vec<Vec<u32>>,
    /// Their hidden states, `[ids, hidden]` each.
    pub states: Vec<Vec<f32>>,
    /// The means of those, `[hidden]`.
    pub mean: Vec<Vec<f32>>,
    /// The last ones at length 1, `[hidden]`.
    pub normalised: Vec<Vec<f32>>,
    /// Scores of the labels, `[labels]`.
    pub scores: Vec<Vec<f32>>,
}

impl Case {
    /// Opens the one called `name`.
    pub fn open(name: &str) -> Self {
        let arrays = Arrays::open(data().join("heads").join(format!("{name}.safetensors")));
        let folder = data().join("tiny").join(name);
        let ids = Arrays::open(folder.join("reference.safetensors")).ids("input_ids");
        let halves = |name: &str| halved(&arrays.f32(name));
        Case {
            folder,
            score: arrays.f32("score"),
            ids: halved(&ids),
            states: halves("states"),
            mean: halves("mean"),
            normalised: halves("normalised"),
            scores: halves("scores"),
        }
    }

    /// The folder of the whole model.
    pub fn whole(&self) -> &Path {
        &self.folder
    }

    /// Writes it as a `LlamaModel` or `MistralModel`: no head, and names without the prefix.
    pub fn write_bare(&self, into: &Path) {
        self.write(into, "Model", &|name| name.strip_prefix("model."), None);
    }

    /// Writes it as a classifier of three labels, whose config.json has `labels` (more keys, with a comma after them).
    pub fn write_classifier(&self, into: &Path, labels: &str) {
        self.write(into, "ForSequenceClassification", &|name| name.starts_with("model.").then_some(name), Some(labels));
    }

    fn write(&self, into: &Path, class: &str, spell: &dyn Fn(&str) -> Option<&str>, labels: Option<&str>) {
        let config = std::fs::read_to_string(self.folder.join("config.json")).unwrap();
        let config = config.replace("ForCausalLM", class);
        let config = config.replacen('{', &format!("{{ {}", labels.unwrap_or_default()), 1);
        std::fs::write(into.join("config.json"), config).unwrap();
        let (mut header, mut buffer) = kept(&std::fs::read(self.folder.join("model.safetensors")).unwrap(), spell);
        if labels.is_some() {
            let data: Vec<u8> = self.score.iter().flat_map(|x| x.to_le_bytes()).collect();
            let shape = [3, self.score.len() / 3];
            add(&mut header, &mut buffer, "score.weight", serde_json::json!({"dtype": "F32", "shape": shape}), &data);
        }
        let file = safetensors(&Value::Object(header).to_string(), &buffer);
        std::fs::write(into.join("model.safetensors"), file).unwrap();
    }
}

fn halved<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    all.chunks(all.len() / 2).map(<[T]>::to_vec).collect()
}

/// The tensors of `file` that get a name.
fn kept(file: &[u8], spell: &dyn Fn(&str) -> Option<&str>) -> (Map<String, Value>, Vec<u8>) {
    let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let all: Map<String, Value> = serde_json::from_slice(&file[8..start]).unwrap();
    let (mut header, mut buffer) = (Map::new(), Vec::new());
    for (name, entry) in &all {
        let Some(name) = spell(name) else { continue };
        let at = |i: usize| start + entry["data_offsets"][i].as_u64().unwrap() as usize;
        add(&mut header, &mut buffer, name, entry.clone(), &file[at(0)..at(1)]);
    }
    (header, buffer)
}

fn add(header: &mut Map<String, Value>, buffer: &mut Vec<u8>, name: &str, mut entry: Value, data: &[u8]) {
    entry["data_offsets"] = serde_json::json!([buffer.len(), buffer.len() + data.len()]);
    header.insert(name.into(), entry);
    buffer.extend(data);
}
