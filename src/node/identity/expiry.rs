//! What is about to end: says so in the log and in the metrics.
//!
//! A warning begins [`EXPIRY_WARNING`](limits::EXPIRY_WARNING) before the end, or when a third of a shorter life is
//! left, and is repeated once a day; that the node's own certificate has expired is repeated once an hour. The metrics show the unix time of the end, as is usual
//! with Prometheus: what is left is `shoal_certificate_expiry_seconds - time()`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{IdentityState, Standing};
use crate::core::limits;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);

/// What was told, and when.
#[derive(Debug, Default)]
pub(super) struct Reminders {
    told: BTreeMap<String, Instant>,
}

impl Reminders {
    /// Says what there is to say of `state` at `now`, unless it was said lately.
    pub(super) fn tell(&mut self, state: &IdentityState, now: SystemTime) {
        // What is not there any more is told at once should it come back.
        self.told.retain(|_, at| at.elapsed() < DAY);
        self.tell_own(state, now);
        for (key, ca) in &state.cas {
            let (subject, days_left) = (&ca.subject, ca.days_left(now));
            if ca.not_after < now && self.is_due(format!("ca {} is over", ca.fingerprint), DAY) {
                tracing::warn!(ca = %key, subject, "a CA in the bundle has expired: what it signed is refused");
            } else if is_near(ca.not_before, ca.not_after, now)
                && self.is_due(format!("ca {}", ca.fingerprint), DAY)
            {
                tracing::warn!(ca = %key, subject, days_left, "a CA in the bundle is about to expire: rotate it");
            }
        }
        for list in &state.crls {
            let (ca, number) = (list.issuer, list.number);
            if list.next_update < now && self.is_due(format!("crl {ca} is over"), DAY) {
                tracing::warn!(%ca, number, "a revocation list is past its time and still applies: publish a newer one");
            } else if is_near(list.this_update, list.next_update, now)
                && self.is_due(format!("crl {ca}"), DAY)
            {
                tracing::warn!(%ca, number, "the next revocation list of a CA is soon due: publish a newer one");
            }
        }
    }

    fn tell_own(&mut self, state: &IdentityState, now: SystemTime) {
        let own = &state.own;
        let (serial, days_left) = (&own.serial, own.days_left(now));
        match state.standing {
            Standing::Expired if self.is_due(format!("{serial} is over"), HOUR) => {
                tracing::warn!(
                    %serial,
                    "this node's certificate has expired and every peer refuses it: renew it, or set the clock; \
                     a new one is used without a restart"
                );
            }
            Standing::Revoked if self.is_due(format!("{serial} is revoked"), HOUR) => {
                tracing::warn!(
                    %serial,
                    "this node's certificate has been revoked and every peer refuses it: issue another one; \
                     it is used without a restart"
                );
            }
            Standing::Good
                if is_near(own.not_before, own.not_after, now)
                    && self.is_due(format!("{serial} is near"), DAY) =>
            {
                tracing::warn!(%serial, days_left, "this node's certificate is about to expire: renew it");
            }
            Standing::Good | Standing::Expired | Standing::Revoked => {}
        }
    }

    fn is_due(&mut self, what: String, every: Duration) -> bool {
        if self.told.get(&what).is_some_and(|at| at.elapsed() < every) {
            return false;
        }
        self.told.insert(what, Instant::now());
        true
    }
}

fn is_near(start: SystemTime, end: SystemTime, now: SystemTime) -> bool {
    let life = end.duration_since(start).unwrap_or_default();
    end < now + limits::EXPIRY_WARNING.min(life / 3)
}

/// Shows when what ends: of several CAs or lists the earliest.
pub(super) fn show(state: &IdentityState) {
    let unix =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let cas = state.cas.iter().map(|(_, ca)| ca.not_after).min();
    let crls = state.crls.iter().map(|list| list.next_update).min();
    for (kind, end) in [("node", Some(state.own.not_after)), ("ca", cas), ("crl", crls)] {
        if let Some(end) = end {
            metrics::gauge!("shoal_certificate_expiry_seconds", "kind" => kind).set(unix(end));
        }
    }
    let good = if state.standing == Standing::Good { 1.0 } else { 0.0 };
    metrics::gauge!("shoal_certificate_good").set(good);
}
