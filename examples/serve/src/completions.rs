//! `POST /v1/completions`: prompts, as text or as tokens, and what follows them.
//!
//! A prompt that is text is only text: the spelling of a control token in it is no control token, and the begin-of-sequence
//! token comes before it where the model wants one. Who needs more gives tokens, which are taken as they are.

use std::sync::Arc;

use llama_core::engine::{Completion, Score};
use llama_core::text::Tokenizer;
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::format::structured_outputs;
use crate::options::Bounds;
use crate::parameters::{ALTERNATIVES, Parameters};
use crate::prompts::{Prompt, infilled, prompts};
use crate::scores::Lists;
use crate::served::Served;
use crate::texts::{Style, Texts, reason};
use crate::work::{Answer, Work};

/// Tokens generated where a request does not say how many: OpenAI's default.
const DEFAULT_TOKENS: usize = 16;

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    fields.ignore(&["user"]);
    let echo = fields.flag("echo")?;
    let mut parameters = Parameters::take(served, &mut fields, bounds.choices)?;
    let Parameters { choices, stream, .. } = parameters;
    let max_tokens = fields.integer("max_tokens", usize::from(!echo)..=usize::MAX)?;
    let best_of = fields.integer("best_of", 1..=bounds.choices)?;
    let request = &mut parameters.request;
    request.max_tokens = Some(max_tokens.unwrap_or(DEFAULT_TOKENS));
    request.sampling.logprobs = fields.integer("logprobs", ALTERNATIVES)?;
    let scored = request.sampling.logprobs.is_some();
    // A prompt that is not continued is scored, wanted or not: there is nothing else to do with it.
    request.prompt_logprobs = echo && (scored || max_tokens == Some(0));
    if best_of.is_some_and(|best_of| best_of != choices) {
        return Err(ApiError::lacking("best_of", "best_of must be n: this server returns all that it generates"));
    }
    if echo && scored && stream {
        return Err(ApiError::lacking(
            "echo",
            "a prompt's logprobs are not streamed; leave out echo, logprobs or stream",
        ));
    }
    request.grammar = structured_outputs(served, &mut fields)?;
    let most = bounds.sequences / choices;
    let prompts = match fields.string("suffix")?.filter(|suffix| !suffix.is_empty()) {
        Some(_) if echo => {
            return Err(ApiError::lacking("suffix", "echo is of a prompt alone; leave out echo or suffix"));
        }
        Some(suffix) => {
            request.stop_tokens.extend(ends_of_middles(served, request.ignore_end));
            infilled(served, &suffix, "prompt", &mut fields, most)?
        }
        None => prompts(served, "prompt", &mut fields, most)?,
    };
    fields.end()?;
    let mut tasks = Vec::new();
    for prompt in &prompts {
        tasks.extend(parameters.tasks(served, &prompt.tokens)?);
    }
    let (texts, prompt_tokens) = ((prompts.len(), choices), prompts.iter().map(|prompt| prompt.tokens.len()).sum());
    let style = Plain {
        tokenizer: served.tokenizer.clone(),
        scored,
        echo: if echo { prompts } else { Vec::new() },
        choices,
        offsets: vec![0; tasks.len()],
    };
    let texts = Texts::new(served, style, texts, prompt_tokens).including_usage(parameters.include_usage);
    Ok(Work { tasks, answer: Answer::Texts(Box::new(texts)), stream })
}

/// What ends a text before a suffix, beside what ends any.
fn ends_of_middles(served: &Served, ignored: bool) -> &[u32] {
    let infill = served.tokenizer.infill().filter(|_| !ignored);
    infill.map_or(&[], |infill| &infill.end_tokens)
}

/// Choices that are texts.
struct Plain {
    tokenizer: Arc<Tokenizer>,
    /// Whether scores are wanted.
    scored: bool,
    /// Prompts that the texts begin with.
    echo: Vec<Prompt>,
    /// Texts for each prompt.
    choices: usize,
    /// How many characters of each text were scored so far.
    offsets: Vec<usize>,
}

impl Plain {
    /// The prompt that the text `index` begins with, where texts do.
    fn prompt(&self, index: usize) -> Option<&Prompt> {
        self.echo.get(index / self.choices)
    }
}

impl Style for Plain {
    fn objects(&self) -> [&'static str; 2] {
        ["text_completion", "text_completion"]
    }

    fn id_prefix(&self) -> &'static str {
        "cmpl-"
    }

    fn choice(&mut self, index: usize, completion: &Completion, scores: &[Score]) -> Value {
        let prompt = self.prompt(index);
        let mut lists = Lists::default();
        if let Some(prompt) = prompt {
            lists.push_unscored(&self.tokenizer, prompt.tokens[0]);
            lists.extend(&self.tokenizer, &completion.prompt);
        }
        lists.extend(&self.tokenizer, scores);
        json!({
            "index": index,
            "text": format!("{}{}", prompt.map_or("", |prompt| &prompt.text), completion.text),
            "logprobs": self.scored.then(|| lists.object()),
            "finish_reason": reason(&completion.finish),
        })
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let text = &self.prompt(index)?.text;
        Some(json!({"index": index, "text": text, "logprobs": null, "finish_reason": null}))
    }

    fn pieces(&mut self, index: usize, text: &str, scores: &[Score]) -> Vec<Value> {
        let mut lists = Lists::from(self.offsets[index]);
        lists.extend(&self.tokenizer, scores);
        self.offsets[index] = lists.offset();
        let logprobs = self.scored.then(|| lists.object());
        vec![json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": null})]
    }

    fn endings(&mut self, index: usize, reason: &'static str) -> Vec<Value> {
        vec![json!({"index": index, "text": "", "logprobs": null, "finish_reason": reason})]
    }
}
