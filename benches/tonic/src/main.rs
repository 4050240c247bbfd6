//! A request and its answer over tonic with mutual TLS, for `benches/messages`: `server CERTS` prints its address,
//! `client CERTS ADDRESS` answers each line with a number on its standard input with as many round trips, in nanoseconds.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::{BufRead, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

type Failure = Box<dyn std::error::Error>;

/// As large as the content of the other benchmarks.
const CONTENT: usize = 128;
const METHOD: &str = "/bench.Echo/Ask";

#[derive(Clone, PartialEq, prost::Message)]
struct Content {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", certs] => runtime.block_on(serve(Path::new(certs))),
        ["client", certs, address] => {
            let channel = runtime.block_on(connect(Path::new(certs), address))?;
            for line in std::io::stdin().lock().lines() {
                let count = line?.trim().parse()?;
                let samples: Vec<_> = runtime
                    .block_on(ask(channel.clone(), count))?
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                println!("{}", samples.join(" "));
                std::io::stdout().flush()?;
            }
            Ok(())
        }
        _ => Err("server CERTS | client CERTS ADDRESS".into()),
    }
}

fn identity(certs: &Path, name: &str) -> Result<(Certificate, Identity), Failure> {
    let read = |file: String| std::fs::read(certs.join(file));
    let ca = Certificate::from_pem(read("ca.crt".to_owned())?);
    Ok((ca, Identity::from_pem(read(format!("{name}.crt"))?, read(format!("{name}.key"))?)))
}

// --- the client ---

async fn connect(certs: &Path, address: &str) -> Result<Channel, Failure> {
    let (ca, identity) = identity(certs, "client")?;
    let tls = ClientTlsConfig::new().ca_certificate(ca).identity(identity).domain_name("localhost");
    let endpoint = Channel::from_shared(format!("https://{address}"))?.tls_config(tls)?.tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

async fn ask(channel: Channel, count: usize) -> Result<Vec<u128>, Failure> {
    let mut client = tonic::client::Grpc::new(channel);
    let content = Content { bytes: Bytes::from_static(&[7; CONTENT]) };
    let mut samples = Vec::with_capacity(count);
    // On a task of its own, where the executor's threads run it, and not on the one that blocks.
    let asking = tokio::spawn(async move {
        for _ in 0..count {
            let begun = Instant::now();
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = http::uri::PathAndQuery::from_static(METHOD);
            let codec = ProstCodec::<Content, Content>::default();
            let answer = client.unary(Request::new(content.clone()), path, codec).await?;
            samples.push(begun.elapsed().as_nanos());
            assert_eq!(answer.into_inner().bytes.len(), CONTENT);
        }
        Ok::<_, Status>(samples)
    });
    Ok(asking.await??)
}

// --- the server ---

async fn serve(certs: &Path) -> Result<(), Failure> {
    let (ca, identity) = identity(certs, "server")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let tls = ServerTlsConfig::new().identity(identity).client_ca_root(ca);
    Ok(Server::builder().tls_config(tls)?.add_service(Echo).serve_with_incoming(incoming).await?)
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<Content> for Echo {
    type Response = Content;
    type Future = Ready<Result<Response<Content>, Status>>;

    fn call(&mut self, request: Request<Content>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<Content, Content>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Echo, request).await)
        })
    }
}
