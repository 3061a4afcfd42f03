//! The futures of calls: thousands of callers hold one each, and every batch touches all of them. They are counted in cache lines.

use std::io::{self, Read, Write};
use std::mem::size_of_val;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
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

/// Bytes of a command that tell whether somebody still has them.
struct Watched {
    _kept: Arc<()>,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        b"watched"
    }
}

#[tokio::test]
async fn what_a_call_was_given_is_let_go_of_when_it_ends() {
    let network = MemoryNetwork::new();
    let raft = Raft::builder(1).peers([(1, "one")]).in_memory(&network).start(Nothing).await.unwrap();
    let kept = Arc::new(());
    let command = || Raw(Bytes::from_owner(Watched { _kept: Arc::clone(&kept) }));
    for is_open in [true, false] {
        let (mut one, mut many) = (pin!(raft.client_write(command())), pin!(raft.client_write_many(vec![command()])));
        let told = raft.write(command()).on_commit({
            let kept = Arc::clone(&kept);
            move |_| drop(kept)
        });
        let mut told = pin!(told.into_future());
        let seen = Arc::clone(&kept);
        let mut read = pin!(raft.read(ReadPolicy::ReadIndex, move |_| drop(seen)));
        assert_eq!(Arc::strong_count(&kept), 6);
        assert_eq!(one.as_mut().await.is_ok(), is_open);
        assert_eq!(many.as_mut().await[0].is_ok(), is_open);
        assert_eq!(told.as_mut().await.is_ok(), is_open);
        assert_eq!(read.as_mut().await.is_ok(), is_open);
        assert_eq!(Arc::strong_count(&kept), 1, "the futures are still there");
        if is_open {
            raft.shutdown().await;
        }
    }
}
