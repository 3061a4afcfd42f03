//! What arrives on a connection: the handshake, then frames.

use bytes::Bytes;
use quorate_core::{Incarnation, LeaderIdMode, NodeId, Starts};
use quorate_net::LocalIdentity;
use quorate_net::hostile::{self, Carried, Samples};
use quorate_wire::Packet;

use crate::outcome::Outcome;
use crate::repair as mend;
use crate::samples::{CLUSTER, encode_packet, header, meta, packets};

/// Largest frame that is accepted. Claims of more are refused; claims of less take memory only as bytes arrive.
const MAX_FRAME_BYTES: usize = 72 << 20;

fn identity(node: u64) -> LocalIdentity {
    LocalIdentity {
        cluster: CLUSTER,
        node: NodeId(node),
        incarnation: Incarnation(u128::from(node) << 70),
        starts: Starts::counted(2).next(33),
        mode: LeaderIdMode::Advanced,
    }
}

/// Bytes of a connection. The first byte says what follows: a request, a reply, or frames; of frames the second says
/// in steps of how many bytes they arrive.
pub fn frame(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let (Some(kind), Some(step)) = (bytes.first(), bytes.get(1)) else { return outcome };
    let rest = &bytes[2..];
    match kind % 4 {
        0 => {
            if outcome.took(hostile::request(&identity(2), rest)).is_some() {
                outcome.accept();
            }
        }
        1 => {
            if outcome.took(hostile::reply(&identity(2), NodeId(1), rest)).is_some() {
                outcome.accept();
            }
        }
        _ => frames(rest, 1 + usize::from(*step) * usize::from(*step), &mut outcome),
    }
    outcome
}

fn frames(stream: &[u8], step: usize, outcome: &mut Outcome) {
    let (found, ended) = hostile::frames(stream, step, MAX_FRAME_BYTES);
    for carried in found {
        match carried {
            Carried::Packet(content) => {
                outcome.way("packet");
                outcome.took(Packet::decode(CLUSTER, content));
            }
            Carried::Call(content) => {
                outcome.way(if quorate::hostile::call(content) { "call" } else { "no call" });
                outcome.deeper();
            }
            Carried::Read(what, read) => {
                outcome.way(what);
                outcome.took(read);
            }
        }
    }
    if outcome.took(ended).is_some() {
        outcome.accept();
    }
}

pub(super) fn corpus() -> Vec<Vec<u8>> {
    let packets: Vec<_> = packets().iter().map(encode_packet).collect();
    let calls: Vec<Bytes> = quorate::hostile::calls();
    let Samples { requests, replies, streams, .. } =
        hostile::samples(&identity(1), NodeId(2), &packets, &calls, (header(), meta()));
    let tagged = |kind: u8, step: u8, all: Vec<Vec<u8>>| {
        all.into_iter().map(move |bytes| [&[kind, step], bytes.as_slice()].concat())
    };
    let whole = tagged(2, 255, streams.clone());
    tagged(0, 0, requests).chain(tagged(1, 0, replies)).chain(whole).chain(tagged(2, 3, streams)).collect()
}

pub(super) fn repair(bytes: &mut [u8]) {
    let Some((head, rest)) = bytes.split_first_chunk_mut::<2>() else { return };
    match head[0] % 4 {
        0 | 1 => drop(mend::hello(rest)),
        _ => mend::frames(rest),
    }
}
