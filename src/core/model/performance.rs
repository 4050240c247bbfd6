//! What is measured of a running mesh, the most that it should take, and what a measurement says of that.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::{Address, Message, Performative};
use crate::core::limits;

/// The message that is sent to measure: [`limits::MEASURED_CONTENT_BYTES`] zeros.
#[must_use]
pub fn measuring_message(id: Uuid, from: String, to: Address) -> Message {
    Message {
        id,
        from,
        to,
        performative: Performative::Request,
        conversation_id: None,
        in_reply_to: None,
        content_type: "application/octet-stream".to_owned(),
        content: vec![0; limits::MEASURED_CONTENT_BYTES].into(),
        deadline_ms: limits::MEASURED_ASK_DEADLINE_MS,
        traceparent: None,
        hops: 0,
        extensions: BTreeMap::new(),
    }
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gauge {
    /// A message to an agent of the same node, and its answer.
    LocalRoute,
    /// A message to an agent of a peer, and its answer.
    RemoteRoute,
    /// A fresh instance of a WASM agent is made and has answered its first message.
    WasmStart,
}

impl Gauge {
    /// The word that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LocalRoute => "local_route",
            Self::RemoteRoute => "remote_route",
            Self::WasmStart => "wasm_start",
        }
    }

    /// The target: what the median should not exceed.
    #[must_use]
    pub fn p50_max(self) -> Duration {
        match self {
            Self::LocalRoute => Duration::from_micros(100),
            Self::RemoteRoute => Duration::from_millis(5),
            Self::WasmStart => Duration::from_millis(10),
        }
    }

    /// The target: what the 99th percentile should not exceed, where there is one.
    #[must_use]
    pub fn p99_max(self) -> Option<Duration> {
        match self {
            Self::LocalRoute => Some(Duration::from_millis(1)),
            Self::RemoteRoute => Some(Duration::from_millis(50)),
            Self::WasmStart => None,
        }
    }

    /// What the samples say of the target. A message that failed misses it: its sender waited in vain.
    #[must_use]
    pub fn verdict(self, figures: &Figures) -> Verdict {
        let exceeds = |took: Option<Duration>, max| took.map(|took| took > max);
        let p50 = exceeds(figures.p50, self.p50_max());
        let p99 = self.p99_max().map_or(Some(false), |max| exceeds(figures.p99, max));
        if figures.failed > 0 || p50 == Some(true) || p99 == Some(true) {
            return Verdict::Missed;
        }
        if p50.is_none() || p99.is_none() { Verdict::NotMeasured } else { Verdict::Met }
    }
}

/// What a measurement says of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is met.
    Met,
    /// It is missed.
    Missed,
    /// It was not measured, or too little of it.
    NotMeasured,
}

impl Verdict {
    /// The word that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::NotMeasured => "not_measured",
        }
    }
}

/// What measuring has given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    /// What each took that came back.
    pub took: Vec<Duration>,
    /// Those that did not.
    pub failed: usize,
    /// Why it was not measured, or why it ended before its time.
    pub reason: Option<String>,
}

impl Samples {
    /// Nothing was measured, for this reason.
    #[must_use]
    pub fn nothing(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }

    /// One did not come back, for this reason.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.failed += 1;
        self.reason = Some(reason.into());
    }
}

/// Samples, as two figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Those that came back.
    pub count: usize,
    /// Those that did not.
    pub failed: usize,
    /// The median.
    pub p50: Option<Duration>,
    /// The 99th percentile; nothing where the samples are too few to tell it.
    pub p99: Option<Duration>,
}

impl Figures {
    /// The figures of what was measured.
    #[must_use]
    pub fn of(mut samples: Samples) -> Self {
        samples.took.sort_unstable();
        let Samples { took: samples, failed, reason: _ } = samples;
        // The nearest rank: the smallest one that so many percent do not exceed.
        let rank = |percent: usize| (samples.len() * percent).div_ceil(100);
        let at = |percent: usize| rank(percent).checked_sub(1).and_then(|index| samples.get(index)).copied();
        let is_enough = samples.len() >= limits::MEASURED_SAMPLES_MIN;
        let (p50, p99) = (at(50), at(99).filter(|_| is_enough));
        Self { count: samples.len(), failed, p50, p99 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(all: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        all.into_iter().map(Duration::from_micros).collect()
    }

    fn figures(took: Vec<Duration>, failed: usize) -> Figures {
        Figures::of(Samples { took, failed, reason: None })
    }

    #[test]
    fn figures_are_those_of_the_nearest_rank_and_a_p99_needs_a_hundred_samples() {
        let hundred = figures(micros((1..=100).rev()), 0);
        assert_eq!(hundred.p50, Some(Duration::from_micros(50)));
        assert_eq!(hundred.p99, Some(Duration::from_micros(99)));
        let few = figures(micros(1..=99), 3);
        assert_eq!((few.count, few.failed, few.p50, few.p99), (99, 3, Some(Duration::from_micros(50)), None));
        assert_eq!(figures(vec![], 0), Figures::default());
    }

    #[test]
    fn a_target_is_missed_by_the_median_by_the_tail_and_by_any_message_that_failed() {
        let verdict = |samples: Vec<Duration>, failed| Gauge::LocalRoute.verdict(&figures(samples, failed));
        let all = |value, count| micros(std::iter::repeat_n(value, count));
        assert_eq!(verdict(all(100, 100), 0), Verdict::Met, "what is as large as the target meets it");
        assert_eq!(verdict(all(101, 100), 0), Verdict::Missed);
        let tail = [all(10, 98), all(1001, 2)].concat();
        assert_eq!(verdict(tail, 0), Verdict::Missed);
        assert_eq!(verdict(all(10, 100), 1), Verdict::Missed);
        assert_eq!(verdict(vec![], 1), Verdict::Missed);
    }

    #[test]
    fn too_few_samples_miss_a_target_but_never_meet_one_that_has_a_tail() {
        let few = |value| figures(micros(std::iter::repeat_n(value, 99)), 0);
        assert_eq!(Gauge::LocalRoute.verdict(&few(10)), Verdict::NotMeasured);
        assert_eq!(Gauge::LocalRoute.verdict(&few(500)), Verdict::Missed);
        assert_eq!(Gauge::WasmStart.verdict(&few(500)), Verdict::Met, "it has no target for its tail");
        assert_eq!(Gauge::RemoteRoute.verdict(&Figures::default()), Verdict::NotMeasured);
    }
}
