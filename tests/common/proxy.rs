//! A UDP relay in between, which sees every datagram and may change or drop it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    Server,
    Client,
}

/// A relay to one server for one client; it ends with the value.
pub struct Proxy {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// `pass` may change a datagram, and says whether it goes on.
    pub async fn before(
        server: SocketAddr,
        mut pass: impl FnMut(Toward, &mut Vec<u8>) -> bool + Send + 'static,
    ) -> Self {
        let bind = || UdpSocket::bind(("127.0.0.1", 0));
        let (near, far) = (bind().await.expect("a port"), bind().await.expect("a port"));
        far.connect(server).await.expect("connected");
        let address = near.local_addr().expect("bound");
        let near = Arc::new(near);
        let task = tokio::spawn(async move {
            let mut client = None;
            let (mut from_client, mut from_server) = (vec![0; 64 << 10], vec![0; 64 << 10]);
            loop {
                tokio::select! {
                    Ok((length, from)) = near.recv_from(&mut from_client) => {
                        client = Some(from);
                        let mut datagram = from_client[..length].to_vec();
                        if pass(Toward::Server, &mut datagram) {
                            let _ = far.send(&datagram).await;
                        }
                    }
                    Ok(length) = far.recv(&mut from_server) => {
                        let mut datagram = from_server[..length].to_vec();
                        if let Some(client) = client && pass(Toward::Client, &mut datagram) {
                            let _ = near.send_to(&datagram, client).await;
                        }
                    }
                }
            }
        });
        Self { address, task }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
