//! From a request's head to its response: who may ask, what is asked for, and the walk of a request through the server.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, oneshot};

use crate::adapters::{Change, Folder};
use crate::board::{Board, Count};
use crate::budget::{Budget, Share};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown};
use crate::mailbox::mailbox;
use crate::options::{Bounds, Options};
use crate::response::{self, Body, Words};
use crate::served::Served;
use crate::texts::now;
use crate::work::{Answer, Work};
use crate::worker::{Job, Order};
use crate::{adapters, anthropic, body, chat, classify, completions, embeddings, responses, similarity, tokens};

/// What all connections share.
pub struct State {
    /// The model's facts.
    pub served: Arc<Served>,
    /// Whom the server answers, and how much it lets in.
    pub options: Options,
    /// Figures and health.
    pub board: Arc<Board>,
    /// To the engine's thread.
    pub orders: SyncSender<Order>,
    /// Where adapters may come from while the server runs, if they may.
    adapters: Option<Arc<Folder>>,
    /// Held by whoever has one come or go.
    changing: Arc<Mutex<()>>,
    sequences: Arc<Budget>,
    prompt_tokens: Arc<Budget>,
    bodies: Arc<Budget>,
    /// Places for connections.
    pub connections: Arc<Semaphore>,
    /// Seconds since 1970.
    started: u64,
}

/// What makes work of an endpoint's request.
type Read = fn(&Served, &Bounds, Fields) -> Result<Work>;
/// What answers an endpoint's request without the engine, in JSON.
type Reply = fn(&Served, Fields) -> Result<String>;

/// What makes of an endpoint's request what is to be done about adapters of a folder.
type Alter = fn(&Served, &Folder, Fields) -> Result<Change>;

/// An endpoint that is asked by a body.
#[derive(Clone, Copy)]
enum Endpoint {
    Work(Read),
    Reply(Reply),
    Alter(Alter),
}

fn endpoint(path: &str) -> Option<Endpoint> {
    Some(match path {
        "/v1/chat/completions" => Endpoint::Work(chat::read),
        "/v1/completions" => Endpoint::Work(completions::read),
        "/v1/responses" => Endpoint::Work(responses::read),
        "/v1/messages" => Endpoint::Work(anthropic::read),
        "/v1/messages/count_tokens" => Endpoint::Reply(anthropic::count),
        "/v1/embeddings" => Endpoint::Work(embeddings::read),
        "/v1/classify" | "/classify" => Endpoint::Work(classify::read),
        "/v1/rerank" | "/v2/rerank" | "/rerank" => Endpoint::Work(similarity::rerank),
        "/v1/score" | "/score" => Endpoint::Work(similarity::score),
        "/tokenize" => Endpoint::Reply(tokens::tokenize),
        "/detokenize" => Endpoint::Reply(tokens::detokenize),
        "/v1/load_lora_adapter" => Endpoint::Alter(adapters::load),
        "/v1/unload_lora_adapter" => Endpoint::Alter(adapters::unload),
        _ => return None,
    })
}

impl State {
    /// A server that has just started.
    pub fn new(
        served: Arc<Served>,
        options: Options,
        adapters: Option<Folder>,
        board: Arc<Board>,
        orders: SyncSender<Order>,
    ) -> Self {
        let Bounds { sequences, prompt_tokens, bodies, connections, .. } = options.bounds;
        State {
            served,
            options,
            board,
            orders,
            adapters: adapters.map(Arc::new),
            changing: Arc::default(),
            sequences: Budget::new(sequences),
            prompt_tokens: Budget::new(prompt_tokens),
            bodies: Budget::new(bodies),
            connections: Arc::new(Semaphore::new(connections)),
            started: now(),
        }
    }

    /// How a model, or an adapter, is listed.
    fn model(&self, name: &str) -> Value {
        let mut model = json!({"id": name, "object": "model", "created": self.started, "owned_by": "llama-serve"});
        if name != self.served.name {
            model["parent"] = self.served.name.as_str().into();
        }
        model
    }

    /// Gives the engine's thread something to do.
    fn order(&self, order: Order) -> Result<()> {
        self.orders.try_send(order).map_err(|_| ApiError::unavailable("the engine takes no more requests"))
    }

    fn metrics(&self) -> String {
        let (sequences, tokens) = (&self.sequences, &self.prompt_tokens);
        let open = self.options.bounds.connections - self.connections.available_permits();
        self.board.metrics(&[
            ("llama_sequences_admitted", "Sequences admitted and not through", sequences.taken()),
            ("llama_sequences_limit", "Most sequences admitted", sequences.limit()),
            ("llama_prompt_tokens_admitted", "Tokens of their prompts", tokens.taken()),
            ("llama_prompt_tokens_limit", "Most tokens of prompts admitted", tokens.limit()),
            ("llama_connections_open", "Connections", open),
        ])
    }
}

/// The response to a request, which may be an error.
pub async fn respond(state: Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let words = if anthropic::has(request.uri().path()) { anthropic::error } else { ApiError::body };
    let response = route(&state, request, words).await.unwrap_or_else(|error| response::error(&error, words));
    let outcome = match response.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Count::Rejected,
        status if status.is_server_error() => Count::Failed,
        status if status.is_client_error() => Count::Refused,
        _ => Count::Answered,
    };
    state.board.count(outcome, 1);
    response
}

async fn route(state: &Arc<State>, request: Request<Incoming>, words: Words) -> Result<Response<Body>> {
    check_host(&state.options, request.headers())?;
    let path = request.uri().path().to_owned();
    if path != "/health" {
        check_key(&state.options.api_keys, request.headers())?;
    }
    let Some(endpoint) = endpoint(&path) else { return look_up(state, request.method(), &path) };
    match (request.method(), endpoint) {
        (&Method::POST, Endpoint::Work(read)) => work(state, request, read).await,
        (&Method::POST, Endpoint::Reply(reply)) => answer(state, request, reply).await,
        (&Method::POST, Endpoint::Alter(alter)) => change(state, request, alter).await,
        _ => Ok(response::wrong_method("POST", words)),
    }
}

/// Answers that need no engine.
fn look_up(state: &State, method: &Method, path: &str) -> Result<Response<Body>> {
    let (served, model) = (&state.served, |name: &str| state.model(name));
    let answer = match path {
        "/health" => state.board.health().map(|()| response::json(&json!({"status": "ok"}))),
        "/metrics" => Ok(response::text(state.metrics())),
        "/v1/models" => Ok(response::json(
            &json!({"object": "list", "data": served.names().iter().map(|name| model(name)).collect::<Vec<_>>()}),
        )),
        _ => match path.strip_prefix("/v1/models/").map(unescaped) {
            Some(name) if name == served.name || served.has(&name) => Ok(response::json(&model(&name))),
            Some(name) => Err(no_such_model(&name, served)),
            None => Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")),
        },
    };
    match *method {
        Method::GET => answer,
        _ if answer.as_ref().is_err_and(|error| error.status == StatusCode::NOT_FOUND) => answer,
        _ => Ok(response::wrong_method("GET", ApiError::body)),
    }
}

/// What a part of a path stands for: `%20` is a space (RFC 3986, 2.1). What is no such spelling is as it is.
fn unescaped(path: &str) -> Cow<'_, str> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, later)) = rest.split_first() {
        let digit = |at: usize| Some(char::from(*later.get(at)?).to_digit(16)? as u8);
        let escaped = if byte == b'%' { digit(0).zip(digit(1)) } else { None };
        bytes.push(escaped.map_or(byte, |(high, low)| 16 * high + low));
        rest = if escaped.is_some() { &later[2..] } else { later };
    }
    String::from_utf8(bytes).map_or(path.into(), Cow::from)
}

/// The walk of a request: body, fields, work, a place in the queue, the engine's thread, an answer.
async fn work(state: &Arc<State>, request: Request<Incoming>, read: Read) -> Result<Response<Body>> {
    check_kind(request.headers())?;
    check_room(state)?;
    let body = body::receive(request.into_body(), &state.options.bounds, &state.bodies).await?;
    let work = understand(state, body, move |state, mut fields| {
        let adapter = adapter(&mut fields, &state.served)?;
        let work = read(&state.served, &state.options.bounds, fields)?;
        match adapter {
            Some(adapter) => work.by(adapter),
            None => Ok(work),
        }
    });
    let work = work.await?;
    let places = admit(state, &work)?;
    let Work { tasks, answer, stream } = work;
    let bound = stream.then_some(state.options.bounds.unread);
    let (sender, receiver) = mailbox(tasks.len(), bound, places);
    state.order(Order::Job(Job { tasks, sender }))?;
    receiver.accepted().await?;
    match answer {
        Answer::Texts(texts) if stream => Ok(response::stream(receiver, texts, state.board.clone())),
        answer => Ok(response::written(answer.whole(&receiver.whole().await?))),
    }
}

/// The walk of a request that the engine need not hear of.
async fn answer(state: &Arc<State>, request: Request<Incoming>, reply: Reply) -> Result<Response<Body>> {
    check_kind(request.headers())?;
    let body = body::receive(request.into_body(), &state.options.bounds, &state.bodies).await?;
    let reply = understand(state, body, move |state, mut fields| {
        adapter(&mut fields, &state.served)?;
        reply(&state.served, fields)
    });
    reply.await.map(response::written)
}

/// The walk of a request that an adapter come or go, one at a time. Whose turn has come has it to the end, even if he goes away.
async fn change(state: &Arc<State>, request: Request<Incoming>, alter: Alter) -> Result<Response<Body>> {
    let Some(folder) = state.adapters.clone() else { return Err(no_changes()) };
    check_kind(request.headers())?;
    let body = body::receive(request.into_body(), &state.options.bounds, &state.bodies).await?;
    let turn = state.changing.clone().lock_owned().await;
    let read = move |state: &State, fields| alter(&state.served, &folder, fields);
    let changed = tokio::spawn(changed(state.clone(), body, read, turn)).await;
    changed.unwrap_or_else(|_| Err(ApiError::internal("this change failed"))).map(|model| response::json(&model))
}

/// Has the engine's thread do what the body asks for, and tells of the adapter.
async fn changed(
    state: Arc<State>,
    body: body::Received,
    read: impl FnOnce(&State, Fields) -> Result<Change> + Send + 'static,
    _turn: OwnedMutexGuard<()>,
) -> Result<Value> {
    let change = understand(&state, body, read).await?;
    let mut model = state.model(change.name());
    if matches!(change, Change::Unload(_)) {
        model = json!({"id": change.name(), "object": "model", "deleted": true});
    }
    let (reply, done) = oneshot::channel();
    state.order(Order::Change(change, reply))?;
    done.await.unwrap_or_else(|_| Err(ApiError::internal("the engine's thread did not answer")))?;
    Ok(model)
}

fn no_changes() -> ApiError {
    let message = "adapters of this server do not come and go; start it with --adapter-room and --adapter-folder";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// Parsing, templates and tokenizing take time that grows with the request: they have threads of their own.
async fn understand<T: Send + 'static>(
    state: &Arc<State>,
    body: body::Received,
    read: impl FnOnce(&State, Fields) -> Result<T> + Send + 'static,
) -> Result<T> {
    let state = state.clone();
    let read = tokio::task::spawn_blocking(move || read(&state, Fields::parse(&body.bytes)?));
    read.await.unwrap_or_else(|_| Err(ApiError::internal("understanding this request failed")))
}

/// Places for all sequences of a request, which it keeps until the last one is through.
fn admit(state: &State, work: &Work) -> Result<[Share; 2]> {
    let (sequences, limit) = (work.places(), state.sequences.limit());
    if sequences > limit {
        let problem = format!("{sequences} sequences are asked for; at most {limit} are allowed");
        return Err(ApiError::about("n", "too_many_sequences", problem));
    }
    let sequences = state.sequences.take(sequences).ok_or_else(|| full("sequences", &state.sequences))?;
    let tokens = state.prompt_tokens.take_or_first(work.prompt_tokens());
    Ok([sequences, tokens.ok_or_else(|| full("tokens of prompts", &state.prompt_tokens))?])
}

/// That a request has a chance at all, before its body is received.
fn check_room(state: &State) -> Result<()> {
    match state.sequences.taken() < state.sequences.limit() {
        true => Ok(()),
        false => Err(full("sequences", &state.sequences)),
    }
}

fn full(what: &str, budget: &Budget) -> ApiError {
    let (taken, limit) = (budget.taken(), budget.limit());
    ApiError::overloaded(format!("{taken} of {limit} {what} are waiting or running; try again later"))
}

/// The adapter that a request asks for in the model's stead. Who leaves the model's name out means the model itself.
fn adapter(fields: &mut Fields, served: &Served) -> Result<Option<String>> {
    match fields.string("model")? {
        Some(name) if served.has(&name) => Ok(Some(name)),
        Some(name) if name != served.name => Err(no_such_model(&name, served)),
        _ => Ok(None),
    }
}

fn no_such_model(name: &str, served: &Served) -> ApiError {
    let names = served.names().join(", ");
    ApiError::no_such_model(format!("there is no model {}; this server has {names}", shown(&Value::from(name))))
}

/// A body that says what it is must say JSON: a page from elsewhere can make a browser send other kinds unasked.
fn check_kind(headers: &HeaderMap) -> Result<()> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => {
            let message = "the body must be JSON, with the header Content-Type: application/json";
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
        }
    }
}

/// A server on a loopback address that asks for no key answers only to names that lead nowhere else.
fn check_host(options: &Options, headers: &HeaderMap) -> Result<()> {
    if !options.address.ip().is_loopback() || !options.api_keys.is_empty() {
        return Ok(());
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match host.is_empty() || is_own(without_port(host), &options.hosts) {
        true => Ok(()),
        false => {
            let message = "this server does not go by the name in the header Host; allow it with --host-name";
            Err(ApiError::new(StatusCode::FORBIDDEN, "unknown_host", message))
        }
    }
}

fn is_own(host: &str, names: &[String]) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| host.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// In a time that says nothing of how much of a key was right.
fn check_key(keys: &[String], headers: &HeaderMap) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let given = |name| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let bearer = given(AUTHORIZATION).split_at_checked(BEARER.len());
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER)).map_or(&b""[..], |(_, key)| key);
    let given = [bearer, given(API_KEY)];
    let right = |key: &String| given.iter().fold(0, |right, given| right | given.ct_eq(key.as_bytes()).unwrap_u8());
    match keys.iter().fold(0, |any, key| any | right(key)) {
        1 => Ok(()),
        _ => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "this server needs a key: Authorization: Bearer KEY, or x-api-key: KEY",
        )),
    }
}

const BEARER: &[u8] = b"Bearer ";
/// Where Anthropic's clients have theirs.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for own in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "[::1]", "10.0.0.1", "me.local:80"] {
            assert!(is_own(without_port(own), &["me.local".into()]), "{own}");
        }
        for other in
            ["example.com", "localhost.example.com:8080", "127.0.0.1.nip.io", "[::1", "me.local.example.com", ":80"]
        {
            let host = without_port(other);
            assert!(!is_own(host, &["me.local".into()]) || other == "[::1", "{other}");
        }
    }

    #[test]
    fn keys() {
        let headers = |value: &'static str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        let keys = ["one".to_owned(), "two".to_owned()];
        for right in ["Bearer one", "bearer two"] {
            assert!(check_key(&keys, &headers(right)).is_ok(), "{right}");
        }
        for wrong in ["", "one", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one", "Bearer  one"] {
            assert_eq!(check_key(&keys, &headers(wrong)).unwrap_err().status, 401, "{wrong}");
        }
        let anthropic = |value: &'static str| HeaderMap::from_iter([(API_KEY, value.parse().unwrap())]);
        assert!(check_key(&keys, &anthropic("two")).is_ok());
        for wrong in ["", "Bearer two", "tw", "twoo"] {
            assert_eq!(check_key(&keys, &anthropic(wrong)).unwrap_err().status, 401, "{wrong}");
        }
        let mut both = headers("Bearer three");
        both.insert(API_KEY, "one".parse().unwrap());
        assert!(check_key(&keys, &both).is_ok());
        assert_eq!(check_key(&keys, &HeaderMap::new()).unwrap_err().status, 401);
        assert!(check_key(&[], &HeaderMap::new()).is_ok());
    }
}
