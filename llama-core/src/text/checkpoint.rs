//! What a checkpoint says about text.

use std::path::PathBuf;

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
            let problem = format!("is {id}; one of the tokenizer's {tokens} tokens was expected");
            let unknown = |_| Error::tokenizer("eos_token_id", problem);
            tokenizer.add_end_tokens(&[id]).map_err(unknown).in_file(path)?;
        }
        Ok(tokenizer)
    }

    /// The file that most of the tokenizer is in.
    pub(crate) fn tokenizer_file(&self) -> PathBuf {
        match (self.metadata(), self.folder()) {
            (Some(metadata), _) => metadata.path().to_owned(),
            (None, Some(folder)) => folder::file(folder.path()),
            (None, None) => self.path().to_owned(),
        }
    }

    /// The model's chat template, compiled; `None` where the files have none, as base models do.
    ///
    /// # Errors
    /// [`Error::Template`] where it does not parse. What it says later, while it runs, names the file, too.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        self.chat_template_file().map(|(path, source)| ChatTemplate::in_file(source, path)).transpose()
    }
}
