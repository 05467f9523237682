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
use crate::prompts::{Prompt, prompts};
use crate::scores::Lists;
use crate::served::Served;
use crate::texts::{Style, Texts, reason};
use crate::work::{Answer, Work};
use crate::worker::Task;

/// Tokens generated where a request does not say how many: OpenAI's default.
const DEFAULT_TOKENS: usize = 16;

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field.
pub fn read(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    refuse_what_is_lacking(&mut fields)?;
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
    let prompts = prompts(served, "prompt", &mut fields, bounds.sequences / choices)?;
    fields.end()?;
    let mut tasks = Vec::new();
    for prompt in &prompts {
        tasks.extend(parameters.requests(served, &prompt.tokens)?.map(|request| Task::Generate(Box::new(request))));
    }
    let (sequences, prompt_tokens) = (tasks.len(), prompts.iter().map(|prompt| prompt.tokens.len()).sum());
    let style = Plain {
        tokenizer: served.tokenizer.clone(),
        scored,
        echo: if echo { prompts } else { Vec::new() },
        choices,
        offsets: vec![0; sequences],
    };
    let texts = Texts::new(served, style, sequences, prompt_tokens).including_usage(parameters.include_usage);
    Ok(Work { tasks, answer: Answer::Texts(Box::new(texts)), stream })
}

fn refuse_what_is_lacking(fields: &mut Fields) -> Result<()> {
    fields.unwanted("suffix", |value| value == "")?;
    fields.ignore(&["user"]);
    Ok(())
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
