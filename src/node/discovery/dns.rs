//! A host name that stands for many nodes, resolved again and again by the system's resolver (A and AAAA; it
//! knows `/etc/hosts` too). SRV records are not asked for: all nodes have the port of the name.
//!
//! A name that does not resolve changes nothing: what it gave last stays, and it is asked again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Found, Itself};
use crate::node::clock;

/// Wait before a name is resolved again while nothing changes: doubles from the first to the last.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_LAST: Duration = Duration::from_secs(30);
/// The same while the node reaches no other.
const AGAIN_ALONE_FIRST: Duration = Duration::from_secs(1);
const AGAIN_ALONE_LAST: Duration = Duration::from_secs(5);
/// How often the wait is compared with whether the node is alone.
const LOOK: Duration = Duration::from_millis(500);

/// Resolves `name`, a `host:port`, until nobody wants to know.
pub(super) async fn follow(
    way: usize,
    name: String,
    itself: Itself,
    tell: mpsc::Sender<Found>,
    is_alone: Arc<dyn Fn() -> bool + Send + Sync>,
) {
    let mut known = BTreeSet::new();
    let mut complaint = None;
    let mut unchanged = 0;
    loop {
        // One question at a time: the resolver has a deadline of its own.
        match lookup_host(name.as_str()).await {
            Ok(found) => {
                complaint = None;
                let found: BTreeSet<SocketAddr> = found.filter(|address| itself.reaches(address)).collect();
                if found != known {
                    tracing::info!(name, addresses = found.len(), "the name resolves");
                    let texts = found.iter().map(ToString::to_string).collect();
                    if tell.send((way, texts)).await.is_err() {
                        return;
                    }
                    known = found;
                    unchanged = 0;
                }
            }
            Err(error) => {
                let error = error.to_string();
                if complaint.as_ref() != Some(&error) {
                    tracing::warn!(
                        name,
                        error,
                        "the name does not resolve and is tried again for ever; peers that are known stay"
                    );
                    complaint = Some(error);
                }
            }
        }
        pause(unchanged, &*is_alone).await;
        unchanged = unchanged.saturating_add(1);
    }
}

/// Waits; a node that becomes alone meanwhile waits no longer than such a node does.
async fn pause(unchanged: u32, is_alone: &(dyn Fn() -> bool + Send + Sync)) {
    let begun = Instant::now();
    let [chance] = clock::random_bytes::<1>();
    let jitter = 0.75 + f64::from(chance) / 512.0;
    while begun.elapsed() < again_after(unchanged, is_alone()).mul_f64(jitter) {
        sleep(LOOK).await;
    }
}

fn again_after(unchanged: u32, is_alone: bool) -> Duration {
    let (first, last) =
        if is_alone { (AGAIN_ALONE_FIRST, AGAIN_ALONE_LAST) } else { (AGAIN_FIRST, AGAIN_LAST) };
    (first * 2_u32.saturating_pow(unchanged.min(10))).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_resolved_for_ever_with_growing_pauses_and_more_often_by_a_node_that_is_alone() {
        let pauses = |alone| [0, 1, 2, 3, 4, u32::MAX].map(|n| again_after(n, alone).as_secs());
        assert_eq!(pauses(false), [5, 10, 20, 30, 30, 30]);
        assert_eq!(pauses(true), [1, 2, 4, 5, 5, 5]);
    }
}
