use quorate_core::LeaderId;

use super::super::window::Window;
use super::*;
use crate::group::Terms;
use crate::memory::{MemorySnapshots, MemoryStorage};
use crate::{Payload, PayloadError};

struct Nothing;

#[derive(Debug)]
struct Word;

impl Payload for Word {
    fn encode(&self, _: &mut Vec<u8>) -> Result<(), PayloadError> {
        Ok(())
    }

    fn decode(_: bytes::Bytes) -> Result<Self, PayloadError> {
        Ok(Self)
    }
}

impl RaftStateMachine for Nothing {
    type Command = Word;
    type Response = Word;

    fn apply(&mut self, _: Word) -> Word {
        Word
    }

    fn snapshot(&self, _: &mut dyn std::io::Write) -> std::io::Result<()> {
        Ok(())
    }

    fn restore(_: &mut dyn std::io::Read) -> std::io::Result<Self> {
        Ok(Self)
    }
}

/// A leader lost its leadership with an entry at 20, leads again in a log that ends before, and loses that with an entry
/// at 10. Then it gets a snapshot up to 15.
#[test]
fn who_waits_for_what_a_snapshot_covers_is_told_also_behind_who_waits_for_more() {
    let storage: Arc<dyn RaftLogStorage> = Arc::new(MemoryStorage::new());
    let queue = ApplyQueue::new(ApplyParts {
        state: Nothing,
        book: Book::blank(),
        durable: false,
        meters: Arc::new(GroupMeters::new(NodeId(1), GroupId(1), None)),
        storage,
        snapshots: Arc::new(MemorySnapshots::new()),
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    for (term, index) in [(1, 20), (3, 10)] {
        let waits = WaitList::<Word>::new(1, std::time::Instant::now());
        let told = Arc::clone(&told);
        let responder = Box::new(move |result: Result<_, _>| told.lock().push((index, result.map(|_| ()))));
        waits.join_remote(responder, Terms::default().timer);
        let first = LogId::new(LeaderId::new(term, 1), index);
        let permit = Permit { window: Arc::new(Window::default()), bytes: 0 };
        queue.push(&mut vec![Awaited { first, count: 1, waits: Arc::new(waits), permit }], &mut Vec::new());
    }
    let mut fired = Fired::default();
    queue.cover(LogId::new(LeaderId::new(4, 2), 15), &mut fired);
    fired.fire();
    assert_eq!(*told.lock(), [(10, Err(Failure::Unknown))], "nothing is known of 20");
    queue.cover(LogId::new(LeaderId::new(4, 2), 20), &mut fired);
    fired.fire();
    assert_eq!(told.lock().len(), 2);
}
