//! A level that is compiled out costs nothing: its events and spans are not in the program, so nobody is even asked whether
//! they are wanted. By default that is none; `cargo test -p quorate --features tracing/max_level_info --test quiet` looks at a
//! program without `debug` and `trace`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{leader, start, stop};
use quorate::Config;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

/// By level: how many places of the library asked, and how often they told.
static ASKED: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
static TOLD: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

fn count(counts: &[AtomicU64; 5], metadata: &Metadata<'_>) {
    let at = LEVELS.iter().position(|level| level == metadata.level());
    if let Some(at) = at.filter(|_| metadata.target().starts_with("quorate::")) {
        counts[at].fetch_add(1, Ordering::Relaxed);
    }
}

/// Wants to hear everything.
struct Curious;

impl Subscriber for Curious {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        count(&ASKED, metadata);
        Interest::always()
    }

    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        count(&TOLD, span.metadata());
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        count(&TOLD, event.metadata());
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

/// One test: whoever hears what every thread says is alone in the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_compiled_out_is_not_there() {
    tracing::subscriber::set_global_default(Curious).unwrap();
    let (_network, nodes) = start(3, Config::default()).await;
    let leading = leader(&nodes).await;
    for number in 0..10 {
        leading.client_write(format!("{number}")).await.unwrap();
    }
    leading.trigger().snapshot().await.unwrap();
    stop(nodes).await;
    println!("compiled in up to {STATIC_MAX_LEVEL}; by level: places {ASKED:?}, told {TOLD:?}");
    for (level, (asked, told)) in LEVELS.into_iter().zip(ASKED.iter().zip(&TOLD)) {
        let (asked, told) = (asked.load(Ordering::Relaxed), told.load(Ordering::Relaxed));
        if LevelFilter::from_level(level) > STATIC_MAX_LEVEL {
            assert_eq!((asked, told), (0, 0), "{level} is compiled out");
        } else if level > Level::WARN {
            // Nothing in this life deserves a warning.
            assert!(asked > 0 && told > 0, "{level} is in the program, and told");
        }
    }
}
