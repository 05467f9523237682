//! A GGUF writer that can lie: every count, length and offset may be overridden.

/// A value with its type number.
#[derive(Debug, Clone)]
pub struct Value {
    kind: u32,
    bytes: Vec<u8>,
}

/// A string as GGUF stores it: length, bytes.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend(bytes);
    out
}

impl Value {
    /// Any type number before any bytes.
    pub fn raw(kind: u32, bytes: impl Into<Vec<u8>>) -> Value {
        Value { kind, bytes: bytes.into() }
    }

    /// A u32.
    pub fn u32(v: u32) -> Value {
        Value::raw(4, v.to_le_bytes())
    }

    /// An f32.
    pub fn f32(v: f32) -> Value {
        Value::raw(6, v.to_le_bytes())
    }

    /// A string.
    pub fn string(v: &str) -> Value {
        Value::raw(8, string(v.as_bytes()))
    }

    /// An array of `count` elements of type `kind`.
    pub fn array(kind: u32, count: u64, elements: &[u8]) -> Value {
        Value::raw(9, [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat())
    }

    /// An array of strings.
    pub fn strings(v: &[&str]) -> Value {
        Value::array(8, v.len() as u64, &v.iter().flat_map(|s| string(s.as_bytes())).collect::<Vec<u8>>())
    }

    /// An array of f32.
    pub fn f32s(v: &[f32]) -> Value {
        Value::array(6, v.len() as u64, &v.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// An array of i32.
    pub fn i32s(v: &[i32]) -> Value {
        Value::array(5, v.len() as u64, &v.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<u8>>())
    }
}

/// An entry of the tensor table.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name, perhaps not UTF-8.
    pub name: Vec<u8>,
    /// Number of dimensions, where it is not that of `dims`.
    pub dim_count: Option<u32>,
    /// Dimensions, columns first.
    pub dims: Vec<u64>,
    /// ggml's type number.
    pub kind: u32,
    /// Offset, where it is not the padded sum.
    pub offset: Option<u64>,
    /// Data, padded when written.
    pub data: Vec<u8>,
}

impl Tensor {
    /// An F32 tensor filled with `fill`.
    pub fn f32(name: &str, dims: &[u64], fill: f32) -> Tensor {
        let weights = dims.iter().product::<u64>() as usize;
        let data = fill.to_le_bytes().repeat(weights);
        Tensor { name: name.into(), dim_count: None, dims: dims.into(), kind: 0, offset: None, data }
    }
}

/// A whole file.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// First four bytes.
    pub magic: [u8; 4],
    /// Container version.
    pub version: u32,
    /// Tensor count, where it is a lie.
    pub tensor_count: Option<u64>,
    /// Pair count, where it is a lie.
    pub pair_count: Option<u64>,
    /// Keys, perhaps not UTF-8, and values.
    pub pairs: Vec<(Vec<u8>, Value)>,
    /// Tensors.
    pub tensors: Vec<Tensor>,
    /// Alignment of the data.
    pub alignment: usize,
    /// Bytes after everything.
    pub tail: Vec<u8>,
}

impl Gguf {
    /// A file without pairs or tensors.
    pub fn empty() -> Gguf {
        Gguf {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            pair_count: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            tail: Vec::new(),
        }
    }

    /// Adds a pair, or replaces the value of a key.
    pub fn set(&mut self, key: &str, value: Value) -> &mut Gguf {
        match self.pairs.iter_mut().find(|(k, _)| k == key.as_bytes()) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((key.into(), value)),
        }
        self
    }

    /// Removes a key.
    pub fn unset(&mut self, key: &str) -> &mut Gguf {
        self.pairs.retain(|(k, _)| k != key.as_bytes());
        self
    }

    /// The tensor called `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name.as_bytes()).expect("a tensor of the model")
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_and_fields().0
    }

    /// The file's bytes, and offset and size of every integer field of the header.
    pub fn bytes_and_fields(&self) -> (Vec<u8>, Vec<(usize, usize)>) {
        let mut out = Writer::default();
        out.bytes.extend(self.magic);
        out.u32(self.version);
        out.u64(self.tensor_count.unwrap_or(self.tensors.len() as u64));
        out.u64(self.pair_count.unwrap_or(self.pairs.len() as u64));
        for (key, value) in &self.pairs {
            out.string(key);
            out.u32(value.kind);
            out.fields.push((out.bytes.len(), value.bytes.len().min(8)));
            out.bytes.extend(&value.bytes);
        }
        let mut sum = 0;
        for tensor in &self.tensors {
            out.tensor(tensor, sum);
            sum += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        for tensor in &self.tensors {
            out.pad(self.alignment);
            out.bytes.extend(&tensor.data);
        }
        out.bytes.extend(&self.tail);
        (out.bytes, out.fields)
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    fields: Vec<(usize, usize)>,
}

impl Writer {
    fn u32(&mut self, v: u32) {
        self.fields.push((self.bytes.len(), 4));
        self.bytes.extend(v.to_le_bytes());
    }

    fn u64(&mut self, v: u64) {
        self.fields.push((self.bytes.len(), 8));
        self.bytes.extend(v.to_le_bytes());
    }

    fn string(&mut self, v: &[u8]) {
        self.u64(v.len() as u64);
        self.bytes.extend(v);
    }

    fn tensor(&mut self, tensor: &Tensor, sum: u64) {
        self.string(&tensor.name);
        self.u32(tensor.dim_count.unwrap_or(tensor.dims.len() as u32));
        for &dim in &tensor.dims {
            self.u64(dim);
        }
        self.u32(tensor.kind);
        self.u64(tensor.offset.unwrap_or(sum));
    }

    fn pad(&mut self, alignment: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
    }
}

/// A Llama of one layer in F32 that opens: 8 tokens, 8 columns, 2 heads on 1 KV head, head_dim 4, ffn 16.
pub fn model() -> Gguf {
    let mut file = Gguf::empty();
    file.set("general.architecture", Value::string("llama"))
        .set("llama.context_length", Value::u32(64))
        .set("llama.embedding_length", Value::u32(8))
        .set("llama.block_count", Value::u32(1))
        .set("llama.feed_forward_length", Value::u32(16))
        .set("llama.attention.head_count", Value::u32(2))
        .set("llama.attention.head_count_kv", Value::u32(1))
        .set("llama.rope.dimension_count", Value::u32(4))
        .set("llama.rope.freq_base", Value::f32(1e4))
        .set("llama.attention.layer_norm_rms_epsilon", Value::f32(1e-5))
        .set("llama.vocab_size", Value::u32(8))
        .set("tokenizer.ggml.model", Value::string("llama"))
        .set("tokenizer.ggml.tokens", Value::strings(&["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e"]))
        .set("tokenizer.ggml.scores", Value::f32s(&[0.0; 8]))
        .set("tokenizer.ggml.token_type", Value::i32s(&[2, 3, 3, 1, 1, 1, 1, 1]))
        .set("tokenizer.ggml.bos_token_id", Value::u32(1))
        .set("tokenizer.ggml.eos_token_id", Value::u32(2));
    for (name, dims) in [
        ("token_embd.weight", [8u64, 8].as_slice()),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[8, 4]),
        ("blk.0.attn_v.weight", &[8, 4]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[8, 16]),
        ("blk.0.ffn_up.weight", &[8, 16]),
        ("blk.0.ffn_down.weight", &[16, 8]),
        ("output_norm.weight", &[8]),
        ("output.weight", &[8, 8]),
    ] {
        file.tensors.push(Tensor::f32(name, dims, 0.5));
    }
    file
}

/// The same as a Phi-3: matrices in one tensor, divisors of a LongRoPE, a window.
pub fn phi3() -> Gguf {
    let mut file = of_architecture("phi3");
    file.set("phi3.rope.scaling.original_context_length", Value::u32(16))
        .set("phi3.rope.scaling.attn_factor", Value::f32(1.25))
        .set("phi3.attention.sliding_window", Value::u32(24));
    let apart = [
        "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",
        "blk.0.attn_v.weight",
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_up.weight",
    ];
    file.tensors.retain(|tensor| !apart.iter().any(|name| tensor.name == name.as_bytes()));
    for (name, dims) in [
        ("blk.0.attn_qkv.weight", [8u64, 16].as_slice()),
        ("blk.0.ffn_up.weight", &[8, 32]),
        ("rope_factors_short.weight", &[2]),
        ("rope_factors_long.weight", &[2]),
    ] {
        file.tensors.push(Tensor::f32(name, dims, 0.5));
    }
    file
}

/// The same as a Granite, with its four multipliers.
pub fn granite() -> Gguf {
    let mut file = of_architecture("granite");
    for (key, number) in
        [("embedding_scale", 12.0), ("residual_scale", 0.25), ("attention.scale", 0.125), ("logit_scale", 8.0)]
    {
        file.set(&format!("granite.{key}"), Value::f32(number));
    }
    file
}

fn of_architecture(name: &str) -> Gguf {
    let mut file = model();
    file.set("general.architecture", Value::string(name));
    for (key, _) in &mut file.pairs {
        if let Some(rest) = key.strip_prefix(b"llama.") {
            *key = [name.as_bytes(), b".", rest].concat();
        }
    }
    file
}
