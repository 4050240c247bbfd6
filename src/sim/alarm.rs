//! Listens to the core's log while a world runs: a record at level ERROR is a bug by definition, and
//! fails the run. Everything below ERROR is not even formatted.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The errors heard so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarm {
    heard: Arc<Mutex<Vec<String>>>,
}

impl Alarm {
    /// Runs `work` with this alarm as the log's listener.
    pub(super) fn listen<T>(&self, work: impl FnOnce() -> T) -> T {
        tracing::subscriber::with_default(self.clone(), work)
    }

    /// Takes what was heard.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).expect("a string takes everything");
    }
}

impl Subscriber for Alarm {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_are_heard_and_only_while_listening() {
        let alarm = Alarm::default();
        tracing::error!("before");
        alarm.listen(|| {
            tracing::warn!("not this");
            tracing::error!(node = 3, "this");
        });
        let heard = alarm.take();
        assert_eq!(heard.len(), 1);
        assert!(heard[0].contains("this") && heard[0].contains("node=3"), "{heard:?}");
        assert!(alarm.take().is_empty());
    }
}
