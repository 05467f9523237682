//! What goes wrong, as OpenAI's clients read it: a status and an object with `message`, `type`, `param` and `code`.

use hyper::StatusCode;
use llama_core::Error;
use serde_json::{Value, json};

/// `Result` with an [`ApiError`].
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An answer that is an error.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// Status of the response.
    pub status: StatusCode,
    /// What is wrong, for a program.
    pub code: &'static str,
    /// The field of the request that is wrong, where it is one.
    pub param: Option<String>,
    /// What is wrong and what to do, for people.
    pub message: String,
}

impl ApiError {
    /// One about the request as a whole or the server.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, code, param: None, message: message.into() }
    }

    /// The field `param` has a value that is not allowed.
    pub fn value(param: &str, message: impl Into<String>) -> Self {
        ApiError::about(param, "invalid_value", message)
    }

    /// The field `param` asks for what this server cannot do.
    pub fn lacking(param: &str, message: impl Into<String>) -> Self {
        ApiError::about(param, "unsupported_parameter", message)
    }

    /// A status 400 about the field `param`.
    pub fn about(param: &str, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, code, message) }
    }

    /// More is asked for at once than the server takes.
    pub fn overloaded(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
    }

    /// The server cannot answer anybody now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// The server's own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// What `model` names is none, or not any more.
    pub fn no_such_model(message: impl Into<String>) -> Self {
        let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
        ApiError { param: Some("model".into()), ..error }
    }

    /// A prompt and what was asked for do not fit into the context.
    pub fn overflow(prompt: usize, generated: usize, limit: usize) -> Self {
        let message = format!(
            "this model's context is {limit} tokens, and {} were asked for: {prompt} of the prompt and {generated} to \
             generate; shorten the prompt or ask for fewer",
            prompt.saturating_add(generated)
        );
        ApiError::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
    }

    /// The object that goes into a response or an event.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl From<Error> for ApiError {
    /// What the library refused. Its parameters are the request's, though some have other names there.
    fn from(error: Error) -> Self {
        let error = match error {
            Error::Parameter { name, value, problem } => Error::Parameter { name: field(name), value, problem },
            other => other,
        };
        let message = error.to_string();
        let bad = |code| ApiError::new(StatusCode::BAD_REQUEST, code, message.clone());
        match error {
            // One that was unloaded on the request's way to the engine.
            Error::Parameter { name: "adapter", .. } => ApiError::no_such_model(message),
            Error::Parameter { name, .. } => ApiError { param: Some(name.into()), ..bad("invalid_value") },
            Error::ContextOverflow { .. } => bad("context_length_exceeded"),
            Error::Template { .. } => bad("invalid_value"),
            Error::Unsupported { .. } => bad("unsupported"),
            _ => ApiError::internal(message),
        }
    }
}

/// How the API calls a parameter of the library.
fn field(name: &'static str) -> &'static str {
    match name {
        "stop_strings" => "stop",
        "stop_tokens" => "stop_token_ids",
        "allowed_tokens" => "allowed_token_ids",
        name => name,
    }
}
