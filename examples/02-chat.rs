//! Chat: a conversation with any model that has a chat template. Each turn encodes the whole conversation again; the
//! engine's prefix cache makes that cost the new tokens only.
//!
//! ```text
//! cargo run --release --example 02-chat -- --model SmolLM2-135M-Instruct.Q4_1.gguf
//! ```
//! `/reset` forgets the conversation; `/exit` or the end of input ends the program. A turn that fails, as one does that
//! the context has no room for, is taken back and ends nothing; where no person types, the exit status tells of it.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use llama_core::engine::{Engine, Request};
use llama_core::text::{ChatTemplate, Date, Message, RenderOptions, Trust};
use llama_core::{Error, Result};
use llama_examples::{ModelArgs, SamplingArgs, exit, first_adapter, fitting, lossy_lines, note, print, rate, stdio};

/// Talk with a model.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// What the model is told first
    #[arg(long, short)]
    system: Option<String>,
    /// Tokens of one answer at most; fewer where the context is full before
    #[arg(long, short = 'n', default_value_t = 512)]
    max_tokens: usize,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let loader = arguments.model.open()?;
    let Some(template) = loader.checkpoint().chat_template()? else {
        let path = Some(loader.checkpoint().path().to_owned());
        let advice = "give an instruct model with --model, or use 01-generate".into();
        return Err(Error::Unsupported { path, what: "a conversation without a chat template".into(), advice });
    };
    let engine = arguments.model.load_from(loader, 1)?;
    Chat { engine, template, arguments, messages: first_messages(arguments) }.talk()
}

fn first_messages(arguments: &Arguments) -> Vec<Message> {
    arguments.system.iter().map(|system| Message::new("system", system)).collect()
}

struct Chat<'a> {
    engine: Engine,
    template: ChatTemplate,
    arguments: &'a Arguments,
    messages: Vec<Message>,
}

impl Chat<'_> {
    fn talk(&mut self) -> Result<ExitCode> {
        let stdin = std::io::stdin().lock();
        let person = stdin.is_terminal();
        let mut lines = lossy_lines(stdin);
        let mut outcome = ExitCode::SUCCESS;
        loop {
            if person {
                print("> ")?;
            }
            let Some(line) = lines.next().transpose().map_err(stdio)? else { return Ok(outcome) };
            match line.trim() {
                "" => {}
                "/exit" => return Ok(outcome),
                "/reset" => self.messages = first_messages(self.arguments),
                text => {
                    let answered = self.turn(text)?;
                    if !answered && !person {
                        outcome = ExitCode::FAILURE;
                    }
                }
            }
        }
    }

    /// One question and its answer. False if there is none: then it is as if nothing had been asked.
    fn turn(&mut self, text: &str) -> Result<bool> {
        self.messages.push(Message::new("user", text));
        match self.answer() {
            Ok(answer) => {
                self.messages.push(Message::new("assistant", &answer));
                Ok(true)
            }
            // The only I/O is our output: nobody is left to talk to.
            Err(error @ Error::Io { .. }) => Err(error),
            Err(error) => {
                self.messages.pop();
                print("\n")?;
                note(format_args!("[error: {error}. Your message is dropped; /reset forgets the conversation]\n"));
                Ok(false)
            }
        }
    }

    /// Answers the conversation so far, in print too.
    fn answer(&mut self) -> Result<String> {
        let prompt = self.prompt()?;
        let prompt_tokens = prompt.len();
        let request = Request {
            max_tokens: Some(fitting(self.arguments.max_tokens, &self.engine, prompt_tokens)),
            sampling: self.arguments.sampling.sampling(&self.engine)?,
            adapter: first_adapter(&self.engine),
            ..Request::new(prompt)
        };
        let (start, mut first, mut tokens, mut cached, mut answer) = (Instant::now(), None, 0, 0, String::new());
        for event in self.engine.generate(request)? {
            let event = event?;
            first.get_or_insert_with(|| start.elapsed());
            tokens += usize::from(event.token.is_some());
            cached += event.cached_tokens;
            print(&event.text)?;
            answer.push_str(&event.text);
        }
        print("\n\n")?;
        let first = first.unwrap_or_default();
        note(format_args!(
            "[{prompt_tokens} prompt tokens, {cached} from the cache, TTFT {first:.1?}; {tokens} tokens, {:.1} tok/s]\n",
            rate(tokens.saturating_sub(1), start.elapsed() - first)
        ));
        Ok(answer)
    }

    /// The conversation as tokens. Only the template can make control tokens: what people type is text.
    fn prompt(&self) -> Result<Vec<u32>> {
        let Some(tokenizer) = self.engine.tokenizer() else {
            return Err(Error::tokenizer("tokenizer", "this engine has none"));
        };
        let options = RenderOptions::for_tokenizer(Date::today(), tokenizer);
        self.template.encode(tokenizer, &self.messages, &options, Trust::Template)
    }
}
