//! The thread of the network: connections, their bounds, and the end of all of them.
//!
//! hyper speaks HTTP/1.1. It drops the future of a response whose client has gone, by which the request is cancelled.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::board::Count;
use crate::route::{State, respond};
use crate::stall::Stall;

/// Bytes of a request's head at most, and of a response that hyper keeps before it writes.
const BUFFER: usize = 64 << 10;
/// Bytes that the system keeps of what was written and not taken yet; it doubles that. More would be out of sight.
const SEND_BUFFER: u32 = 64 << 10;
/// Connections that the system keeps for us to accept.
const BACKLOG: u32 = 1024;
/// Time for error messages to leave, when requests had to be ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Listens on an address.
///
/// # Errors
/// The system's, if somebody else does already or this process may not.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if cfg!(unix) {
        // A port that was ours a moment ago is free; elsewhere the same option would let others share it.
        socket.set_reuseaddr(true)?;
    }
    // Accepted connections have it from the one that listens.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` says so, then lets requests be answered for a while. True if all of them were.
pub async fn serve(listener: TcpListener, state: Arc<State>, mut stop: watch::Receiver<bool>) -> bool {
    while !*stop.borrow_and_update() {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &state, &stop),
                // Too many open files, say: others may close some.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            // An error says that nobody can stop the server any more: that is the end as well.
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
    drop(listener);
    let all = u32::try_from(state.options.bounds.connections).unwrap_or(u32::MAX);
    let mut all = pin!(state.connections.acquire_many(all));
    if tokio::time::timeout(state.options.bounds.drain_time, all.as_mut()).await.is_ok() {
        return true;
    }
    state.board.abort.store(true, Ordering::Relaxed);
    let _ = tokio::time::timeout(LAST_WORDS, all).await;
    false
}

fn admit(stream: TcpStream, state: &Arc<State>, stop: &watch::Receiver<bool>) {
    state.board.count(Count::Connections, 1);
    match state.connections.clone().try_acquire_owned() {
        Ok(place) => drop(tokio::spawn(converse(stream, state.clone(), place, stop.clone()))),
        Err(_) => {
            state.board.count(Count::ConnectionsRefused, 1);
            // Best effort: a connection this new takes so little at once, and nobody waits for it.
            let _ = stream.try_write(
                b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
    }
}

/// Answers one connection's requests until it closes, or until the server ends and the request at hand is answered.
async fn converse(stream: TcpStream, state: Arc<State>, _place: OwnedSemaphorePermit, mut stop: watch::Receiver<bool>) {
    // Without it the pieces of a stream would wait for each other.
    let _ = stream.set_nodelay(true);
    let bounds = &state.options.bounds;
    let io = TokioIo::new(Stall::new(stream, bounds.stall_time));
    let service = service_fn(|request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(respond(state, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_time)
        .max_buf_size(BUFFER)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut ending = false;
    loop {
        tokio::select! {
            // A connection that breaks is its client's affair.
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|&stop| stop), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
