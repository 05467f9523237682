//! `POST /v1/rerank` and `/v1/score`: how alike texts are, as the cosine of the angle between their embeddings. OpenAI has no such
//! thing; the spelling is vLLM's, which has the former from Jina.

use llama_core::engine::{Completion, Embed};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown};
use crate::options::Bounds;
use crate::prompts::prompt;
use crate::served::Served;
use crate::texts::{now, unique};
use crate::work::{Answer, Work};
use crate::worker::Task;

/// A text with the place of the request that it is from.
type Text = (String, String);

/// Documents by how alike they are to a query.
///
/// # Errors
/// A 400 that names the field.
pub fn rerank(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    let top = fields.integer("top_n", 0..=usize::MAX)?.filter(|&top| top > 0);
    let told = fields.switch("return_documents")?.unwrap_or(true);
    fields.ignore(&["user"]);
    let query = fields.string("query")?.ok_or_else(|| fields.missing("query"))?;
    let documents = texts(&mut fields, "documents")?;
    fields.end()?;
    let told = told.then(|| documents.iter().map(|(_, text)| text.clone()).collect());
    let shape = Shape::Ranking { top: top.unwrap_or(usize::MAX), told };
    check_number(bounds, 1 + documents.len(), "documents")?;
    work(served, [vec![("query".into(), query)], documents], shape)
}

/// Pairs of texts; one text may be the first of all pairs.
///
/// # Errors
/// A 400 that names the field.
pub fn score(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    fields.ignore(&["user"]);
    let (first, second) = (texts(&mut fields, "text_1")?, texts(&mut fields, "text_2")?);
    fields.end()?;
    if first.len() != 1 && first.len() != second.len() {
        let problem = format!("text_1 has {} texts and text_2 {}; one, or as many, must be", first.len(), second.len());
        return Err(ApiError::value("text_1", problem));
    }
    let longer = if first.len() > second.len() { "text_1" } else { "text_2" };
    check_number(bounds, first.len() + second.len(), longer)?;
    work(served, [first, second], Shape::Pairs)
}

/// A string, or a list of strings and of objects with a `text`; at least one.
fn texts(fields: &mut Fields, name: &str) -> Result<Vec<Text>> {
    let missing = || ApiError::about(name, "missing_required_parameter", format!("{name} is missing or empty"));
    match fields.take(name) {
        Some(Value::String(text)) => Ok(vec![(name.into(), text)]),
        Some(Value::Array(values)) if !values.is_empty() => {
            values.into_iter().enumerate().map(|(at, value)| text(format!("{name}[{at}]"), value)).collect()
        }
        None | Some(Value::Array(_)) => Err(missing()),
        Some(other) => Err(ApiError::value(name, format!("{name} is {}; it must be a list of texts", shown(&other)))),
    }
}

fn text(place: String, value: Value) -> Result<Text> {
    match value {
        Value::String(text) => Ok((place, text)),
        Value::Object(_) => {
            let mut fields = Fields::at(&place, value)?;
            let text = fields.string("text")?.ok_or_else(|| fields.missing("text"))?;
            fields.end()?;
            Ok((place, text))
        }
        other => Err(ApiError::value(&place, format!("{place} is {}; it must be a text", shown(&other)))),
    }
}

/// That there are no more texts than may be, of which most are in the field `name`.
fn check_number(bounds: &Bounds, texts: usize, name: &str) -> Result<()> {
    match texts <= bounds.compared() {
        true => Ok(()),
        false => {
            let problem = format!("there are {texts} texts; at most {} are allowed", bounds.compared());
            Err(ApiError::value(name, problem))
        }
    }
}

fn work(served: &Served, [first, second]: [Vec<Text>; 2], shape: Shape) -> Result<Work> {
    if !served.labels.is_empty() {
        let problem =
            format!("{} has labels, and only those it was trained for say how texts go together", served.name);
        return Err(ApiError::about("model", "unsupported", format!("{problem}; use /v1/classify")));
    }
    let (firsts, mut tokens) = (first.len(), 0);
    let tasks = first.into_iter().chain(second).map(|(place, text)| {
        let prompt = prompt(served, &place, &Value::String(text))?;
        tokens += prompt.fitting(served)?;
        Ok(Task::Embed(Embed::new(prompt.tokens)))
    });
    let tasks = tasks.collect::<Result<_>>()?;
    let similarities = Similarities { model: served.name.clone(), firsts, tokens, shape };
    Ok(Work { tasks, answer: Answer::Similarities(similarities), stream: false })
}

/// One request's similarities.
pub struct Similarities {
    model: String,
    /// How many of the vectors are the first of a pair: one for all, or each for one.
    firsts: usize,
    /// Of all prompts.
    tokens: usize,
    shape: Shape,
}

/// How they are told.
enum Shape {
    /// In the order of the pairs.
    Pairs,
    /// The greatest first, as many as `top`, with the texts that are to be `told` again.
    Ranking { top: usize, told: Option<Vec<String>> },
}

impl Similarities {
    /// Says that `model` made them.
    pub fn say_by(&mut self, model: String) {
        self.model = model;
    }

    /// The answer.
    pub fn whole(self, completions: &[Completion]) -> Value {
        let (firsts, seconds) = completions.split_at(self.firsts);
        let first = |at: usize| &firsts[if self.firsts == 1 { 0 } else { at }].vector;
        let scores = seconds.iter().enumerate().map(|(at, second)| cosine(first(at), &second.vector));
        let scores = scores.collect::<Vec<_>>();
        let usage = json!({"prompt_tokens": self.tokens, "total_tokens": self.tokens});
        match self.shape {
            Shape::Pairs => {
                let object = |(index, score)| json!({"index": index, "object": "score", "score": score});
                json!({
                    "id": format!("score-{}", unique()),
                    "object": "list",
                    "created": now(),
                    "model": self.model,
                    "data": scores.into_iter().enumerate().map(object).collect::<Vec<_>>(),
                    "usage": usage,
                })
            }
            Shape::Ranking { top, told } => json!({
                "id": format!("rerank-{}", unique()),
                "model": self.model,
                "results": ranking(&scores, top, told.as_deref()),
                "usage": usage,
            }),
        }
    }
}

/// The `top` documents, the most alike first; of equals the one that was given first.
fn ranking(scores: &[f32], top: usize, told: Option<&[String]>) -> Vec<Value> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let result = |index: usize| {
        let mut result = json!({"index": index, "relevance_score": scores[index]});
        if let Some(documents) = told {
            result["document"] = json!({"text": documents[index]});
        }
        result
    };
    order.into_iter().take(top).map(result).collect()
}

/// Of vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}
