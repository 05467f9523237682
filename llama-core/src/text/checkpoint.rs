//! What a checkpoint says about text.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::text::{ChatTemplate, Tokenizer, folder};

impl Checkpoint {
    /// The model's tokenizer; its end tokens are all that any of the files name.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the data is inconsistent or missing, [`Error::Unsupported`] where its kind is unknown.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let mut tokenizer = match (self.metadata(), self.folder()) {
            (Some(metadata), _) => Tokenizer::from_gguf(metadata)?,
            (None, Some(folder)) => Tokenizer::new(folder::vocab(folder.path())?.without_rowless(self.config().vocab))?,
            (None, None) => return Err(Error::tokenizer("tokenizer.json", "this checkpoint has none")),
        };
        tokenizer.add_end_tokens(&self.end_tokens())?;
        Ok(tokenizer)
    }

    /// The model's chat template, compiled; `None` where the files have none, as base models do.
    ///
    /// # Errors
    /// [`Error::Template`] where it does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        self.chat_template_source().map(|source| ChatTemplate::new(&source)).transpose()
    }
}
