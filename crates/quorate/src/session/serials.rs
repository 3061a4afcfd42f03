//! The numbers of a session's commands, as its holder keeps them. No I/O, no clock: what waits and what sends is in
//! `client.rs`.

use std::collections::BTreeSet;

use quorate_wire::{SESSION_HEADER_BYTES, SessionHeader};

/// Which serials are given out, and whose answers may still be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serials {
    next: u64,
    /// Invariant: all of them are below `next`, and `next - low() <= max_in_flight`.
    open: BTreeSet<u64>,
    max_in_flight: u32,
}

impl Serials {
    /// Numbers from `next` on, of which so many may be open at once.
    pub fn new(next: u64, max_in_flight: u32) -> Self {
        Self { next, open: BTreeSet::new(), max_in_flight }
    }

    /// All answers below are no longer needed: what a command says to the table.
    pub fn low(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }

    /// The next serial, held from now on; `None` while as many as may be are.
    pub fn take(&mut self) -> Option<u64> {
        if self.next - self.low() >= u64::from(self.max_in_flight) {
            return None;
        }
        let serial = self.next;
        self.next += 1;
        self.open.insert(serial);
        Some(serial)
    }

    /// The answer of this serial is no longer needed.
    pub fn release(&mut self, serial: u64) {
        self.open.remove(&serial);
    }

    /// Writes the header of a command that is sent now in front of it: `payload` begins with room for it.
    pub fn head(&self, session: u64, serial: u64, payload: &mut [u8]) {
        let header = SessionHeader { session, serial, low: self.low() };
        let mut head = Vec::with_capacity(SESSION_HEADER_BYTES);
        header.encode(&mut head);
        payload[..SESSION_HEADER_BYTES].copy_from_slice(&head);
    }
}
