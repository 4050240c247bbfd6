//! `shoal cert revoke` and `shoal cert crl`: what the CA takes back, and the list that tells the nodes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::date;
use crate::cli::client::{ANSWER_DEADLINE, Connection};
use crate::cli::{Failure, client_of, wait_for};
use crate::core::ids::NodeId;
use crate::node::certs::{self, Authority, CA_CRL, Revocation, Revoking, Serial, Which};

/// Where the API takes a list of revoked certificates.
const CRL_PATH: &str = "/v1/certificates/crl";

/// Why a certificate is revoked, in the words of RFC 5280.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Reason {
    /// It is not said
    #[default]
    Unspecified,
    /// Somebody else has the key, or may have
    KeyCompromise,
    /// What the certificate says of its owner is no longer so
    AffiliationChanged,
    /// Another certificate took its place
    Superseded,
    /// The node is gone for good
    CessationOfOperation,
    /// The node may no longer be what it was
    PrivilegeWithdrawn,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }
}

/// Arguments of `shoal cert revoke`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(false))]
pub struct RevokeArgs {
    /// Directory of the CA, with ca.crt, ca.key and ledger.jsonl
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Revoke every certificate of this node that has not expired
    #[arg(long, value_name = "ID", group = "which")]
    node_id: Option<NodeId>,
    /// Revoke the certificate with this serial number, in hexadecimal
    #[arg(long, value_name = "SERIAL", group = "which", value_parser = serial)]
    serial: Option<Serial>,
    /// Revoke the certificate in this file; the ledger need not know it
    #[arg(long, value_name = "FILE", group = "which")]
    cert: Option<PathBuf>,
    /// Why; it is kept in the ledger
    #[arg(long, value_enum, default_value_t)]
    reason: Reason,
    #[command(flatten)]
    publish: Publish,
}

/// Arguments of `shoal cert crl`.
#[derive(Debug, Args)]
pub struct CrlArgs {
    /// Directory of the CA, with ca.crt, ca.key and ledger.jsonl
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    #[command(flatten)]
    publish: Publish,
}

/// Whether a running node is given the list.
#[derive(Debug, Args)]
struct Publish {
    /// Give the list to a running node, which passes it on to the whole mesh
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    connection: Connection,
}

fn serial(text: &str) -> Result<Serial, String> {
    text.parse().map_err(|error: certs::CertError| error.to_string())
}

/// What was done, for people.
pub(super) fn revoke(args: &RevokeArgs, now: SystemTime) -> Result<String, Failure> {
    args.publish.check()?;
    let which = which(args)?;
    let authority = Authority::open(&args.ca)?;
    let revoking = authority.revoke(&which, args.reason.as_str(), now)?;
    let mut text = told(&revoking, &args.ca);
    if args.publish.publish {
        args.publish.send(&revoking.crl_pem, "the certificates are revoked and the list is written")?;
        text.push_str(PUBLISHED);
    } else {
        let ca = args.ca.display();
        writeln!(text, "No node knows yet: `shoal cert crl --ca {ca} --publish` makes a new list and gives it to the mesh.")
            .expect("a String takes all text");
    }
    Ok(text)
}

const PUBLISHED: &str =
    "A node has taken the list and passes it on: the mesh closes the connections of what it names.\n";

/// What was done, for people.
pub(super) fn crl(args: &CrlArgs, now: SystemTime) -> Result<String, Failure> {
    args.publish.check()?;
    let (crl_pem, number) = Authority::open(&args.ca)?.sign_crl(now)?;
    let file = args.ca.join(CA_CRL);
    let mut text =
        format!("Made the list of revoked certificates with number {number}:\n  {}\n", file.display());
    if args.publish.publish {
        args.publish.send(&crl_pem, "the list is written")?;
        text.push_str(PUBLISHED);
    }
    Ok(text)
}

fn which(args: &RevokeArgs) -> Result<Which, Failure> {
    if let Some(node) = &args.node_id {
        return Ok(Which::Node(node.clone()));
    }
    if let Some(serial) = &args.serial {
        return Ok(Which::Serial(serial.clone()));
    }
    let path = args.cert.as_deref().unwrap_or(Path::new(""));
    let mut certificates = certs::read_certificates(path)?;
    if certificates.len() > 1 {
        let (path, count) = (path.display(), certificates.len());
        return Err(Failure::Usage(format!(
            "{path} holds {count} certificates: give a file with the one to revoke"
        )));
    }
    Ok(Which::Certificate(certificates.swap_remove(0)))
}

fn told(revoking: &Revoking, ca: &Path) -> String {
    let mut text = String::new();
    for (head, list) in [("Revoked", &revoking.newly), ("Revoked before", &revoking.already)] {
        if !list.is_empty() {
            let lines = list.iter().map(line).collect::<String>();
            write!(text, "{head}:\n{lines}").expect("a String takes all text");
        }
    }
    let file = ca.join(CA_CRL);
    writeln!(text, "The list of revoked certificates has number {}: {}", revoking.number, file.display())
        .expect("a String takes all text");
    text
}

fn line(one: &Revocation) -> String {
    let node = one.node_id.as_ref().map_or("-", NodeId::as_str);
    let end = one.not_after.map_or("-".to_owned(), date);
    format!("  node {node}, serial {}, valid until {end}, {}\n", one.serial, one.reason)
}

#[derive(Serialize)]
struct CrlBody<'a> {
    crl_pem: &'a str,
}

impl Publish {
    fn check(&self) -> Result<(), Failure> {
        if self.connection.is_given() && !self.publish {
            return Err(Failure::Usage(
                "--api and --token-file say where to publish: add --publish".to_owned(),
            ));
        }
        Ok(())
    }

    /// `done` is what stands although this fails.
    fn send(&self, crl_pem: &str, done: &str) -> Result<(), Failure> {
        let sent = wait_for(async {
            let client = client_of(&self.connection)?;
            let _: serde_json::Value = client.post(CRL_PATH, &CrlBody { crl_pem }, ANSWER_DEADLINE).await?;
            Ok(())
        });
        let told = |why: String| format!("{done}, but not published: {why}");
        match sent {
            Ok(_) => Ok(()),
            Err(Failure::Refused(why)) => Err(Failure::Refused(told(why))),
            Err(Failure::Usage(why)) => Err(Failure::Usage(told(why))),
            Err(Failure::Unreachable(why)) => Err(Failure::Unreachable(told(why))),
            Err(Failure::TimedOut(why)) => Err(Failure::TimedOut(told(why))),
            Err(Failure::Queued(why)) => Err(Failure::Queued(told(why))),
            Err(gone @ (Failure::ReaderGone | Failure::Changes)) => Err(gone),
        }
    }
}
