//! Lines that say again what was just said: a model that is broken is asked for all the same.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// The same is said again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// So many lines are remembered; more that differ are written, however often.
const REMEMBERED_MAX: usize = 256;

/// Lets the same warning or error through once in a while; what else there is, always.
#[derive(Default)]
pub(super) struct Repeats {
    /// By what was said, when.
    said: Mutex<HashMap<u64, Instant>>,
}

impl Repeats {
    /// Whether `line` is written at `now`.
    fn is_news(&self, line: u64, now: Instant) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| now.duration_since(*at) < AGAIN_AFTER);
        if said.contains_key(&line) {
            return false;
        }
        if said.len() < REMEMBERED_MAX {
            said.insert(line, now);
        }
        true
    }
}

impl<S> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::WARN {
            return true;
        }
        let mut words = Words(DefaultHasher::new());
        event.metadata().target().hash(&mut words.0);
        event.record(&mut words);
        self.is_news(words.0.finish(), Instant::now())
    }
}

/// What an event says, hashed.
struct Words(DefaultHasher);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        (field.name(), format!("{value:?}")).hash(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::*;

    #[test]
    fn the_same_is_said_again_after_a_while() {
        let (repeats, begun) = (Repeats::default(), Instant::now());
        for (line, after, want) in
            [(1, 0, true), (1, 1, false), (2, 1, true), (1, 4, false), (1, 5, true), (1, 6, false), (2, 6, true)]
        {
            assert_eq!(repeats.is_news(line, begun + Duration::from_secs(after)), want, "{line} after {after} s");
        }
        for line in 10..1000 {
            assert!(repeats.is_news(line, begun + Duration::from_secs(7)), "{line}");
        }
        assert!(repeats.said.lock().unwrap().len() <= REMEMBERED_MAX);
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn warnings_and_errors_are_told_apart_by_all_that_they_say() {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(log.with_filter(Repeats::default())),
            || {
                for model in ["a", "b", "a", "b", "a"] {
                    tracing::error!(%model, "a request failed");
                    tracing::info!("told always");
                }
            },
        );
        let lines = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let count = |part: &str| lines.lines().filter(|line| line.contains(part)).count();
        assert_eq!((count("model=a"), count("model=b"), count("told always")), (1, 1, 5), "{lines}");
    }
}
