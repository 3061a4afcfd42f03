//! Which message that arrived is which of those that were sent.

use std::collections::BTreeMap;

use quorate_core::{Action, AppendHeader, Event, Message, NodeId, Span, StreamId};

use crate::record::{Moment, What};

/// A direction between two nodes.
pub(super) type Link = (NodeId, NodeId);

/// A message by its number on its link, from 1, as the script's world counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number {
    pub(super) link: Link,
    pub(super) number: u64,
}

/// What was sent.
#[derive(Clone, Debug)]
enum Cargo {
    Message(Message),
    Entries { header: AppendHeader, span: Span },
    Snapshot(AppendHeader),
}

impl Cargo {
    fn of(action: &Action) -> Option<(NodeId, Self)> {
        match action {
            Action::Send { to, message } => Some((*to, Self::Message(message.clone()))),
            Action::SendEntries { to, header, span } => Some((*to, Self::Entries { header: *header, span: *span })),
            Action::SendSnapshot { to, header, .. } => Some((*to, Self::Snapshot(*header))),
            _ => None,
        }
    }

    /// Whether this is what arrived. Of entries perhaps only the first ones were sent.
    fn arrives(&self, event: &Event) -> bool {
        match (self, event) {
            (Self::Message(sent), Event::Message(came)) => *sent == came.message,
            (Self::Entries { header, span }, Event::Message(came)) => match &came.message {
                Message::Append(append) => {
                    let last = append.entries.runs.last().unwrap_or(append.prev);
                    let is_front = last == span.last || last > span.prev && last < span.last;
                    append.header == *header && append.prev == span.prev && is_front
                }
                _ => false,
            },
            (Self::Snapshot(sent), Event::SnapshotReceived { header, .. }) => sent == header,
            _ => false,
        }
    }
}

/// Every message of a run.
#[derive(Default)]
pub(super) struct Mail {
    sent: BTreeMap<Link, Vec<(Cargo, u64)>>,
    /// The moment of each arrival, and what arrives.
    arrivals: BTreeMap<usize, Number>,
    /// How often each has still to arrive.
    left: BTreeMap<Number, u64>,
}

impl Mail {
    pub(super) fn of(moments: &[Moment]) -> Self {
        let mut mail = Self::default();
        for (place, moment) in moments.iter().enumerate() {
            let What::Step { event, actions } = &moment.what else { continue };
            let from = match &**event {
                Event::Message(envelope) => Some(envelope.from),
                Event::SnapshotReceived { from, .. } => Some(*from),
                _ => None,
            };
            if let Some(number) = from.and_then(|from| mail.find((from, moment.node), event)) {
                mail.arrivals.insert(place, number);
                *mail.left.entry(number).or_default() += 1;
            }
            for (to, cargo) in actions.iter().filter_map(Cargo::of) {
                mail.sent.entry((moment.node, to)).or_default().push((cargo, 0));
            }
        }
        mail
    }

    /// The oldest such message that did not arrive yet, or else the newest that did.
    fn find(&mut self, link: Link, event: &Event) -> Option<Number> {
        let sent = self.sent.get_mut(&link)?;
        let such = |(_, (cargo, _)): &(usize, &(Cargo, u64))| cargo.arrives(event);
        let fresh = sent.iter().enumerate().filter(such).find(|(_, (_, arrived))| *arrived == 0);
        let at = fresh.or_else(|| sent.iter().enumerate().rfind(such)).map(|(at, _)| at)?;
        sent[at].1 += 1;
        Some(Number { link, number: at as u64 + 1 })
    }

    /// The snapshot that was last sent in this stream, if it never arrives.
    pub(super) fn lost_snapshot(&self, link: Link, stream: StreamId) -> Option<Number> {
        let sent = self.sent.get(&link)?;
        let is_it = |(cargo, _): &(Cargo, u64)| matches!(cargo, Cargo::Snapshot(header) if header.stream == stream);
        let at = sent.iter().rposition(is_it)?;
        (sent[at].1 == 0).then_some(Number { link, number: at as u64 + 1 })
    }

    /// What arrives at this moment, and whether it will arrive once more.
    pub(super) fn arrival(&mut self, place: usize) -> Option<(Number, bool)> {
        let number = *self.arrivals.get(&place)?;
        let left = self.left.get_mut(&number)?;
        *left = left.saturating_sub(1);
        Some((number, *left > 0))
    }
}
