//! `POST /v1/classify`: texts, and how likely each of the model's labels is. OpenAI has no such thing; the spelling is vLLM's.

use llama_core::config::ProblemType;
use llama_core::engine::Completion;
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::options::Bounds;
use crate::prompts::prompts;
use crate::served::Served;
use crate::texts::{now, unique};
use crate::work::{Answer, Work};
use crate::worker::Task;

/// What a request asks for.
///
/// # Errors
/// A 400 that names the field, or the model if it has no labels.
pub fn read(served: &Served, bounds: &Bounds, mut fields: Fields) -> Result<Work> {
    if served.labels.is_empty() {
        let problem = format!("{} has no labels, so it cannot classify; use /v1/chat/completions", served.name);
        return Err(ApiError::about("model", "unsupported", problem));
    }
    fields.ignore(&["user"]);
    let prompts = prompts(served, "input", &mut fields, bounds.sequences)?;
    fields.end()?;
    let tokens = prompts.iter().map(|prompt| prompt.fitting(served)).sum::<Result<_>>()?;
    let (model, labels, problem_type) = (served.name.clone(), served.labels.clone(), served.problem_type);
    let verdicts = Verdicts { model, labels, problem_type, tokens };
    let tasks = prompts.into_iter().map(|prompt| Task::Classify(prompt.tokens)).collect();
    Ok(Work { tasks, answer: Answer::Verdicts(verdicts), stream: false })
}

/// What a model says of one request's texts.
pub struct Verdicts {
    model: String,
    labels: Vec<String>,
    problem_type: ProblemType,
    /// Of all prompts.
    tokens: usize,
}

impl Verdicts {
    /// The answer. `scores` are the model's own numbers, for who makes something else of them than probabilities.
    pub fn whole(self, completions: &[Completion]) -> Value {
        let data = completions.iter().enumerate().map(|(index, Completion { vector: scores, .. })| {
            let (probs, best) = (self.problem_type.probabilities(scores), likeliest(scores));
            json!({
                "index": index,
                "label": self.labels.get(best),
                "probs": probs,
                "num_classes": scores.len(),
                "scores": scores,
            })
        });
        json!({
            "id": format!("classify-{}", unique()),
            "object": "list",
            "created": now(),
            "model": self.model,
            "data": data.collect::<Vec<_>>(),
            "usage": {"prompt_tokens": self.tokens, "completion_tokens": 0, "total_tokens": self.tokens},
        })
    }
}

fn likeliest(scores: &[f32]) -> usize {
    (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_highest_scores_is_taken() {
        assert_eq!(likeliest(&[0.1, 0.7, 0.7, -2.0]), 1);
    }
}
