//! The store as a replicated state machine.

use std::io::{self, Read, Write};

use quorate::{EntryContext, Frozen, RaftStateMachine, Raw};

use super::command::{Command, encode_response, is_slow};
use super::snapshot;
use super::store::Store;
use crate::proto::{CompactionResponse, ResponseHeader};

impl RaftStateMachine for Store {
    type Command = Raw;
    type Response = Raw;

    fn apply(&mut self, command: Raw) -> Raw {
        match Command::decode(command) {
            Ok(command) => self.apply_command(command),
            Err(error) => unreadable(&error.0, None),
        }
    }

    fn apply_entry(&mut self, entry: EntryContext, command: Raw) -> Raw {
        match Command::decode(command) {
            Ok(command) => self.apply_command(command),
            Err(error) => unreadable(&error.0, Some(entry)),
        }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        snapshot::write(&self.image(), out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        snapshot::read(input)
    }

    /// Copies the index, not the values: a tenth of a second for a million keys, where writing takes many.
    fn freeze(&self) -> Option<Frozen> {
        let image = self.image().into_owned();
        Some(Box::new(move |out| snapshot::write(&image, out)))
    }

    /// A put takes a microsecond or two, beside which a change of threads would be long.
    fn applies_inline(&self) -> bool {
        true
    }

    fn slow_commands(&self) -> Option<fn(&[u8]) -> bool> {
        Some(is_slow)
    }
}

impl Store {
    fn apply_command(&mut self, command: Command) -> Raw {
        match command {
            Command::Put(request) => encode_response(self.put(&request)),
            Command::DeleteRange(request) => encode_response(Ok(self.delete_range(&request))),
            Command::Txn(request) => encode_response(self.txn(&request)),
            Command::Compaction(request) => encode_response(self.compact(request.revision).map(|()| {
                CompactionResponse { header: Some(ResponseHeader { revision: self.revision, ..Default::default() }) }
            })),
            Command::Member(attributes) => {
                self.members.insert(attributes.id, attributes);
                encode_response(Ok(()))
            }
        }
    }
}

/// A committed command that cannot be read: other nodes may read it, so to skip it would let this node's state
/// drift from theirs. The library turns the panic into a stop of this node with the reason.
fn unreadable(reason: &str, entry: Option<EntryContext>) -> ! {
    match entry {
        Some(entry) => panic!("log entry {} cannot be applied: {reason}", entry.log_id),
        None => panic!("a log entry cannot be applied: {reason}"),
    }
}
