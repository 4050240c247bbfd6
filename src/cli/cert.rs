//! `shoal cert`: makes, renews and revokes the certificates of a mesh and shows what they say. It needs no
//! running node, except where one is to sign or to pass a list on.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Failure, Output};
use crate::core::ids::{MeshName, NodeId};
use crate::core::limits;
use crate::node::certs::{self, Authority, CertError, Existing, Facts, Hosts, NodeFiles, Validity};

mod renew;
mod revoke;
mod show;
mod token;

/// The subcommands of `shoal cert`.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Make the CA of a new mesh: ca.crt and ca.key
    #[command(after_help = "Example: shoal cert ca --out /secure/ca --mesh prod")]
    Ca(CaArgs),
    /// Make a node's certificate and key, signed by the mesh's CA
    #[command(after_help = "Examples:
  shoal cert issue --ca /secure/ca --node-id node-1 --out /var/lib/shoal/certs
  shoal cert issue --ca /secure/ca --node-id node-1 --out out --csr node-1.csr   (the key stays on the node)")]
    Issue(IssueArgs),
    /// Make a join token: it gets one machine its first certificate from a node that runs with --ca
    #[command(after_help = "Example: shoal cert token --ca /secure/ca --node-id node-4 --ttl 10m > token")]
    Token(token::TokenArgs),
    /// Make a new key and certificate for a node that has one
    #[command(after_help = "Examples:
  shoal cert renew --certs /var/lib/shoal/certs --join node-1.example.com
  shoal cert renew --certs /var/lib/shoal/certs --ca /secure/ca")]
    Renew(renew::RenewArgs),
    /// Revoke certificates: write them into the CA's list, and give the list to the mesh
    #[command(after_help = "Examples:
  shoal cert revoke --ca /secure/ca --node-id node-3 --reason key-compromise --publish
  shoal cert revoke --ca /secure/ca --serial 4f:0a:b1")]
    Revoke(revoke::RevokeArgs),
    /// Make the CA's list of revoked certificates anew, before the last one says that it is old
    #[command(after_help = "Example: shoal cert crl --ca /secure/ca --publish")]
    Crl(revoke::CrlArgs),
    /// Show what certificates, revocation lists and a CA's ledger say
    #[command(after_help = "Examples:
  shoal cert show /var/lib/shoal/certs -o json
  shoal cert show /var/lib/shoal/certs/node.crt --ca /secure/ca")]
    Show(ShowArgs),
}

/// Arguments of `shoal cert ca`.
#[derive(Debug, Args)]
pub struct CaArgs {
    /// Directory for ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the mesh; it becomes part of every node's identity
    #[arg(long, value_name = "NAME")]
    mesh: MeshName,
    /// Days until the CA expires
    #[arg(long, default_value_t = 3650, value_parser = days())]
    days: u32,
    /// Replace an existing CA; the certificates that it signed are not trusted with the new one
    #[arg(long)]
    force: bool,
}

/// Arguments of `shoal cert issue`.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// Directory of the CA, with ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Id of the node
    #[arg(long, value_name = "ID")]
    node_id: NodeId,
    /// Directory for node.crt, node.key and a copy of ca.crt
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// DNS name to put into the certificate; nodes do not need one (may be repeated)
    #[arg(long, value_name = "HOST")]
    dns: Vec<String>,
    /// IP address to put into the certificate; nodes do not need one (may be repeated)
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// Days until the certificate expires
    #[arg(long, default_value_t = 365, value_parser = days())]
    days: u32,
    /// Sign the key of this request (PKCS#10, PEM) instead of making one; only the key is taken from it
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

/// Arguments of `shoal cert show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A file with certificates or revocation lists, or a directory of a node or a CA
    path: PathBuf,
    /// Directory of the CA, to tell what its ledger knows of them
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Does what the subcommand asks and tells it to `out`. `now` is the time that new certificates
/// begin at and that days left are counted from.
///
/// # Errors
/// [`Failure`], also when `out` takes no more.
pub fn run(command: &CertCommand, now: SystemTime, out: &mut dyn Write) -> Result<(), Failure> {
    let text = match command {
        CertCommand::Ca(args) => make_ca(args, now)?,
        CertCommand::Issue(args) => issue(args, now)?,
        CertCommand::Token(args) => token::token(args, now)?,
        CertCommand::Renew(args) => renew::renew(args, now)?,
        CertCommand::Revoke(args) => revoke::revoke(args, now)?,
        CertCommand::Crl(args) => revoke::crl(args, now)?,
        CertCommand::Show(args) => show::show(&args.path, args.ca.as_deref(), args.output, now)?,
    };
    Ok(out
        .write_all(text.as_bytes())
        .map_err(|source| CertError::Io { action: "print the result", source })?)
}

impl From<CertError> for Failure {
    fn from(error: CertError) -> Self {
        Self::Refused(error.to_string())
    }
}

fn make_ca(args: &CaArgs, now: SystemTime) -> Result<String, CertError> {
    let pair = certs::make_ca(&args.mesh, Validity::starting(now, args.days)?)?;
    let written = certs::write_ca(&args.out, &pair, existing(args.force))?;
    Ok(format!(
        "Made the CA of mesh {}, valid until {}:\n{}Keep {} off the nodes: whoever has it can become any node of the mesh.\n",
        args.mesh,
        not_after(&pair.cert_pem)?,
        list(&written),
        certs::CA_KEY,
    ))
}

fn issue(args: &IssueArgs, now: SystemTime) -> Result<String, CertError> {
    let authority = Authority::open(&args.ca)?;
    let ca = authority.ca()?;
    let validity = Validity::starting(now, args.days)?;
    if existing(args.force) == Existing::Keep {
        certs::check_free(&args.out, args.csr.is_none())?;
    }
    let hosts = Hosts { dns: args.dns.clone(), ip: args.ip.clone() };
    let (cert_pem, key_pem) = match &args.csr {
        Some(path) => {
            let request = certs::read_text(path)?;
            let issued = authority.issue(&args.node_id, Some(&request), &hosts, validity, now);
            issued.map_err(|error| at_request(error, path))?
        }
        None => authority.issue(&args.node_id, None, &hosts, validity, now)?,
    };
    let files = NodeFiles { ca_pem: ca.bundle_pem(), cert_pem: &cert_pem, key_pem: key_pem.as_deref() };
    let written = certs::write_node(&args.out, &files, existing(args.force))?;
    Ok(format!(
        "Issued a certificate for node {} of mesh {}, valid until {}:\n{}",
        args.node_id,
        ca.mesh(),
        not_after(&cert_pem)?,
        list(&written),
    ))
}

fn at_request(error: CertError, path: &Path) -> CertError {
    if matches!(error, CertError::Request { .. }) { error.at(path) } else { error }
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(limits::CERT_DAYS_MAX))
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("  {}\n", path.display())).collect()
}

fn not_after(cert_pem: &str) -> Result<String, CertError> {
    let certificates = certs::parse_certificates(cert_pem)?;
    let leaf = certificates.first().ok_or(CertError::NoCertificate)?;
    Ok(date(Facts::read(leaf)?.not_after))
}

/// A time as RFC 3339 in UTC, or `-` for a year that it cannot express.
fn date(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    #[derive(Debug, Parser)]
    struct Shoal {
        #[command(subcommand)]
        command: CertCommand,
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// Runs `shoal cert <line>` where `@` stands for the directory of the test.
    fn shoal(dir: &TempDir, line: &str) -> Result<String, String> {
        let line = line.replace('@', dir.path().to_str().expect("text"));
        let parsed = Shoal::try_parse_from(std::iter::once("shoal").chain(line.split(' ')));
        let mut out = Vec::new();
        run(&parsed.map_err(|error| error.to_string())?.command, now(), &mut out)
            .map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).expect("text"))
    }

    fn mesh() -> TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        shoal(&dir, "ca --out @/ca --mesh prod").expect("made");
        dir
    }

    #[test]
    fn the_definition_of_the_command_is_consistent() {
        use clap::CommandFactory as _;
        Shoal::command().debug_assert();
    }

    #[test]
    fn an_issued_directory_is_an_identity() {
        let dir = mesh();
        let told = shoal(&dir, "issue --ca @/ca --node-id node-1 --out @/n --dns a.example --ip 10.0.0.1")
            .expect("issued");
        assert!(told.contains("node node-1 of mesh prod, valid until 2028-01-15T08:00:00Z"), "{told}");
        let file = |name| dir.path().join("n").join(name);
        let identity = crate::node::transport::tls::NodeIdentity::load(
            &file(certs::CA_CERT),
            &file(certs::NODE_CERT),
            &file(certs::NODE_KEY),
            now(),
        );
        assert_eq!(identity.expect("an identity").node_id.as_str(), "node-1");
    }

    #[test]
    fn neither_a_ca_nor_a_node_is_replaced_without_force() {
        let dir = mesh();
        shoal(&dir, "issue --ca @/ca --node-id node-1 --out @/n").expect("issued");
        let key = |name: &str| fs::read(dir.path().join(name)).expect("there");
        let before = (key("ca/ca.key"), key("n/node.key"));
        for line in ["ca --out @/ca --mesh prod", "issue --ca @/ca --node-id node-1 --out @/n"] {
            let error = shoal(&dir, line).expect_err("in the way");
            assert!(error.contains("--force"), "{error}");
        }
        assert_eq!((key("ca/ca.key"), key("n/node.key")), before);
        shoal(&dir, "issue --ca @/ca --node-id node-1 --out @/n --force").expect("replaced");
        assert_ne!(key("n/node.key"), before.1);
    }

    #[test]
    fn a_name_or_a_number_outside_its_rules_is_bad_usage() {
        let dir = mesh();
        for (line, why) in [
            ("issue --ca @/ca --out @/n --node-id a/b", "only letters"),
            ("issue --ca @/ca --out @/n --node-id ../a", "only letters"),
            ("issue --ca @/ca --out @/n --node-id -a", "node-id"),
            ("issue --ca @/ca --out @/n --node-id=_a", "must begin"),
            ("issue --ca @/ca --out @/n --node-id=", "empty"),
            ("issue --ca @/ca --out @/n --node-id a\u{1b}[2J", "only letters"),
            ("issue --ca @/ca --out @/n --node-id a --days 0", "days"),
            ("issue --ca @/ca --out @/n --node-id a --ip a.example", "ip"),
            ("ca --out @/x --mesh a/b", "only letters"),
        ] {
            let error = shoal(&dir, line).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
        assert!(!dir.path().join("n").exists() && !dir.path().join("x").exists());
    }

    #[test]
    fn a_request_gets_a_certificate_and_no_key() {
        let dir = mesh();
        let key = rcgen::KeyPair::generate().expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        fs::write(dir.path().join("csr"), request.pem().expect("PEM")).expect("written");
        shoal(&dir, "issue --ca @/ca --node-id node-1 --out @/n --csr @/csr").expect("issued");
        assert!(dir.path().join("n/node.crt").exists() && !dir.path().join("n/node.key").exists());
        let error =
            shoal(&dir, "issue --ca @/ca --node-id b --out @/m --csr @/ca/ca.crt").expect_err("no request");
        assert!(error.contains("ca.crt") && error.contains("signing request"), "{error}");
    }

    #[test]
    fn a_directory_without_a_ca_is_named() {
        let dir = mesh();
        let error = shoal(&dir, "issue --ca @/nowhere --node-id a --out @/n").expect_err("no CA");
        assert!(error.contains("nowhere/ca.crt"), "{error}");
    }

    #[test]
    fn show_tells_whom_a_certificate_names_and_who_signed_it() {
        let dir = mesh();
        shoal(&dir, "issue --ca @/ca --node-id node-1 --out @/n --ip 10.0.0.1").expect("issued");
        let json = shoal(&dir, "show @/n -o json").expect("shown");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let (node, ca) = (&json[0], &json[1]);
        assert_eq!((&node["kind"], &ca["kind"]), (&"node".into(), &"ca".into()));
        assert_eq!((&node["node_id"], &node["mesh"]), (&"node-1".into(), &"prod".into()));
        assert_eq!(node["days_left"], 365);
        assert_eq!(node["not_before"], "2027-01-15T07:55:00Z");
        assert_eq!(node["key_usages"], serde_json::json!(["digitalSignature", "serverAuth", "clientAuth"]));
        assert_eq!(node["issuer_fingerprint"], ca["fingerprint"]);
        assert_eq!(ca["issuer_fingerprint"], ca["fingerprint"]);
        let table = shoal(&dir, "show @/n/node.crt").expect("shown");
        for text in ["node-1", "prod", ca["fingerprint"].as_str().expect("text"), "10.0.0.1", "365"] {
            assert!(table.contains(text), "{text} is not in {table}");
        }
    }

    #[test]
    fn show_never_opens_a_key() {
        let dir = mesh();
        let error = shoal(&dir, "show @/ca/ca.key").expect_err("a key");
        assert!(error.contains("no certificate"), "{error}");
        let shown = shoal(&dir, "show @/ca").expect("shown");
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
