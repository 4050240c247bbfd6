//! Links between nodes: QUIC with mutual TLS.

pub mod tls;
