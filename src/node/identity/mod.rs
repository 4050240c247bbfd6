//! The node's identity while it runs: its certificate, the CAs that it trusts and what they have revoked.
//!
//! One task, the `Keeper`, owns all of it. It looks at the files every half second, and at once when it is told
//! to; it takes in revocation lists of peers and of the API; it closes links whose certificate is good no more
//! and tells the core; it warns of what is about to end. A set of files that is no good is refused as a whole, once
//! and aloud, and the former stays in use.
//!
//! Files are read, not watched: they are mounted in odd ways, and a notice of the system does not say that
//! the writer is done. A set counts once it has stayed the same for one interval, so that a certificate and a key
//! which are copied one after the other are taken together.
//!
//! It issues nothing, and it does not choose whom to trust beyond what the files say.

mod expiry;
mod keeper;
mod lists;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use self::lists::Lists;
use super::certs::{self, CertError, Facts, Serial};
use super::config::{Config, CrlFile, TlsPaths};
use super::transport::tls::{NodeIdentity, TlsError};
use crate::core::ids::{CaKeyId, NodeId};
use crate::core::limits;

pub(super) use self::keeper::Keeper;
pub use self::lists::{OfferError, Offered};

/// Where the parts of an identity are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    tls: TlsPaths,
    /// Where lists are kept that came from elsewhere.
    kept: PathBuf,
}

impl Places {
    pub(super) fn of(config: &Config) -> Self {
        Self { tls: config.tls.clone(), kept: config.node.data_dir.join("crls") }
    }

    /// Over the content of all files: equal while nothing changes.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for path in [&*self.tls.ca, &*self.tls.cert, &*self.tls.key, self.tls.crl.path()] {
            match read_bounded(path) {
                Ok(bytes) => {
                    digest.update((bytes.len() as u64).to_le_bytes());
                    digest.update(bytes);
                }
                // A file that is not there differs from an empty one.
                Err(error) => digest.update(format!("{:?}", error.kind())),
            }
        }
        digest.finalize().into()
    }
}

/// What is too large is judged, and refused, by whoever parses it.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    // Looked at twice a second: room for most of them, so that one is read at once and not in seven pieces.
    let mut bytes = Vec::with_capacity(4 << 10);
    std::fs::File::open(path)?.take(limits::CRL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An identity as it was read, with the lists that apply to it.
#[derive(Debug)]
pub(super) struct Loaded {
    identity: NodeIdentity,
    lists: Lists,
}

impl Loaded {
    /// Reads everything for the start of a node.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what to do.
    pub(super) fn at_start(places: &Places, now: SystemTime) -> Result<Self, TlsError> {
        let kept = Lists::kept_in(&places.kept);
        Self::read(places, &kept, now)
    }

    /// Reads the files, and adds `known` lists to those that they hold.
    fn read(places: &Places, known: &Lists, now: SystemTime) -> Result<Self, TlsError> {
        let TlsPaths { ca, cert, key, crl } = &places.tls;
        let identity = NodeIdentity::load(ca, cert, key, now)?;
        let mut lists = known.trusted_by(identity.cas());
        if let Some(found) = read_lists(crl)? {
            lists.add_file(crl.path(), &found, identity.cas())?;
        }
        let identity = identity.with_crls(lists.all());
        Ok(Self { identity, lists })
    }

    pub(super) fn identity(&self) -> &NodeIdentity {
        &self.identity
    }
}

fn read_lists(
    file: &CrlFile,
) -> Result<Option<Vec<rustls_pki_types::CertificateRevocationListDer<'static>>>, TlsError> {
    let path = file.path();
    match (path.try_exists(), file) {
        (Ok(false), CrlFile::IfPresent(_)) => Ok(None),
        (Ok(false), CrlFile::Named(_)) => Err(TlsError::MissingCrl { path: path.to_owned() }),
        (Ok(true) | Err(_), _) => Ok(Some(certs::read_crls(path)?)),
    }
}

/// How the node's own certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is valid.
    Good,
    /// It is past its time: every peer refuses it.
    Expired,
    /// It is on a list of its CA.
    Revoked,
}

/// The certificates of a running node.
#[derive(Debug, Clone)]
pub struct IdentityState {
    /// Its own.
    pub own: Facts,
    /// How that stands.
    pub standing: Standing,
    /// The CAs that it trusts, in the order of the bundle, with their keys.
    pub cas: Vec<(CaKeyId, Facts)>,
    /// The lists that apply.
    pub crls: Vec<CrlState>,
    /// Why the files are not what is in use, if they are not.
    pub refused: Option<String>,
}

/// One revocation list that applies.
#[derive(Debug, Clone)]
pub struct CrlState {
    /// The CA's key.
    pub issuer: CaKeyId,
    /// Its number.
    pub number: u64,
    /// When it was made.
    pub this_update: SystemTime,
    /// When the next one is due.
    pub next_update: SystemTime,
    /// What it revokes.
    pub revoked: Vec<Serial>,
}

impl IdentityState {
    fn of(loaded: &Loaded, standing: Standing, refused: Option<String>) -> Result<Self, CertError> {
        let with_key = |ca: &CertificateDer<'_>| Ok((CaKeyId::of(ca)?, Facts::read(ca)?));
        Ok(Self {
            own: Facts::read(loaded.identity.certificate())?,
            standing,
            cas: loaded.identity.cas().iter().map(with_key).collect::<Result<_, CertError>>()?,
            crls: loaded.lists.all().into_iter().map(CrlState::of).collect(),
            refused,
        })
    }
}

impl CrlState {
    fn of(list: &certs::Crl) -> Self {
        Self {
            issuer: list.issuer,
            number: list.number,
            this_update: list.this_update,
            next_update: list.next_update,
            revoked: list.serials().iter().cloned().collect(),
        }
    }
}

/// What the keeper is asked to do.
#[derive(Debug)]
enum Order {
    /// Verify a list that a peer sent.
    Check { from: NodeId, der: Bytes },
    /// Take in lists in PEM format.
    Offer { pem: String, reply: oneshot::Sender<Result<Vec<Offered>, OfferError>> },
    /// Look at the files now.
    Reload { reply: oneshot::Sender<Result<(), String>> },
}

/// Talks to the [`Keeper`]. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct KeeperHandle {
    orders: mpsc::Sender<Order>,
    state: Arc<ArcSwap<IdentityState>>,
}

/// Said when the keeper has ended, which it does only with the node.
const STOPPED: &str = "the node has stopped";

impl KeeperHandle {
    pub(super) fn state(&self) -> Arc<IdentityState> {
        self.state.load_full()
    }

    /// Has a peer's list verified, unless too many wait already.
    pub(super) fn check(&self, from: NodeId, der: Bytes) {
        if self.orders.try_send(Order::Check { from, der }).is_err() {
            metrics::counter!("shoal_crls_refused_total").increment(1);
        }
    }

    pub(super) async fn offer(&self, pem: String) -> Result<Vec<Offered>, OfferError> {
        let (reply, replied) = oneshot::channel();
        let _ = self.orders.send(Order::Offer { pem, reply }).await;
        replied.await.unwrap_or(Err(OfferError::Stopped))
    }

    pub(super) async fn reload(&self) -> Result<(), String> {
        let (reply, replied) = oneshot::channel();
        let _ = self.orders.send(Order::Reload { reply }).await;
        replied.await.unwrap_or_else(|_| Err(STOPPED.to_owned()))
    }
}

/// By node: why it is out.
type Out = BTreeMap<NodeId, crate::core::error::Refused>;
