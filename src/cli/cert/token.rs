//! `shoal cert token`: a join token, the one line on stdout.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::core::ids::NodeId;
use crate::node::certs::{Ca, CertError, JoinToken};

/// Arguments of `shoal cert token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Directory of the CA, with ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The only name that the token gets a certificate for
    #[arg(long, value_name = "ID")]
    node_id: NodeId,
    /// How long the token is good, as 10m or 1h, at most 7days
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Days until the certificate expires
    #[arg(long, default_value_t = 365, value_parser = super::days())]
    days: u32,
}

/// The token and a line end.
pub(super) fn token(args: &TokenArgs, now: SystemTime) -> Result<String, CertError> {
    let ca = Ca::load(&args.ca)?;
    let token = JoinToken::new(&ca, &args.node_id, now, args.ttl, args.days)?;
    Ok(token.text()? + "\n")
}
