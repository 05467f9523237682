//! Hidden states in place of text: embeddings, and scores of a classifier's labels.
//!
//! Such a sequence goes through the same queue and the same batches as any other, and ends with its prompt. No logits are
//! computed for it.

use crate::config::{Config, Pooling};
use crate::error::{Error, Result};

use super::Engine;
use super::event::{Event, Finish, SequenceId};
use super::pool::{Pool, Then};
use super::sequence::Sequence;

/// One prompt whose hidden states are wanted.
#[derive(Debug, Clone, Default)]
pub struct Embed {
    /// Token ids, at least one, each below the model's `vocab`. [`Engine::encode`](super::Engine::encode) ends a prompt as
    /// the model's tokenizer does.
    pub prompt: Vec<u32>,
    /// How its states become one vector. `None`: as the model's files say ([`Config::pooling`]).
    pub pooling: Option<Pooling>,
    /// The adapter to compute it with, as [`Request::adapter`](super::Request::adapter).
    pub adapter: Option<String>,
    /// Divide each vector by its length, so that the product of two is their cosine similarity.
    pub normalise: bool,
}

impl Embed {
    /// A vector of length 1 for `prompt`, pooled as the model's files say.
    pub fn new(prompt: impl Into<Vec<u32>>) -> Self {
        Embed { prompt: prompt.into(), pooling: None, adapter: None, normalise: true }
    }
}

impl Engine {
    /// Queues a prompt for its hidden states, side by side with whatever else is queued. The vector comes in
    /// [`Event::vector`].
    ///
    /// # Errors
    /// [`Error::Parameter`] if the engine was made without [`embeddings`](super::EngineOptions::embeddings), for a prompt
    /// that is empty or has tokens out of range, or for an adapter that it does not have; [`Error::ContextOverflow`] if it is too long. Nothing is queued then.
    pub fn submit_embed(&mut self, embed: Embed) -> Result<SequenceId> {
        let pooling = embed.pooling.unwrap_or(self.model.config().pooling);
        let then = if embed.normalise { Then::Normalise } else { Then::Nothing };
        self.submit_pool(embed, pooling, then)
    }

    /// Queues a prompt for the scores of the model's labels, as the model's last token's state gives them. They come in
    /// [`Event::vector`].
    ///
    /// # Errors
    /// As [`Engine::submit_embed`]; [`Error::Unsupported`] for a model without labels.
    pub fn submit_classify(&mut self, prompt: impl Into<Vec<u32>>) -> Result<SequenceId> {
        let Some(classifier) = self.classifier.clone() else {
            let advice = "load a LlamaForSequenceClassification or MistralForSequenceClassification";
            return Err(Error::unsupported("classification by a model without labels", advice));
        };
        self.submit_pool(Embed::new(prompt), Pooling::Last, Then::Classify(classifier))
    }

    /// The vector of one prompt, `[hidden]`; without pooling its tokens' vectors, `[prompt, hidden]`.
    ///
    /// ```
    /// # use llama_core::engine::{Embed, Engine};
    /// # fn similarity(engine: &mut Engine, one: Vec<u32>, other: Vec<u32>) -> llama_core::Result<f32> {
    /// let (one, other) = (engine.embed(Embed::new(one))?, engine.embed(Embed::new(other))?);
    /// Ok(one.iter().zip(&other).map(|(x, y)| x * y).sum())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Engine::submit_embed`]; an error of the model; [`Error::StateNotFinite`].
    pub fn embed(&mut self, embed: Embed) -> Result<Vec<f32>> {
        let id = self.submit_embed(embed)?;
        Ok(self.completed(id, &mut |_| ())?.vector)
    }

    /// The vectors of many prompts, in their order, worked through side by side.
    ///
    /// # Errors
    /// Those of [`Engine::embed`], of whichever prompt is the first to have one; then all of them are given up.
    pub fn embed_all(&mut self, embeds: impl IntoIterator<Item = Embed>) -> Result<Vec<Vec<f32>>> {
        let mut ids = Vec::new();
        let all = embeds.into_iter().try_for_each(|embed| {
            ids.push(self.submit_embed(embed)?);
            Ok(())
        });
        let vectors = all.and_then(|()| self.vectors(&ids));
        if vectors.is_err() {
            ids.iter().for_each(|&id| drop(self.scheduler.remove(id)));
        }
        vectors
    }

    /// The scores of the labels for one prompt, in the order of [`Engine::labels`]: logits, as they come from the model.
    ///
    /// # Errors
    /// As [`Engine::submit_classify`]; an error of the model; [`Error::StateNotFinite`].
    pub fn classify(&mut self, prompt: impl Into<Vec<u32>>) -> Result<Vec<f32>> {
        let id = self.submit_classify(prompt)?;
        Ok(self.completed(id, &mut |_| ())?.vector)
    }

    /// Names of the labels that [`Engine::classify`] scores; none where the model is no classifier. A reward model has one.
    pub fn labels(&self) -> &[String] {
        &self.model.config().labels
    }

    fn submit_pool(&mut self, embed: Embed, pooling: Pooling, then: Then) -> Result<SequenceId> {
        let &Config { vocab, hidden, .. } = self.model.config();
        if self.states.is_none() {
            let problem = "this engine was made without room for hidden states; set EngineOptions::embeddings";
            return Err(Error::parameter("embeddings", false, problem));
        }
        embed.check(vocab, self.model.limits())?;
        let variant = self.variant(embed.adapter.as_deref())?;
        let pool = Pool::new(pooling, then, embed.prompt.len(), hidden);
        let id = self.next_id();
        self.scheduler.submit(Sequence::pooling(id, embed.prompt, variant, pool, self.prefix_cache));
        Ok(id)
    }

    /// Steps until all of `ids`, which ascend, have ended.
    fn vectors(&mut self, ids: &[SequenceId]) -> Result<Vec<Vec<f32>>> {
        let mut vectors = vec![Vec::new(); ids.len()];
        let (mut left, mut failure) = (ids.len(), None);
        while left > 0 && failure.is_none() {
            let seen = self.outbox.len();
            self.advance()?;
            let own = |event: &mut Event| ids.binary_search(&event.id).is_ok();
            for event in self.outbox.extract_if(seen.., own) {
                let Ok(at) = ids.binary_search(&event.id) else { continue };
                vectors[at].extend(event.vector);
                left -= usize::from(event.finish.is_some());
                if let Some(Finish::Failed(error)) = event.finish {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(vectors), Err)
    }
}
