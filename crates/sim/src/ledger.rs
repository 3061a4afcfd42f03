//! The default state machine and what its clients do: lists that are appended to, registers that are overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::{Frozen, Payload, PayloadError, RaftStateMachine, ReadPolicy};

use crate::check::ledger::Parts;
use crate::check::{Checked, Verdict};
use crate::history::{Call, Freshness, History, Key, ListView, Nanos, Operation, Outcome};
use crate::rng::Rng;
use crate::workload::{Asked, Invoked, Op, Returned, Workload};

/// Keys below this are lists, the ones from here on registers.
pub const FIRST_REGISTER: Key = 4;
const KEYS: Key = 8;

/// A command of the [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerCommand(pub Call);

/// The state machine: what [`Call`] says, done. It keeps every value that an object ever took, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    objects: BTreeMap<Key, Object>,
    inline: bool,
    /// Whether its snapshots are written from a copy, while it goes on.
    freezes: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Object {
    values: Vec<u64>,
    view: ListView,
}

impl Object {
    fn push(&mut self, value: u64) {
        self.values.push(value);
        self.view = self.view.append(value);
    }
}

/// What a write of the [`Ledger`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerResponse(pub Outcome);

fn short(what: &str) -> PayloadError {
    PayloadError(format!("{what} has another length or kind than was written"))
}

fn words<const N: usize>(bytes: &[u8], what: &str) -> Result<[u64; N], PayloadError> {
    if bytes.len() != N * 8 {
        return Err(short(what));
    }
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
    }
    Ok(words)
}

fn put(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

impl Payload for LedgerCommand {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        match self.0 {
            Call::Append { key, value } => put(out, &[1, key.into(), value, 0]),
            Call::Put { key, value } => put(out, &[2, key.into(), value, 0]),
            Call::CompareAndSwap { key, expect, value } => put(out, &[3, key.into(), value, expect]),
            Call::ReadList { .. } | Call::ReadRegister { .. } => return Err(short("a read")),
        }
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let [kind, key, value, expect] = words(&bytes, "a command")?;
        let key = key as Key;
        Ok(Self(match kind {
            1 => Call::Append { key, value },
            2 => Call::Put { key, value },
            3 => Call::CompareAndSwap { key, expect, value },
            _ => return Err(short("a command")),
        }))
    }
}

impl Payload for LedgerResponse {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        match self.0 {
            Outcome::Appended { length } => put(out, &[1, length]),
            Outcome::Put { previous } => put(out, &[2, previous]),
            Outcome::Swapped { swapped, previous } => put(out, &[if swapped { 3 } else { 4 }, previous]),
            Outcome::Unknown | Outcome::NotApplied | Outcome::List(_) | Outcome::Register { .. } => {
                return Err(short("an answer"));
            }
        }
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(match words(&bytes, "an answer")? {
            [1, length] => Outcome::Appended { length },
            [2, previous] => Outcome::Put { previous },
            [3, previous] => Outcome::Swapped { swapped: true, previous },
            [4, previous] => Outcome::Swapped { swapped: false, previous },
            _ => return Err(short("an answer")),
        }))
    }
}

impl Ledger {
    /// A list.
    pub fn list(&self, key: Key) -> ListView {
        self.objects.get(&key).map(|object| object.view).unwrap_or_default()
    }

    /// A register; 0: nothing.
    pub fn register(&self, key: Key) -> u64 {
        self.list(key).last
    }

    /// Every value that an object took, in order: a list's content, a register's past.
    pub fn values(&self, key: Key) -> &[u64] {
        self.objects.get(&key).map_or(&[], |object| &object.values)
    }

    /// Keys that something was written to.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.objects.keys().copied()
    }

    /// What a read of this state sees.
    pub fn look(&self, call: Call) -> Outcome {
        match call {
            Call::ReadList { key, .. } => Outcome::List(self.list(key)),
            Call::ReadRegister { key, .. } => Outcome::Register { value: self.register(key) },
            Call::Append { .. } | Call::Put { .. } | Call::CompareAndSwap { .. } => Outcome::NotApplied,
        }
    }
}

impl RaftStateMachine for Ledger {
    type Command = LedgerCommand;
    type Response = LedgerResponse;

    fn apply(&mut self, command: LedgerCommand) -> LedgerResponse {
        let object = self.objects.entry(command.0.key()).or_default();
        let previous = object.view.last;
        LedgerResponse(match command.0 {
            Call::Append { value, .. } => {
                object.push(value);
                Outcome::Appended { length: object.view.length }
            }
            Call::Put { value, .. } => {
                object.push(value);
                Outcome::Put { previous }
            }
            Call::CompareAndSwap { expect, value, .. } => {
                let swapped = previous == expect;
                if swapped {
                    object.push(value);
                }
                Outcome::Swapped { swapped, previous }
            }
            Call::ReadList { .. } | Call::ReadRegister { .. } => Outcome::NotApplied,
        })
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        put(&mut bytes, &[u64::from(self.inline) | u64::from(self.freezes) << 1]);
        for (key, object) in &self.objects {
            put(&mut bytes, &[u64::from(*key), object.values.len() as u64]);
            put(&mut bytes, &object.values);
        }
        out.write_all(&bytes)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let mut words = bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        let cut = || io::Error::new(io::ErrorKind::InvalidData, "a ledger's snapshot is cut");
        let flags = words.next().ok_or_else(cut)?;
        let mut ledger = Ledger { inline: flags & 1 != 0, freezes: flags & 2 != 0, ..Ledger::default() };
        while let Some(key) = words.next() {
            let object = ledger.objects.entry(key as Key).or_default();
            for _ in 0..words.next().ok_or_else(cut)? {
                object.push(words.next().ok_or_else(cut)?);
            }
        }
        Ok(ledger)
    }

    fn freeze(&self) -> Option<Frozen> {
        let copy = self.freezes.then(|| self.clone())?;
        Some(Box::new(move |out| copy.snapshot(out)))
    }

    fn applies_inline(&self) -> bool {
        self.inline
    }
}

/// Clients of a [`Ledger`]; records the [`History`].
#[derive(Debug, Default)]
pub struct LedgerClients {
    /// What was asked and answered so far.
    pub history: History,
    /// Steps that the search for a linearization took.
    pub steps: u64,
    /// Whether it was given up.
    pub undecided: bool,
    /// Whether there was no end to hold the history against, so that it was searched for one that explains it; and what
    /// came of that.
    pub without_end: Option<Checked<Key>>,
    /// Calls for several writes of which some took effect, and some did not.
    pub in_part: u64,
    /// The longest past of each object that a node has, of those looked at since.
    parts: Parts,
    inline: bool,
    freezes: bool,
    reads: u32,
    lease_reads: bool,
    /// About the time between two confirmations of a leader.
    max_age: Nanos,
    /// By operation, in the order of the history: the last command of the state that its answer is of.
    as_of: Vec<Option<u64>>,
    /// What each register was last seen to hold, so that comparing succeeds now and then.
    seen: BTreeMap<Key, u64>,
}

impl LedgerClients {
    /// Clients of which so many of a thousand operations are reads.
    pub fn new(reads: u32, lease_reads: bool, inline_applies: bool) -> Self {
        let max_age = Duration::from_secs(1).as_nanos() as Nanos;
        Self { reads, lease_reads, inline: inline_applies, max_age, ..Self::default() }
    }

    /// Reads of a maximum age take up to twice this.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age.as_nanos() as Nanos;
        self
    }

    /// Snapshots are written from a copy of the state, while applies go on.
    #[must_use]
    pub fn freezing(mut self, freezes: bool) -> Self {
        self.freezes = freezes;
        self
    }

    /// The operation of this id, which names the value that it writes.
    fn draw(&mut self, id: u64, chance: &mut Rng) -> Call {
        let value = id + 1;
        let key = chance.below(KEYS.into()) as Key;
        if chance.chance(self.reads) {
            let freshness = match chance.below(20) {
                0 | 1 => Freshness::Stale,
                2..5 => Freshness::MaxAge(self.max_age.saturating_mul(chance.below(9)) / 4),
                _ => Freshness::Linearizable,
            };
            return match key < FIRST_REGISTER {
                true => Call::ReadList { key, freshness },
                false => Call::ReadRegister { key, freshness },
            };
        }
        if key < FIRST_REGISTER {
            return Call::Append { key, value };
        }
        match chance.below(2) {
            0 => Call::Put { key, value },
            _ => Call::CompareAndSwap { key, expect: self.seen.get(&key).copied().unwrap_or(0), value },
        }
    }
}

impl Workload for LedgerClients {
    type Machine = Ledger;
    type Seen = Outcome;

    fn machine(&self) -> Ledger {
        Ledger { inline: self.inline, freezes: self.freezes, ..Ledger::default() }
    }

    fn next(&mut self, asked: Invoked, chance: &mut Rng) -> Op<Ledger, Outcome> {
        let call = self.draw(asked.id, chance);
        self.as_of.push(None);
        self.history.operations.push(Operation {
            id: asked.id,
            client: asked.client,
            session: None,
            batch: None,
            node: 0,
            process: 0,
            invoked_at: asked.at,
            returned_at: None,
            call,
            outcome: Outcome::Unknown,
        });
        match call {
            Call::Append { .. } | Call::Put { .. } | Call::CompareAndSwap { .. } => Op::Write(LedgerCommand(call)),
            Call::ReadList { freshness, .. } | Call::ReadRegister { freshness, .. } => {
                let policy = match freshness {
                    Freshness::Linearizable if self.lease_reads && chance.chance(500) => ReadPolicy::LeaseRead,
                    Freshness::Linearizable => ReadPolicy::ReadIndex,
                    Freshness::MaxAge(age) => ReadPolicy::MaxAge(Duration::from_nanos(age)),
                    Freshness::Stale => ReadPolicy::Stale,
                };
                Op::Read(policy, Arc::new(move |ledger: &Ledger| ledger.look(call)))
            }
        }
    }

    fn on_return(&mut self, id: u64, by: Asked, at: Nanos, returned: Returned<LedgerResponse, Outcome>) {
        let Some(place) = self.history.place_of(id) else { return };
        let operation = &mut self.history.operations[place];
        (operation.node, operation.process) = (by.node, by.process);
        (operation.session, operation.batch) = (by.session, by.batch);
        self.as_of[place] = by.as_of;
        operation.returned_at = Some(at);
        operation.outcome = match returned {
            Returned::Written(response) => response.0,
            Returned::Seen(outcome) => outcome,
            Returned::NotApplied => Outcome::NotApplied,
            Returned::Unknown => Outcome::Unknown,
        };
        let key = operation.call.key();
        match (operation.outcome, operation.call) {
            (Outcome::Register { value }, _) => {
                self.seen.insert(key, value);
            }
            (Outcome::Put { .. }, Call::Put { value, .. })
            | (Outcome::Swapped { swapped: true, .. }, Call::CompareAndSwap { value, .. }) => {
                self.seen.insert(key, value);
            }
            (Outcome::Swapped { swapped: false, previous }, _) => {
                self.seen.insert(key, previous);
            }
            _ => {}
        }
    }

    /// What is lost counts as not applied: it must not be there at the end, unless by another copy of the command.
    fn on_recovered(&mut self, from: u64, copied: &BTreeSet<u64>) -> u64 {
        let mut lost = 0;
        for (operation, as_of) in self.history.operations.iter_mut().zip(&mut self.as_of) {
            if as_of.take_if(|index| *index >= from).is_some() {
                operation.outcome = match copied.contains(&operation.id) {
                    true => Outcome::Unknown,
                    false => Outcome::NotApplied,
                };
                lost += 1;
            }
        }
        lost
    }

    fn check(&mut self, end: &Ledger) -> Result<(), String> {
        crate::oracle::check(&self.history, end)?;
        self.in_part = crate::oracle::taken_in_part(&self.history, end);
        let checked = crate::check::ledger::check(&self.history, end)?;
        self.steps = checked.steps;
        self.undecided = checked.verdict != Verdict::Linearizable;
        Ok(())
    }

    fn check_part(&mut self, part: &Ledger) -> Result<(), String> {
        for key in part.keys() {
            let (values, longest) = (part.values(key), self.parts.entry(key).or_default());
            let common = values.len().min(longest.len());
            if values[..common] != longest[..common] {
                return Err(format!("two nodes hold other values of key {key}: {values:?}, and {longest:?}"));
            }
            if values.len() > longest.len() {
                *longest = values.to_vec();
            }
        }
        crate::oracle::check_part(&self.history, part)
    }

    fn check_without_end(&mut self) -> Result<(), String> {
        let checked = crate::check::ledger::check_without_end(&self.history, &std::mem::take(&mut self.parts))?;
        // Of several searches, one that was given up is not hidden by the next.
        if self.without_end.as_ref().is_none_or(|before| before.verdict == Verdict::Linearizable) {
            self.without_end = Some(checked);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Operation;

    #[test]
    fn an_answer_that_was_lost_is_unknown_where_another_copy_of_its_command_may_be_kept() {
        let mut clients = LedgerClients::new(0, false, false);
        for id in 0..3 {
            let call = Call::Append { key: 0, value: id + 1 };
            let outcome = Outcome::Appended { length: id + 1 };
            let (session, returned_at) = (Some(1), Some(9));
            let operation = Operation {
                id,
                client: 0,
                session,
                batch: None,
                node: 1,
                process: 1,
                invoked_at: 1,
                returned_at,
                call,
                outcome,
            };
            clients.history.operations.push(operation);
            clients.as_of.push(Some(10 + id));
        }
        assert_eq!(clients.on_recovered(11, &BTreeSet::from([2])), 2, "entry 10 stays");
        let outcomes: Vec<Outcome> = clients.history.operations.iter().map(|operation| operation.outcome).collect();
        assert_eq!(outcomes, [Outcome::Appended { length: 1 }, Outcome::NotApplied, Outcome::Unknown]);
    }
}
