//! What a checkpoint says about text.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, InFile, Result};
use crate::text::{ChatTemplate, Tokenizer, folder};

impl Checkpoint {
    /// The model's tokenizer; its end tokens are all that any of the files name.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the data is inconsistent, [`Error::Io`] where a folder has none, [`Error::Unsupported`] where
    /// its kind is unknown. All of them name the file.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let mut tokenizer = match (self.metadata(), self.folder()) {
            (Some(metadata), _) => Tokenizer::from_gguf(metadata)?,
            (None, Some(folder)) => folder::tokenizer(folder.path(), Some(self.config().vocab))?,
            (None, None) => {
                return Err(Error::tokenizer("tokenizer.json", "this checkpoint has none")).in_file(self.path());
            }
        };
        for (id, path) in self.end_token_files() {
            let tokens = tokenizer.vocab();
            let unknown =
                |_| Error::tokenizer("eos_token_id", format!("is {id}, and the tokenizer has {tokens} tokens"));
            tokenizer.add_end_tokens(&[id]).map_err(unknown).in_file(path)?;
        }
        Ok(tokenizer)
    }

    /// The model's chat template, compiled; `None` where the files have none, as base models do.
    ///
    /// # Errors
    /// [`Error::Template`] where it does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        self.chat_template_file().map(|(path, source)| ChatTemplate::in_file(source, path)).transpose()
    }
}
