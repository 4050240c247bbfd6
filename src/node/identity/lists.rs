//! The revocation lists that a node applies: the newest of each CA that it trusts, from its own file, from peers
//! and from the API. Those are kept in the data directory, so that a restart does not forget what was revoked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::core::ids::CaKeyId;
use crate::node::certs::{self, CertError, Crl};
use crate::node::transport::tls::TlsError;

/// A list that was handed in, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The CA's key.
    pub issuer: CaKeyId,
    /// The list's number.
    pub number: u64,
    /// Certificates that it revokes.
    pub revoked: usize,
    /// Whether it is newer than what the node had; if not, nothing changed.
    pub new: bool,
}

/// Why a list was not taken in. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// It cannot be read, or nobody who is trusted has signed it.
    #[error("{0}")]
    Bad(#[from] CertError),
    /// The node has a newer one.
    #[error(
        "the revocation list has the number {number}, and the node has number {have} of that CA: make a newer one"
    )]
    Older {
        /// Its number.
        number: u64,
        /// The number of the one in use.
        have: u64,
    },
    /// Another list has the same number.
    #[error(
        "the node has another revocation list of that CA with the same number, {number}: give each list a higher one"
    )]
    SameNumber {
        /// Its number.
        number: u64,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// The newest list of each CA.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    by_issuer: BTreeMap<CaKeyId, Arc<Crl>>,
    /// Lists in PEM format whose CA is not known here yet: read before the CAs were.
    unread: Vec<CertificateRevocationListDer<'static>>,
}

impl Lists {
    /// The lists that an earlier run has kept. They are verified when the CAs are known.
    pub(super) fn kept_in(directory: &Path) -> Self {
        let path = directory.join(certs::CA_CRL);
        if !path.exists() {
            return Self::default();
        }
        match certs::read_crls(&path) {
            Ok(unread) => Self { by_issuer: BTreeMap::new(), unread },
            Err(error) => {
                tracing::warn!(%error, "the revocation lists that were kept cannot be read: peers are asked for theirs");
                Self::default()
            }
        }
    }

    /// Those of the lists that one of these CAs has signed.
    pub(super) fn trusted_by(&self, cas: &[CertificateDer<'static>]) -> Self {
        let known = self.by_issuer.values().map(|list| list.der());
        let mut lists = Self::default();
        for der in known.chain(&self.unread) {
            match Crl::read(der, cas) {
                Ok(list) => {
                    lists.add(list);
                }
                Err(error) => tracing::debug!(%error, "a revocation list is not kept"),
            }
        }
        lists
    }

    /// Adds the lists of the node's file. One of a CA that is not trusted is left out, aloud: after a rotation the
    /// file may be behind the bundle.
    ///
    /// # Errors
    /// One of them is malformed: the file may be half written.
    pub(super) fn add_file(
        &mut self,
        path: &Path,
        found: &[CertificateRevocationListDer<'static>],
        cas: &[CertificateDer<'static>],
    ) -> Result<(), TlsError> {
        for der in found {
            match Crl::read(der, cas) {
                Ok(list) => {
                    self.add(list);
                }
                Err(CertError::CrlIssuer) => {
                    tracing::warn!(
                        path = %path.display(),
                        "a revocation list in the file is not signed by a CA that is trusted here, and does nothing"
                    );
                }
                Err(error) => return Err(error.at(path).into()),
            }
        }
        Ok(())
    }

    /// Takes in a list if it is newer than what is there.
    ///
    /// # Errors
    /// It is older, or has the number of another.
    pub(super) fn take(&mut self, list: Crl) -> Result<Offered, OfferError> {
        let (issuer, number) = (list.issuer, list.number);
        let mut offered = Offered { issuer, number, revoked: list.serials().len(), new: true };
        match self.by_issuer.get(&issuer) {
            Some(have) if have.number > number => {
                return Err(OfferError::Older { number, have: have.number });
            }
            Some(have) if have.number == number && have.der() != list.der() => {
                return Err(OfferError::SameNumber { number });
            }
            Some(have) if have.number == number => offered.new = false,
            Some(_) | None => {
                self.by_issuer.insert(issuer, Arc::new(list));
            }
        }
        Ok(offered)
    }

    fn add(&mut self, list: Crl) {
        if let Err(error) = self.take(list) {
            tracing::debug!(%error, "a revocation list is not used");
        }
    }

    /// In order of the CAs' keys.
    pub(super) fn all(&self) -> Vec<&Crl> {
        self.by_issuer.values().map(|list| &**list).collect()
    }

    /// Those that `former` has not, or has an older one of.
    pub(super) fn newer_than(&self, former: &Self) -> Vec<Arc<Crl>> {
        let is_new =
            |list: &&Arc<Crl>| former.by_issuer.get(&list.issuer).is_none_or(|had| had.number < list.number);
        self.by_issuer.values().filter(is_new).cloned().collect()
    }

    /// Writes them where [`Lists::kept_in`] finds them, durably and in one step.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn keep_in(&self, directory: &Path) -> Result<(), CertError> {
        let pem: String = self.by_issuer.values().map(|list| list.to_pem()).collect();
        certs::write_crl(directory, &pem).map(|_| ())
    }
}
