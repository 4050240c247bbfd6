//! `shoal cert renew`: a new key and a new certificate for a node that has one, by hand or from a node of the mesh.
//!
//! Key and certificate are written one right after the other, each in one step; a node that watches its files waits
//! until they belong together.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use rustls_pki_types::CertificateDer;

use super::{date, list};
use crate::cli::{Failure, wait_for};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::node::certs::{
    self, Authority, CA_CERT, CertError, Existing, Facts, Granted, NODE_CERT, NODE_KEY, NodeFiles, Renewing,
    SpiffeName,
};
use crate::node::config::{CLUSTER_PORT, HostPort};
use crate::node::transport::join::{self, Asker};
use crate::node::transport::tls::NodeIdentity;

/// Arguments of `shoal cert renew`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("signer").required(true).multiple(false))]
pub struct RenewArgs {
    /// Directory of the node's certificates, with node.crt, node.key and ca.crt
    #[arg(long, value_name = "DIR")]
    certs: PathBuf,
    /// Sign with the CA in this directory
    #[arg(long, value_name = "DIR", group = "signer")]
    ca: Option<PathBuf>,
    /// Ask nodes of the mesh, of which one has the CA; repeatable or separated by commas
    #[arg(long, value_name = "HOST[:PORT]", group = "signer", value_delimiter = ',')]
    join: Vec<String>,
    /// Days until the new certificate expires [default: as many as the present one was given]
    #[arg(long, value_parser = super::days(), conflicts_with = "join")]
    days: Option<u32>,
}

/// What was done, for people.
pub(super) fn renew(args: &RenewArgs, now: SystemTime) -> Result<String, Failure> {
    let present = present(&args.certs)?;
    let key_pem = certs::new_key_pem()?;
    let request_pem = certs::request_for(&key_pem)?;
    let granted = match &args.ca {
        Some(dir) => {
            let authority = Authority::open(dir)?;
            let granted =
                authority.renew(&present, &request_pem, Renewing::Operator { days: args.days }, now);
            granted.map_err(|refused| Failure::Refused(format!("it is not renewed: {refused}")))?
        }
        None => {
            let granted = ask(args, &request_pem, now)?;
            check_ca(&args.certs, &granted.cert_pem)?;
            granted
        }
    };
    let written = write(args, &granted, &key_pem)?;
    let facts = Facts::read(&leaf(&granted.cert_pem)?)?;
    let (_, node) =
        SpiffeName::from_uris(&facts.uris).and_then(SpiffeName::into_node).map_err(CertError::from)?;
    Ok(format!(
        "Renewed the certificate of node {node}, valid until {}:\n{}A running node takes it up by itself. The old one stays good until it expires.\n",
        date(facts.not_after),
        list(&written),
    ))
}

fn present(dir: &Path) -> Result<CertificateDer<'static>, CertError> {
    let path = dir.join(NODE_CERT);
    certs::read_certificates(&path)?.into_iter().next().ok_or_else(|| CertError::NoCertificate.at(path))
}

/// Asks the nodes, as the node whose files are there.
fn ask(args: &RenewArgs, request_pem: &str, now: SystemTime) -> Result<Granted, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::Refused(error.to_string());
    let file = |name| args.certs.join(name);
    let identity = NodeIdentity::load(&file(CA_CERT), &file(NODE_CERT), &file(NODE_KEY), now)
        .map_err(|error| refused(&error))?;
    let (cert_pem, key_pem) = (certs::read_text(&file(NODE_CERT))?, certs::read_text(&file(NODE_KEY))?);
    let seeds = seeds(&args.join)?;
    let node: NodeId = identity.node_id.clone();
    let mut granted = None;
    wait_for(async {
        let asker = Asker::Node { identity: &identity, cert_pem: &cert_pem, key_pem: &key_pem };
        granted = Some(join::ask(&seeds, &asker, &node, request_pem).await.map_err(|error| refused(&error))?);
        Ok(())
    })?;
    granted.ok_or_else(|| Failure::Refused("no node has given a certificate".to_owned()))
}

fn seeds(texts: &[String]) -> Result<Vec<String>, Failure> {
    if texts.len() > limits::SEEDS_MAX {
        return Err(Failure::Usage(format!(
            "{} nodes to ask are too many: at most {}",
            texts.len(),
            limits::SEEDS_MAX
        )));
    }
    let parse = |text: &String| {
        let parsed = HostPort::parse(text.trim(), CLUSTER_PORT);
        parsed.map(|seed| seed.to_string()).map_err(|error| Failure::Usage(format!("--join: {error}")))
    };
    texts.iter().map(parse).collect()
}

/// A node that answers need not be right about the CAs: what the present `ca.crt` does not trust is not written.
fn check_ca(dir: &Path, cert_pem: &str) -> Result<(), Failure> {
    let path = dir.join(CA_CERT);
    let leaf = leaf(cert_pem)?;
    if certs::read_certificates(&path)?.iter().any(|ca| certs::is_signed_by(&leaf, ca)) {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::Refused(format!(
        "the new certificate is signed by a CA that {path} does not have: add that CA to it first"
    )))
}

fn write(args: &RenewArgs, granted: &Granted, key_pem: &str) -> Result<Vec<PathBuf>, CertError> {
    let present = certs::read_text(&args.certs.join(CA_CERT));
    // By hand the CA's bundle is the word of whoever has the CA; a node's is not.
    let ca_pem = match (&args.ca, present) {
        (None, Ok(present)) => present,
        (Some(_) | None, _) => granted.ca_pem.clone(),
    };
    let files = NodeFiles { ca_pem: &ca_pem, cert_pem: &granted.cert_pem, key_pem: Some(key_pem) };
    certs::write_node(&args.certs, &files, Existing::Replace)
}

fn leaf(cert_pem: &str) -> Result<CertificateDer<'static>, CertError> {
    certs::parse_certificates(cert_pem)?.into_iter().next().ok_or(CertError::NoCertificate)
}
