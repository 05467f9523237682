//! A request's body, received within bounds of bytes and of time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::{Body, Incoming};

use crate::budget::{Budget, Share};
use crate::error::{ApiError, Result};
use crate::options::Bounds;

/// A body, and its share of what all bodies may take together.
pub struct Received {
    /// The bytes.
    pub bytes: Vec<u8>,
    share: Share,
}

/// Receives all of `body`.
///
/// # Errors
/// 413 if it is too long, 408 if it comes too slowly, 429 if there are too many others, 400 if it breaks off.
pub async fn receive(body: Incoming, bounds: &Bounds, bodies: &Arc<Budget>) -> Result<Received> {
    // What a length says beforehand needs no byte to be received.
    if body.size_hint().lower() > bounds.body as u64 {
        return Err(too_long(bounds.body));
    }
    let Some(share) = bodies.take(0) else { return Err(too_many()) };
    let received = Received { bytes: Vec::new(), share };
    tokio::time::timeout(bounds.body_time, collect(body, bounds.body, received))
        .await
        .unwrap_or_else(|_| Err(too_slow(bounds.body_time)))
}

async fn collect(mut body: Incoming, most: usize, mut received: Received) -> Result<Received> {
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let broken =
            |error| ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("the body broke off: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if data.len() > most - received.bytes.len() {
            return Err(too_long(most));
        }
        if !received.share.grow(data.len()) {
            return Err(too_many());
        }
        received.bytes.extend_from_slice(&data);
    }
    Ok(received)
}

fn too_long(most: usize) -> ApiError {
    let message = format!("the body is longer than {most} bytes, the most that this server takes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

fn too_slow(time: Duration) -> ApiError {
    let message = format!("the body did not come within {time:?}");
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message)
}

fn too_many() -> ApiError {
    ApiError::overloaded("too many bodies are being received; try again later")
}
