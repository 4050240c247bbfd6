//! A node's identity: its files, read once and held to what its peers will ask of them, and the TLS settings
//! that follow from them.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use webpki::OwnedCertRevocationList;

use super::verify::{MeshVerifier, Refusal, Root, Trust, Verified};
use super::{ALPN, TlsError};
use crate::core::ids::{CaKeyId, MeshName, NodeId};
use crate::node::certs::{self, CertError, Crl, Facts, SpiffeName};
use crate::node::clock;

/// Who this node is, and whom it trusts.
#[derive(Clone)]
pub struct NodeIdentity {
    /// The mesh in its certificate.
    pub mesh: MeshName,
    /// The node in its certificate.
    pub node_id: NodeId,
    /// The last second at which its certificate is valid.
    pub not_after: SystemTime,
    cas: Arc<Vec<CertificateDer<'static>>>,
    certified: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("mesh", &self.mesh)
            .field("node_id", &self.node_id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Reads the CAs that the node trusts, its certificate and its key, and holds the certificate to
    /// what its peers will ask of it at `now`.
    ///
    /// A key that others may read is used with a warning: in a container the mode is often not the node's to choose.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what to do.
    pub fn load(ca: &Path, cert: &Path, key: &Path, now: SystemTime) -> Result<Self, TlsError> {
        for (what, path) in [("CA certificate", ca), ("node certificate", cert), ("private key", key)] {
            if matches!(path.try_exists(), Ok(false)) {
                return Err(TlsError::Missing { what, path: path.to_owned() });
            }
        }
        let roots = certs::read_certificates(ca)?;
        let chain = certs::read_certificates(cert)?;
        let key_pem = certs::read_text(key)?;
        if let Ok(metadata) = fs::metadata(key)
            && is_exposed(&metadata)
        {
            let mode = format!("{:04o}", metadata.mode() & 0o7777);
            tracing::warn!(path = %key.display(), mode, "others may read the node's private key: set its mode to 0600");
        }
        Self::from_parts(&Parts { ca, cert, key, roots, chain, key_pem: &key_pem }, now)
    }

    /// The same from texts in PEM format.
    ///
    /// # Errors
    /// As [`NodeIdentity::load`]; the files are called `ca.crt`, `node.crt` and `node.key`.
    pub fn from_pem(ca_pem: &str, cert_pem: &str, key_pem: &str, now: SystemTime) -> Result<Self, TlsError> {
        let (ca, cert, key) =
            (Path::new(certs::CA_CERT), Path::new(certs::NODE_CERT), Path::new(certs::NODE_KEY));
        let roots = certs::parse_certificates(ca_pem).map_err(|error| error.at(ca))?;
        let chain = certs::parse_certificates(cert_pem).map_err(|error| error.at(cert))?;
        Self::from_parts(&Parts { ca, cert, key, roots, chain, key_pem }, now)
    }

    fn from_parts(parts: &Parts<'_>, now: SystemTime) -> Result<Self, TlsError> {
        let now = UnixTime::since_unix_epoch(since_epoch(now).ok_or(TlsError::Clock)?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let [leaf] = parts.chain.as_slice() else {
            return Err(TlsError::NotAlone { path: parts.cert.to_owned(), count: parts.chain.len() });
        };
        let facts = Facts::read(leaf).map_err(|error| error.at(parts.cert))?;
        let refused = |refusal| TlsError::Refused { path: parts.cert.to_owned(), refusal };
        let (mesh, _) = SpiffeName::from_uris(&facts.uris)
            .and_then(SpiffeName::into_node)
            .map_err(|fault| refused(fault.into()))?;
        let roots = parts.trusted_roots(&mesh, now)?;
        let trust = Trust { mesh, roots, algorithms: provider.signature_verification_algorithms };
        let Verified { node_id, .. } = trust.check(leaf, now).map_err(refused)?;
        let certified = parts.certified_key(leaf, &provider)?;
        Ok(Self {
            mesh: trust.mesh.clone(),
            node_id,
            not_after: facts.not_after,
            cas: Arc::new(parts.roots.clone()),
            certified: Arc::new(certified),
            trust: Arc::new(trust),
            provider,
        })
    }

    /// The same identity, which refuses what these lists revoke, in place of any it had. A list of a CA that is not
    /// trusted does nothing.
    #[must_use]
    pub fn with_crls<'a>(self, lists: impl IntoIterator<Item = &'a Crl> + Clone) -> Self {
        let mut trust = Trust::clone(&self.trust);
        for root in &mut trust.roots {
            let newest =
                lists.clone().into_iter().filter(|list| list.issuer == root.key).max_by_key(|l| l.number);
            root.crl = newest.map(|list| {
                let parsed = OwnedCertRevocationList::from_der(list.der());
                Arc::new(parsed.expect("whoever made the list has parsed it so").into())
            });
        }
        Self { trust: Arc::new(trust), ..self }
    }

    /// Whether `certificate` lets its owner into the mesh at `now`, and who that is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> Result<Verified, Refusal> {
        let malformed = || Refusal::Malformed { why: "the clock of this machine is before 1970".to_owned() };
        self.trust.check(certificate, UnixTime::since_unix_epoch(since_epoch(now).ok_or_else(malformed)?))
    }

    /// The node's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.certified.cert.first().expect("an identity is made from one certificate")
    }

    /// The certificates of the CAs that it trusts, in the order of the bundle.
    #[must_use]
    pub fn cas(&self) -> &[CertificateDer<'static>] {
        &self.cas
    }

    /// The keys of those CAs, each once.
    #[must_use]
    pub fn ca_keys(&self) -> Vec<CaKeyId> {
        let mut keys: Vec<_> = self.trust.roots.iter().map(|root| root.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Which of the CAs are valid at `now`, by their place in the bundle: what was verified with one that is not
    /// any more has to be verified again.
    #[must_use]
    pub fn valid_cas(&self, now: SystemTime) -> Vec<bool> {
        let now = UnixTime::since_unix_epoch(since_epoch(now).unwrap_or_default());
        self.trust.roots.iter().map(|root| root.is_valid(now)).collect()
    }

    pub(super) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust)
    }

    pub(super) fn certified(&self) -> &CertifiedKey {
        &self.certified
    }

    /// The settings with which the node accepts connections. An expired CA or peer is noticed at each handshake, so
    /// they can be kept as long as the files do not change.
    #[must_use]
    pub fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has cipher suites for TLS 1.3")
            .with_client_cert_verifier(Arc::new(MeshVerifier(Arc::clone(&self.trust))))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false;
        config.time_provider = Arc::new(WallClock);
        config
    }

    /// The settings with which the node opens connections. Dial with [`super::SERVER_NAME`].
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has cipher suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(MeshVerifier(Arc::clone(&self.trust))))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        config.time_provider = Arc::new(WallClock);
        config
    }
}

/// The node's clock, as `rustls` asks for it.
#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        since_epoch(clock::wall_clock()).map(UnixTime::since_unix_epoch)
    }
}

/// An identity before it is checked, with the files to name in errors.
struct Parts<'a> {
    ca: &'a Path,
    cert: &'a Path,
    key: &'a Path,
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key_pem: &'a str,
}

impl Parts<'_> {
    /// The CAs to trust. One of them may be past its time, or before it; not all.
    fn trusted_roots(&self, ours: &MeshName, now: UnixTime) -> Result<Vec<Root>, TlsError> {
        let mut roots = Vec::new();
        for certificate in &self.roots {
            let facts = Facts::read(certificate).map_err(|error| error.at(self.ca))?;
            let signs = facts.key_usages.as_ref().is_none_or(|usages| usages.contains(&Facts::KEY_CERT_SIGN));
            if !facts.is_ca || !signs {
                return Err(TlsError::NotCa { path: self.ca.to_owned(), subject: facts.subject });
            }
            // A CA made by other means need not name a mesh; one that names another would let in its nodes.
            if !facts.uris.is_empty() {
                let theirs = SpiffeName::from_uris(&facts.uris)
                    .and_then(SpiffeName::into_mesh)
                    .map_err(|fault| CertError::from(fault).at(self.ca))?;
                if theirs != *ours {
                    return Err(TlsError::CaOfOtherMesh {
                        path: self.ca.to_owned(),
                        theirs,
                        ours: ours.clone(),
                    });
                }
            }
            roots.push(self.root(certificate, &facts)?);
        }
        if roots.iter().any(|root| root.is_valid(now)) {
            Ok(roots)
        } else {
            Err(TlsError::NoValidCa { path: self.ca.to_owned() })
        }
    }

    fn root(&self, certificate: &CertificateDer<'_>, facts: &Facts) -> Result<Root, TlsError> {
        let malformed = |why: String| CertError::Malformed { what: "CA certificate", why }.at(self.ca);
        let anchor =
            webpki::anchor_from_trusted_cert(certificate).map_err(|why| malformed(why.to_string()))?;
        let unix = |time| {
            since_epoch(time)
                .map(UnixTime::since_unix_epoch)
                .ok_or_else(|| malformed("a date is before 1970".to_owned()))
        };
        Ok(Root {
            anchor: anchor.to_owned(),
            key: CaKeyId::of(certificate).map_err(|error| error.at(self.ca))?,
            crl: None,
            not_before: unix(facts.not_before)?,
            not_after: unix(facts.not_after)?,
        })
    }

    fn certified_key(
        &self,
        leaf: &CertificateDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let bad_key = || TlsError::BadKey { path: self.key.to_owned() };
        let der = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| bad_key())?;
        let key = provider.key_provider.load_private_key(der).map_err(|_| bad_key())?;
        let certified = CertifiedKey::new(vec![leaf.clone()], key);
        certified
            .keys_match()
            .map_err(|_| TlsError::KeyMismatch { cert: self.cert.to_owned(), key: self.key.to_owned() })?;
        Ok(certified)
    }
}

/// Whether a key can be read by more than its owner. Reading by the group is fine where root owns the
/// file, which is how secrets are mounted into containers that run as another user.
fn is_exposed(key: &Metadata) -> bool {
    let private = if key.uid() == 0 { 0o037 } else { 0o077 };
    key.mode() & private != 0
}

fn since_epoch(time: SystemTime) -> Option<Duration> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::node::certs::{Ca, CertPair, Validity};

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn days(days: u32) -> Validity {
        Validity::starting(now(), days).expect("in range")
    }

    fn ca_of(mesh: &str) -> Ca {
        let pair = certs::make_ca(&MeshName::new(mesh).expect("valid"), days(100)).expect("made");
        Ca::from_pem(&pair.cert_pem, &pair.key_pem).expect("a CA")
    }

    fn node(ca: &Ca) -> CertPair {
        certs::issue(ca, &NodeId::new("node-1").expect("valid"), &[], &[], days(10)).expect("issued")
    }

    /// Writes the three files and loads them at `at`.
    fn load(dir: &TempDir, texts: [&str; 3], at: SystemTime) -> Result<NodeIdentity, TlsError> {
        let paths = [certs::CA_CERT, certs::NODE_CERT, certs::NODE_KEY].map(|name| dir.path().join(name));
        for (path, text) in paths.iter().zip(texts) {
            fs::write(path, text).expect("written");
        }
        let [ca, cert, key] = paths;
        NodeIdentity::load(&ca, &cert, &key, at)
    }

    #[test]
    fn a_good_set_of_files_says_who_the_node_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = ca_of("prod");
        let pair = node(&ca);
        let identity =
            load(&dir, [ca.bundle_pem(), &pair.cert_pem, &pair.key_pem], now()).expect("an identity");
        assert_eq!((identity.mesh.as_str(), identity.node_id.as_str()), ("prod", "node-1"));
        assert_eq!(identity.not_after, now() + 10 * DAY);
        assert!(!format!("{identity:?}").contains("KEY"), "{identity:?}");
    }

    #[test]
    fn each_fault_is_told_with_the_file_and_the_reason() {
        let (ours, other, same_name) = (ca_of("prod"), ca_of("other"), ca_of("prod"));
        let (pair, second) = (node(&ours), node(&ours));
        let bundle = ours.bundle_pem();
        let two_leaves = format!("{}{}", pair.cert_pem, second.cert_pem);
        let two_meshes = format!("{bundle}{}", other.bundle_pem());
        let (cert, key) = (pair.cert_pem.as_str(), pair.key_pem.as_str());
        for (what, texts, at, says) in [
            ("another key", [bundle, cert, &second.key_pem], now(), "does not belong to the certificate"),
            (
                "expired",
                [bundle, cert, key],
                now() + 11 * DAY,
                "node.crt: the certificate expired 86400 s ago",
            ),
            ("not yet valid", [bundle, cert, key], now() - DAY, "no CA in"),
            ("no valid CA", [bundle, cert, key], now() + 101 * DAY, "no CA in"),
            ("another CA", [same_name.bundle_pem(), cert, key], now(), "not signed by a CA that is trusted"),
            ("another mesh's CA", [other.bundle_pem(), cert, key], now(), "the CA of mesh other"),
            ("two meshes", [&two_meshes, cert, key], now(), "the CA of mesh other"),
            ("a leaf to trust", [cert, cert, key], now(), "is not a CA"),
            ("a CA as node", [bundle, bundle, key], now(), "names the mesh prod as a whole"),
            ("two leaves", [bundle, &two_leaves, key], now(), "holds 2 certificates"),
            ("an empty certificate", [bundle, "", key], now(), "node.crt: it holds no certificate"),
            ("an empty bundle", ["", cert, key], now(), "ca.crt: it holds no certificate"),
            ("an empty key", [bundle, cert, ""], now(), "no private key"),
            ("a certificate as key", [bundle, cert, cert], now(), "no private key"),
            ("a clock before 1970", [bundle, cert, key], SystemTime::UNIX_EPOCH - DAY, "before 1970"),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let error = load(&dir, texts, at).expect_err(what).to_string();
            assert!(error.contains(says), "{what}: {error}");
        }
    }

    #[test]
    fn a_certificate_that_is_not_valid_yet_is_told_with_the_clock_in_mind() {
        let ca = ca_of("prod");
        let later = Validity::starting(now() + 2 * DAY, 10).expect("in range");
        let id = NodeId::new("node-1").expect("valid");
        let pair = certs::issue(&ca, &id, &[], &[], later).expect("issued");
        let error = NodeIdentity::from_pem(ca.bundle_pem(), &pair.cert_pem, &pair.key_pem, now());
        let error = error.expect_err("not yet").to_string();
        assert!(error.contains("not valid yet") && error.contains("clocks"), "{error}");
    }

    #[test]
    fn a_missing_file_is_told_with_the_command_that_makes_it() {
        let ca = ca_of("prod");
        let pair = node(&ca);
        for name in [certs::CA_CERT, certs::NODE_CERT, certs::NODE_KEY] {
            let dir = tempfile::tempdir().expect("a directory");
            load(&dir, [ca.bundle_pem(), &pair.cert_pem, &pair.key_pem], now()).expect("an identity");
            fs::remove_file(dir.path().join(name)).expect("removed");
            let path = |name: &str| dir.path().join(name);
            let (ca, cert, key) = (path(certs::CA_CERT), path(certs::NODE_CERT), path(certs::NODE_KEY));
            let error = NodeIdentity::load(&ca, &cert, &key, now()).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains("shoal cert issue --ca"), "{error}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_noticed_and_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = ca_of("prod");
        let pair = node(&ca);
        let key = dir.path().join(certs::NODE_KEY);
        load(&dir, [ca.bundle_pem(), &pair.cert_pem, &pair.key_pem], now()).expect("an identity");
        for (mode, exposed) in [(0o600, false), (0o400, false), (0o604, true), (0o660, true), (0o644, true)] {
            fs::set_permissions(&key, Permissions::from_mode(mode)).expect("set");
            assert_eq!(is_exposed(&fs::metadata(&key).expect("there")), exposed, "{mode:o}");
        }
        load(&dir, [ca.bundle_pem(), &pair.cert_pem, &pair.key_pem], now()).expect("an identity");
    }

    #[test]
    fn a_node_that_is_certified_by_the_new_ca_trusts_the_old_one_too() {
        let (old, new) = (ca_of("prod"), ca_of("prod"));
        let pair = node(&new);
        let bundle = format!("{}{}", old.bundle_pem(), new.bundle_pem());
        let identity =
            NodeIdentity::from_pem(&bundle, &pair.cert_pem, &pair.key_pem, now()).expect("an identity");
        assert_eq!(identity.trust.roots.len(), 2);
    }

    #[test]
    fn nothing_of_a_session_is_kept() {
        let ca = ca_of("prod");
        let pair = node(&ca);
        let identity = NodeIdentity::from_pem(ca.bundle_pem(), &pair.cert_pem, &pair.key_pem, now());
        let identity = identity.expect("an identity");
        let server = identity.server_config();
        assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
        assert!(!server.session_storage.can_cache() && !server.ticketer.enabled());
        assert!(!identity.client_config().enable_early_data);
    }
}
