//! Responses: JSON, text, or a stream of events that is written as the engine gets on.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::Value;

use crate::board::{Board, Count};
use crate::error::ApiError;
use crate::mailbox::{Part, Receiver};
use crate::work::Generated;

/// A response's body.
pub enum Body {
    /// All of it at once.
    Whole(Option<Bytes>),
    /// Events.
    Stream(Box<Stream>),
}

/// A text on its way to a client. Dropped before its end, it cancels.
pub struct Stream {
    receiver: Receiver,
    texts: Box<dyn Generated>,
    board: Arc<Board>,
    next: Next,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Opening,
    Parts,
    Closing,
    End,
}

/// A response with a JSON object.
pub fn json(object: &Value) -> Response<Body> {
    written(object.to_string())
}

/// The same of one that is written already.
pub fn written(json: String) -> Response<Body> {
    whole(StatusCode::OK, "application/json", json)
}

/// A response with text, as Prometheus reads it.
pub fn text(text: String) -> Response<Body> {
    whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

/// A response with a stream of events.
pub fn stream(receiver: Receiver, texts: Box<dyn Generated>, board: Arc<Board>) -> Response<Body> {
    let stream = Stream { receiver, texts, board, next: Next::Opening };
    let mut response = Response::new(Body::Stream(Box::new(stream)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// How an endpoint's clients read what goes wrong.
pub type Words = fn(&ApiError) -> Value;

/// A response with an error, in these words.
pub fn error(error: &ApiError, words: Words) -> Response<Body> {
    let mut response = whole(error.status, "application/json", words(error).to_string());
    let headers = response.headers_mut();
    match error.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// The error of a path that is asked with another method.
pub fn wrong_method(allowed: &'static str, words: Words) -> Response<Body> {
    let message = format!("this path takes {allowed} only");
    let mut response = error(&ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message), words);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn whole(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

impl Stream {
    /// The next events; none where what came says nothing to a client, such as half a character.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        match self.next {
            Next::Opening => {
                self.next = Next::Parts;
                return Poll::Ready(Some(self.texts.opening()));
            }
            Next::Parts => {}
            Next::Closing => return Poll::Ready(self.texts.closing()),
            Next::End => return Poll::Ready(None),
        }
        let Poll::Ready(parts) = self.receiver.poll_parts(cx) else { return Poll::Pending };
        Poll::Ready(Some(match parts {
            Ok(Some(parts)) => parts.iter().map(|part: &Part| self.texts.events(part)).collect(),
            Ok(None) => {
                self.next = Next::Closing;
                return Poll::Ready(self.texts.closing());
            }
            Err(error) => {
                self.next = Next::End;
                self.board.count(Count::Failed, 1);
                self.texts.failure(&error)
            }
        }))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |bytes: Bytes| Ok(Frame::data(bytes));
        match &mut *self {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(frame)),
            Body::Stream(stream) => loop {
                match stream.poll_events(cx) {
                    Poll::Ready(Some(events)) if events.is_empty() => {}
                    Poll::Ready(events) => return Poll::Ready(events.map(|events| frame(events.into()))),
                    Poll::Pending => return Poll::Pending,
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_none(),
            Body::Stream(stream) => stream.next == Next::End,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}
