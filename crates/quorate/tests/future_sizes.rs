//! Thousands of callers hold a future each, and every batch touches all of them: they are counted in cache lines.

use std::io::{self, Read, Write};
use std::mem::size_of_val;

use quorate::{MemoryNetwork, Raft, RaftStateMachine, Raw, ReadPolicy};

struct Nothing;

impl RaftStateMachine for Nothing {
    type Command = Raw;
    type Response = Raw;

    fn apply(&mut self, command: Raw) -> Raw {
        command
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Ok(Self)
    }
}

#[tokio::test]
async fn what_a_caller_holds_of_a_call_takes_two_cache_lines_at_most() {
    let network = MemoryNetwork::new();
    let raft = Raft::builder(1).peers([(1, "one")]).in_memory(&network).start(Nothing).await.unwrap();
    assert!(size_of_val(&raft.client_write(Raw::default())) <= 128, "with its command, which takes 32 bytes");
    assert!(size_of_val(&raft.client_write_many(Vec::new())) <= 128);
    assert!(size_of_val(&raft.read(ReadPolicy::ReadIndex, |_| ())) <= 64, "it keeps one");
    raft.shutdown().await;
}
