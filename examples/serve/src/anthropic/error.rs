//! What goes wrong, as Anthropic's clients read it: an object with a `type` and a `message`, which has to name the field that is
//! wrong, since nothing else does.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::error::ApiError;

/// The code by which a client knows that it has to send the whole conversation, and does.
pub const NO_THREADS: &str = "thread_unsupported_request";

/// The object that goes into a response or an event.
pub fn error(error: &ApiError) -> Value {
    let message = match error.param.as_deref().map(field) {
        Some(param) if !error.message.starts_with(param) => format!("{param}: {}", error.message),
        _ => error.message.clone(),
    };
    let mut object = json!({"type": "error", "error": {"type": kind(error.status), "message": message}});
    if error.code == NO_THREADS {
        object["error"]["details"] = json!({"error_code": NO_THREADS});
    }
    object
}

/// What messages call a field that chats call so.
fn field(name: &str) -> &str {
    match name {
        "stop" => "stop_sequences",
        name => name,
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}
