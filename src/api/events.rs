//! `/v1/cluster/events` and `/v1/state-changes`: what happens, as server-sent events, resumable by number.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::problem::Problem;
use super::read::Query;
use super::types::{Gap, NumberedChange, NumberedEvent};
use crate::core::limits;
use crate::core::wire::StateChange;
use crate::node::Handle;
use crate::node::events::{Events, Numbered, Subscription};

/// A comment is sent after so long without an event, so that either side notices when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where a watcher begins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    after: Option<u64>,
}

/// Where a watcher of the state begins, and what it wants to know of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromBelow {
    #[serde(default)]
    prefix: String,
    after: Option<u64>,
}

pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Query(From { after }): Query<From>,
) -> Result<Response, Problem> {
    let tell = |numbered: Numbered| Some(data(Event::default(), &NumberedEvent::from(numbered)));
    stream_of(&api, &headers, after, Source { of: Handle::events, tell: Box::new(tell) })
}

/// The keys that change on the asked node; of those without the prefix nothing is said.
pub(super) async fn follow_state(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Query(FromBelow { prefix, after }): Query<FromBelow>,
) -> Result<Response, Problem> {
    let tell = move |numbered: Numbered<StateChange>| {
        let is_meant = numbered.event.key.starts_with(&prefix);
        is_meant.then(|| data(Event::default(), &NumberedChange::from(numbered)))
    };
    stream_of(&api, &headers, after, Source { of: Handle::state_changes, tell: Box::new(tell) })
}

fn stream_of<T: Clone + Send + 'static>(
    api: &Arc<Api>,
    headers: &HeaderMap,
    after: Option<u64>,
    source: Source<T>,
) -> Result<Response, Problem> {
    // A browser that reconnects sends the header, beside the query of its first request.
    let after = last_event_id(headers)?.or(after);
    let Ok(place) = Arc::clone(&api.watchers).try_acquire_owned() else {
        let detail = format!(
            "{} clients follow the events of this node already: try again later, or ask another node",
            limits::API_WATCHERS_MAX
        );
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_watchers", detail));
    };
    let feed = Feed::new(api.node.clone(), source, after, api.closing.clone(), place);
    let events = stream::unfold(feed, Feed::next);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(|text| text.parse().ok()) {
        Some(sequence) => Ok(Some(sequence)),
        None => Err(Problem::bad_request("Last-Event-ID is not the number of an event")),
    }
}

/// Where events come from, and what is said of each; `None`: nothing.
struct Source<T> {
    of: fn(&Handle) -> &Events<T>,
    tell: Box<dyn Fn(Numbered<T>) -> Option<Event> + Send>,
}

/// What one watcher has still to be told, and where more comes from.
struct Feed<T> {
    node: Handle,
    source: Source<T>,
    /// The last event that the watcher has.
    last: Option<u64>,
    /// The last event that was looked at, told or not.
    seen: u64,
    has_gap: bool,
    subscription: Subscription<T>,
    missed: VecDeque<Numbered<T>>,
    closing: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl<T: Clone> Feed<T> {
    fn new(
        node: Handle,
        source: Source<T>,
        after: Option<u64>,
        closing: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let mut subscription = (source.of)(&node).subscribe(after);
        let missed = std::mem::take(&mut subscription.missed).into();
        let has_gap = subscription.gap;
        let seen = after.unwrap_or(subscription.upto);
        Self { node, source, last: after, seen, has_gap, subscription, missed, closing, _place: place }
    }

    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if std::mem::take(&mut self.has_gap) {
                let gap = Gap { after: self.last };
                return Some((Ok(data(Event::default().event("gap"), &gap)), self));
            }
            if let Some(numbered) = self.missed.pop_front() {
                let sequence = numbered.sequence;
                self.seen = sequence;
                let Some(event) = (self.source.tell)(numbered) else {
                    continue;
                };
                self.last = Some(sequence);
                return Some((Ok(event.id(sequence.to_string())), self));
            }
            let received = tokio::select! {
                () = self.closing.cancelled() => return None,
                received = self.subscription.live.recv() => received,
            };
            match received {
                Ok(numbered) => self.missed.push_back(numbered),
                Err(RecvError::Lagged(_)) => self.catch_up(),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The watcher was too slow for the live feed; what is kept may still have all of it.
    fn catch_up(&mut self) {
        self.subscription = (self.source.of)(&self.node).subscribe(Some(self.seen));
        self.missed = std::mem::take(&mut self.subscription.missed).into();
        self.has_gap = self.subscription.gap;
    }
}

fn data(event: Event, data: &impl serde::Serialize) -> Event {
    event.json_data(data).expect("texts and numbers are JSON, and have no line ends")
}
