//! Keeps the events and spans of this library, and compares them with their list. Tests of other crates include it.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const LIST: &str = include_str!("../events.md");

/// What is said of an event or span, once as listed and once as seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) target: String,
    pub(crate) level: String,
    pub(crate) fields: BTreeSet<String>,
}

/// An event or span that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    /// What was recorded, as `Debug` shows it.
    pub(crate) values: BTreeMap<String, String>,
}

/// Everything listed, by name.
pub(crate) fn listed() -> BTreeMap<String, Shape> {
    let mut rows = BTreeMap::new();
    for line in LIST.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, target, name, level, fields, ..] = cells[..] else { panic!("{line}") };
        let plain = |word: &str| word.trim_matches('`').to_owned();
        let fields = fields.split_whitespace().map(plain).collect();
        let shape = Shape { target: plain(target), level: level.to_owned(), fields };
        assert_eq!(rows.insert(plain(name), shape), None, "{name} is listed twice");
    }
    rows
}

/// Keeps what this library says.
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<Seen>>>);

impl Capture {
    /// Takes what was seen so far.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// The names of what was seen so far; all of it must be as listed.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let listed = listed();
        let seen = self.0.lock().unwrap();
        let name = |seen: &Seen| {
            assert_eq!(listed.get(&seen.name), Some(&seen.shape), "{} is not as it is listed", seen.name);
            seen.name.clone()
        };
        seen.iter().map(name).collect()
    }

    fn keep(&self, metadata: &Metadata<'_>, values: Values) {
        let fields = metadata.fields().iter().map(|field| field.name().to_owned());
        let shape = Shape {
            target: metadata.target().to_owned(),
            level: metadata.level().to_string().to_lowercase(),
            fields: fields.filter(|name| name != "message").collect(),
        };
        let seen = Seen { name: metadata.name().to_owned(), shape, values: values.0 };
        self.0.lock().unwrap().push(seen);
    }
}

#[derive(Default)]
struct Values(BTreeMap<String, String>);

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("quorate::") || metadata.target().starts_with("quorate_")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut values = Values::default();
        span.record(&mut values);
        self.keep(span.metadata(), values);
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut values = Values::default();
        event.record(&mut values);
        self.keep(event.metadata(), values);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
