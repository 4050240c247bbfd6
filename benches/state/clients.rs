//! Clients that each wait for one durable write before they make the next, and what they measure.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shoal::core::model::Ticket;
use shoal::core::wire::{Ack, RequestBody, ResponseBody, StateAnswer, StateRequest};
use shoal::node::Handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{key, value};

/// One client.
pub(crate) trait Client: Send + 'static {
    /// Makes the `n`-th write, and waits until it is answered as durable.
    fn write(&mut self, n: u64) -> impl Future<Output = ()> + Send;
}

/// What a round of writes took.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) took: Duration,
    /// Each write, in milliseconds.
    pub(crate) waits: Vec<f64>,
}

impl Round {
    pub(crate) fn per_second(&self) -> f64 {
        self.waits.len() as f64 / self.took.as_secs_f64()
    }
}

/// Lets every client make `each` writes, numbered from `first` on.
pub(crate) async fn round<C: Client>(clients: Vec<C>, each: u64, first: u64) -> (Round, Vec<C>) {
    let begun = Instant::now();
    let count = clients.len() as u64;
    let tasks: Vec<_> = (first..)
        .zip(clients)
        .map(|(from, mut client)| {
            tokio::spawn(async move {
                let mut waits = Vec::with_capacity(each as usize);
                for time in 0..each {
                    let begun = Instant::now();
                    client.write(from + time * count).await;
                    waits.push(millis(begun.elapsed()));
                }
                (client, waits)
            })
        })
        .collect();
    let (mut round, mut clients) = (Round::default(), Vec::new());
    for task in tasks {
        let (client, waits) = task.await.expect("a client does not panic");
        clients.push(client);
        round.waits.extend(waits);
    }
    round.took = begun.elapsed();
    (round, clients)
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// In the node's own process.
#[derive(Clone)]
pub(crate) struct Local(pub(crate) Handle);

impl Client for Local {
    async fn write(&mut self, n: u64) {
        match put(&self.0, key(n), value(n)).await {
            StateAnswer::Written { .. } => {}
            other => panic!("a write in a healthy mesh was answered with {other:?}"),
        }
    }
}

/// Writes a key on a node.
pub(crate) async fn put(node: &Handle, key: String, value: Vec<u8>) -> StateAnswer {
    let put = StateRequest::Put { key, value: Some(value.into()), context: None, ack: Ack::Local };
    state(node, put).await
}

/// The ticket of a write that has to wait.
pub(crate) async fn put_queued(node: &Handle, key: String, value: Vec<u8>) -> Ticket {
    match put(node, key, value).await {
        StateAnswer::Queued { ticket } => ticket,
        other => panic!("a write in a minority was answered with {other:?}"),
    }
}

/// Asks a node about its own state.
pub(crate) async fn state(node: &Handle, request: StateRequest) -> StateAnswer {
    match node.request(node.own().clone(), RequestBody::State(request)).await {
        Ok(ResponseBody::State(answer)) => answer,
        other => panic!("a question about the state was answered with {other:?}"),
    }
}

/// Over HTTP, on a connection that stays.
pub(crate) struct Http {
    connection: TcpStream,
    /// The request of a write.
    request: fn(u64) -> String,
    answer: Vec<u8>,
}

impl Http {
    pub(crate) async fn connect(server: SocketAddr, request: fn(u64) -> String) -> Self {
        let connection = TcpStream::connect(server).await.expect("the server listens");
        connection.set_nodelay(true).expect("a socket");
        Self { connection, request, answer: Vec::new() }
    }
}

impl Client for Http {
    async fn write(&mut self, n: u64) {
        self.connection.write_all((self.request)(n).as_bytes()).await.expect("the server reads");
        self.answer.clear();
        while !is_whole(&self.answer) {
            let read = self.connection.read_buf(&mut self.answer).await.expect("the server answers");
            assert!(read > 0, "the server closed: {}", String::from_utf8_lossy(&self.answer));
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.answer));
    }
}

/// Whether an answer with a `content-length` has arrived.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    answer.len() >= end + 4 + length.expect("both servers tell the length of their answers")
}

/// A write of Shoal's API.
pub(crate) fn shoal_put(n: u64) -> String {
    let body = format!("{{\"value\":\"{}\"}}", String::from_utf8_lossy(&value(n)));
    let (key, length) = (key(n), body.len());
    format!(
        "PUT /v1/state/{key} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
