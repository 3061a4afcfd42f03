//! Links between nodes: messages wait until a script says what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{AppendHeader, Incarnation, Message, NodeId, StreamId};

use super::disk::{Entry, Snapshot};

/// A direction between two nodes.
pub(crate) type Link = (NodeId, NodeId);

/// What a packet carries.
#[derive(Clone, Debug)]
pub(crate) enum Cargo {
    Message(Message),
    Snapshot { header: AppendHeader, snapshot: Snapshot },
}

/// A sent message.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Order of sending over the whole network.
    pub(crate) order: u64,
    /// Number on its link, from 1.
    pub(crate) number: u64,
    pub(crate) link: Link,
    pub(crate) incarnation: Incarnation,
    /// The sender's run: a new run hears nothing of an old run's transfers.
    pub(crate) boot: u64,
    pub(crate) cargo: Cargo,
    pub(crate) bodies: Vec<Entry>,
    pub(crate) text: String,
}

impl Packet {
    pub(crate) fn line(&self) -> String {
        format!("{}->{} #{} {}", self.link.0, self.link.1, self.number, self.text)
    }

    /// The stream of a snapshot transfer.
    pub(crate) fn transfer(&self) -> Option<StreamId> {
        match &self.cargo {
            Cargo::Snapshot { header, .. } => Some(header.stream),
            Cargo::Message(_) => None,
        }
    }
}

/// Which messages a command means. Empty fields mean any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
    pub(crate) number: Option<u64>,
    /// Words that the message's text has, in this order.
    pub(crate) words: Vec<String>,
    /// At most this many, oldest first.
    pub(crate) limit: Option<usize>,
}

impl Choice {
    fn fits(&self, packet: &Packet) -> bool {
        self.from.is_none_or(|from| from == packet.link.0)
            && self.to.is_none_or(|to| to == packet.link.1)
            && self.number.is_none_or(|number| number == packet.number)
            && has_words(&packet.text, &self.words)
    }
}

/// Whether `text` has all `words`, in this order.
pub(crate) fn has_words(text: &str, words: &[String]) -> bool {
    fn parts(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty())
    }
    let mut found = parts(text);
    let mut wanted = words.iter().flat_map(|word| parts(word));
    wanted.all(|word| found.any(|have| have.trim_end_matches(':') == word.trim_end_matches(':')))
}

/// All links.
#[derive(Default)]
pub(crate) struct Network {
    /// In the order of sending.
    waiting: Vec<Packet>,
    held: Vec<Packet>,
    numbers: BTreeMap<Link, u64>,
    order: u64,
    cut: BTreeSet<Link>,
}

impl Network {
    /// Gives the packet its number. `false`: the link is cut and the packet is lost.
    pub(crate) fn send(&mut self, packet: &mut Packet) -> bool {
        let number = self.numbers.entry(packet.link).or_default();
        *number += 1;
        self.order += 1;
        packet.number = *number;
        packet.order = self.order;
        if self.cut.contains(&packet.link) {
            return false;
        }
        self.waiting.push(packet.clone());
        true
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Packet> {
        self.waiting.iter()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the chosen packets out of their queues, in the order of sending.
    pub(crate) fn take(&mut self, choice: &Choice) -> Vec<Packet> {
        take(&mut self.waiting, choice)
    }

    pub(crate) fn hold(&mut self, choice: &Choice) -> Vec<Packet> {
        let taken = take(&mut self.waiting, choice);
        self.held.extend(taken.iter().cloned());
        taken
    }

    /// Puts held packets back, after everything that was sent since.
    pub(crate) fn release(&mut self, choice: &Choice) -> Vec<Packet> {
        let taken = take(&mut self.held, choice);
        for packet in &taken {
            self.order += 1;
            self.waiting.push(Packet { order: self.order, ..packet.clone() });
        }
        taken
    }

    pub(crate) fn duplicate(&mut self, choice: &Choice) -> Vec<Packet> {
        let chosen: Vec<Packet> = self.waiting.iter().filter(|p| choice.fits(p)).cloned().collect();
        let limit = choice.limit.unwrap_or(usize::MAX);
        for packet in chosen.iter().take(limit) {
            self.order += 1;
            self.waiting.push(Packet { order: self.order, ..packet.clone() });
        }
        chosen
    }

    pub(crate) fn cut(&mut self, links: &[Link]) {
        self.cut.extend(links);
    }

    pub(crate) fn heal(&mut self, links: Option<&[Link]>) {
        match links {
            Some(links) => links.iter().for_each(|link| {
                self.cut.remove(link);
            }),
            None => self.cut.clear(),
        }
    }
}

fn take(queue: &mut Vec<Packet>, choice: &Choice) -> Vec<Packet> {
    let limit = choice.limit.unwrap_or(usize::MAX);
    let mut taken = Vec::new();
    let mut kept = Vec::new();
    for packet in queue.drain(..) {
        match taken.len() < limit && choice.fits(&packet) {
            true => taken.push(packet),
            false => kept.push(packet),
        }
    }
    *queue = kept;
    taken.sort_by_key(|packet| packet.order);
    taken
}
