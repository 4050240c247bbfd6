//! The task that owns the identity.
//!
//! Its order of things: durable first, then in use, then links closed, then the core told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::expiry::{self, Reminders};
use super::lists::Lists;
use super::{IdentityState, KeeperHandle, Loaded, OfferError, Offered, Order, Out, Places, Standing};
use crate::core::contract::Input;
use crate::core::error::Refused;
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::node::certs::{self, CertError, Crl};
use crate::node::clock;
use crate::node::transport::{LogPace, Transport};

/// A refused set may have become good by itself, when its first day has come; it is judged again this often.
const JUDGE_AGAIN: Duration = Duration::from_secs(60);

/// Owns the node's identity.
#[derive(Debug)]
pub(crate) struct Keeper {
    places: Places,
    loaded: Loaded,
    transport: Transport,
    core: mpsc::Sender<Input>,
    orders: mpsc::Receiver<Order>,
    state: Arc<ArcSwap<IdentityState>>,
    files: Files,
    /// Which CAs were valid when links were looked at last.
    valid_cas: Vec<bool>,
    standing: Standing,
    /// Why the files are not what is in use.
    refused: Option<String>,
    reminders: Reminders,
    complaints: LogPace,
}

/// The files as they were seen.
#[derive(Debug)]
struct Files {
    /// What was judged last, and when.
    judged: [u8; 32],
    judged_at: Instant,
    /// What was seen last, where that is something else.
    seen: Option<[u8; 32]>,
}

impl Keeper {
    /// A keeper of what was loaded, and the way to talk to it.
    ///
    /// # Errors
    /// [`CertError`]: the certificates cannot be described.
    pub(crate) fn new(
        places: Places,
        loaded: Loaded,
        transport: Transport,
        core: mpsc::Sender<Input>,
    ) -> Result<(Self, KeeperHandle), CertError> {
        let (ask, orders) = mpsc::channel(limits::CRL_CHECKS_MAX);
        let state = IdentityState::of(&loaded, Standing::Good, None)?;
        let state = Arc::new(ArcSwap::from_pointee(state));
        let files = Files { judged: places.digest(), judged_at: Instant::now(), seen: None };
        let handle = KeeperHandle { orders: ask, state: Arc::clone(&state) };
        let keeper = Self {
            places,
            valid_cas: loaded.identity.valid_cas(clock::wall_clock()),
            loaded,
            transport,
            core,
            orders,
            state,
            files,
            standing: Standing::Good,
            refused: None,
            reminders: Reminders::default(),
            complaints: LogPace::default(),
        };
        Ok((keeper, handle))
    }

    /// Keeps the identity until the node has stopped.
    pub(crate) async fn run(mut self) {
        self.keep_lists(&Lists::default()).await;
        self.tell_lists(&Lists::default()).await;
        let mut ticks = interval(limits::IDENTITY_POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.core.is_closed() {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                _ = ticks.tick() => {
                    self.look_at_files().await;
                    self.look_at_clock().await;
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Check { from, der } => self.check(&from, &der).await,
            Order::Offer { pem, reply } => {
                // Whoever has gone needs no answer.
                let _ = reply.send(self.offer(&pem).await);
            }
            Order::Reload { reply } => {
                let digest = self.digest().await;
                self.judge(digest, true).await;
                let _ = reply.send(self.refused.clone().map_or(Ok(()), Err));
            }
        }
    }

    async fn digest(&self) -> [u8; 32] {
        let (places, judged) = (self.places.clone(), self.files.judged);
        // A reader that panics has seen nothing new.
        spawn_blocking(move || places.digest()).await.unwrap_or(judged)
    }

    async fn look_at_files(&mut self) {
        let digest = self.digest().await;
        if digest == self.files.judged {
            self.files.seen = None;
            if self.refused.is_some() && self.files.judged_at.elapsed() >= JUDGE_AGAIN {
                self.judge(digest, false).await;
            }
        } else if self.files.seen.replace(digest) == Some(digest) {
            self.judge(digest, false).await;
        }
    }

    /// Reads the files and uses them, or says why not and goes on with what there is.
    async fn judge(&mut self, digest: [u8; 32], is_asked: bool) {
        self.files = Files { judged: digest, judged_at: Instant::now(), seen: None };
        let (places, known) = (self.places.clone(), self.loaded.lists.clone());
        let now = clock::wall_clock();
        let read =
            spawn_blocking(move || Loaded::read(&places, &known, now).map_err(|error| error.to_string()));
        let read = read.await.unwrap_or_else(|error| Err(format!("the files could not be read: {error}")));
        let judged = match read.and_then(|loaded| self.check_name(loaded)) {
            Ok(loaded) => self.adopt(loaded).await,
            Err(reason) => Err(reason),
        };
        let Err(reason) = judged else {
            return;
        };
        metrics::counter!("shoal_identity_refused_total").increment(1);
        if is_asked || self.refused.as_deref() != Some(&*reason) {
            tracing::warn!(reason, "the changed certificates are refused, and the former stay in use");
        }
        self.refused = Some(reason);
        self.publish();
    }

    fn check_name(&self, loaded: Loaded) -> Result<Loaded, String> {
        let (was, is) = (&self.loaded.identity, &loaded.identity);
        if (&was.mesh, &was.node_id) == (&is.mesh, &is.node_id) {
            return Ok(loaded);
        }
        Err(format!(
            "the certificate names node {} of mesh {}, and this is node {} of mesh {}: a running node does not \
             change its name",
            is.node_id, is.mesh, was.node_id, was.mesh
        ))
    }

    async fn adopt(&mut self, loaded: Loaded) -> Result<(), String> {
        self.transport.set_identity(loaded.identity.clone()).map_err(|error| error.to_string())?;
        let former = std::mem::replace(&mut self.loaded, loaded);
        self.refused = None;
        let identity = &self.loaded.identity;
        let renewed = former.identity.certificate() != identity.certificate();
        let (own, cas) = (identity.not_after, identity.cas().len());
        let not_after = humantime::format_rfc3339_seconds(own);
        tracing::info!(%not_after, cas, crls = self.loaded.lists.all().len(), renewed, "certificates read anew");
        self.keep_lists(&former.lists).await;
        let now = clock::wall_clock();
        self.become_standing(now);
        self.expel(self.transport.close_untrusted(now)).await;
        let trusted = self.loaded.identity.ca_keys();
        self.tell(Input::CertificatesChanged { trusted, renewed }).await;
        self.tell_lists(&former.lists).await;
        self.valid_cas = self.loaded.identity.valid_cas(now);
        self.publish();
        Ok(())
    }

    /// A list that a peer sent.
    async fn check(&mut self, from: &NodeId, der: &Bytes) {
        let taken = match Crl::read(der, self.loaded.identity.cas()) {
            Ok(list) => self.take(vec![list]).await.map(|_| ()),
            Err(error) => Err(error.into()),
        };
        let Err(error) = taken else {
            return;
        };
        metrics::counter!("shoal_crls_refused_total").increment(1);
        if let Some(untold) = self.complaints.tell() {
            tracing::warn!(%from, %error, untold, "a peer's revocation list was refused");
        }
    }

    async fn offer(&mut self, pem: &str) -> Result<Vec<Offered>, OfferError> {
        let cas = self.loaded.identity.cas();
        let lists: Result<Vec<_>, CertError> =
            certs::parse_crls(pem)?.iter().map(|der| Crl::read(der, cas)).collect();
        self.take(lists?).await
    }

    /// Takes in lists that were verified: all of them, or none.
    async fn take(&mut self, lists: Vec<Crl>) -> Result<Vec<Offered>, OfferError> {
        let former = self.loaded.lists.clone();
        let mut next = former.clone();
        let offered: Vec<_> = lists.into_iter().map(|list| next.take(list)).collect::<Result<_, _>>()?;
        if next.newer_than(&former).is_empty() {
            return Ok(offered);
        }
        self.loaded.lists = next;
        self.loaded.identity = self.loaded.identity.clone().with_crls(self.loaded.lists.all());
        self.keep_lists(&former).await;
        if let Err(error) = self.transport.set_identity(self.loaded.identity.clone()) {
            // The same settings were good with the former lists.
            tracing::error!(%error, "a revocation list could not be put to use");
        }
        for list in self.loaded.lists.newer_than(&former) {
            let (ca, number, revoked) = (list.issuer, list.number, list.serials().len());
            tracing::info!(%ca, number, revoked, "a newer revocation list applies");
        }
        let now = clock::wall_clock();
        self.expel(self.transport.close_untrusted(now)).await;
        self.tell_lists(&former).await;
        self.become_standing(now);
        self.publish();
        Ok(offered)
    }

    /// Writes the lists down if there is anything new among them.
    async fn keep_lists(&self, former: &Lists) {
        if self.loaded.lists.newer_than(former).is_empty() {
            return;
        }
        let (lists, directory) = (self.loaded.lists.clone(), self.places.kept.clone());
        let kept = spawn_blocking(move || lists.keep_in(&directory)).await;
        if let Err(error) =
            kept.map_err(|error| error.to_string()).and_then(|kept| kept.map_err(|e| e.to_string()))
        {
            tracing::warn!(
                error,
                "a revocation list applies and could not be kept: after a restart it may be missing"
            );
        }
    }

    /// Tells the core of the lists that are news, so that peers hear of them.
    async fn tell_lists(&self, former: &Lists) {
        for list in self.loaded.lists.newer_than(former) {
            let der = Bytes::copy_from_slice(list.der());
            self.tell(Input::CrlAccepted { issuer: list.issuer, number: list.number, der }).await;
        }
    }

    async fn expel(&self, out: Out) {
        for (node, reason) in out {
            tracing::warn!(%node, reason = reason.as_str(), "node expelled");
            self.tell(Input::Expelled { node, reason }).await;
        }
    }

    async fn tell(&self, input: Input) {
        // A core that is gone needs to know nothing.
        let _ = self.core.send(input).await;
    }

    /// Time has passed: certificates of peers, of CAs and of this node may have ended.
    async fn look_at_clock(&mut self) {
        let now = clock::wall_clock();
        let valid_cas = self.loaded.identity.valid_cas(now);
        let out = if valid_cas == self.valid_cas {
            self.transport.close_expired(now)
        } else {
            self.valid_cas = valid_cas;
            self.transport.close_untrusted(now)
        };
        self.expel(out).await;
        if self.become_standing(now) {
            self.publish();
        }
        let state = self.state.load();
        self.reminders.tell(&state, now);
        expiry::show(&state);
    }

    /// Follows how the node's own certificate stands, and dials nobody while all would refuse it. Returns whether
    /// that has changed.
    fn become_standing(&mut self, now: SystemTime) -> bool {
        let identity = &self.loaded.identity;
        let reason =
            identity.check(identity.certificate(), now).err().map(|refusal| (refusal.told().0, refusal));
        let standing = match &reason {
            Some((Refused::Expired, _)) => Standing::Expired,
            Some((Refused::Revoked, _)) => Standing::Revoked,
            // Its CA is not valid any more, or not yet: peers have another clock, perhaps.
            Some(_) | None => Standing::Good,
        };
        let is_other = standing != self.standing;
        if is_other {
            self.standing = standing;
            let held = reason.filter(|_| standing != Standing::Good);
            self.transport.hold_dials(
                held.map(|(refused, why)| (refused, format!("this node's own certificate: {why}"))),
            );
        }
        is_other
    }

    fn publish(&self) {
        match IdentityState::of(&self.loaded, self.standing, self.refused.clone()) {
            Ok(state) => {
                expiry::show(&state);
                self.state.store(Arc::new(state));
            }
            Err(error) => tracing::error!(%error, "the certificates in use cannot be described"),
        }
    }
}
