//! Packets between nodes that one thread steps ([`MemoryNetwork::fused`](crate::MemoryNetwork::fused)): the peer's driver
//! takes one in within the turn that sends it, and answers into that turn.
//!
//! A packet so waits in no inbox, and the turn that proposes a batch of writes sees it committed. It rests on the
//! pump's word alone: a node that nobody steps is claimed, as for a turn of its own, and that turn then follows as always
//! when the sender's is over and every lock let go; it brings what the driver left behind to everybody. A node that somebody
//! steps is sent the packet as any other. So nobody waits for anybody, no caller is woken and no command applied under a
//! lock, and there are no turns inside such a turn.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use quorate_core::{Incarnation, Instant, NodeId};
use quorate_wire::Packet;

use super::{Node, PUMPING};
use crate::driver::{Answer, Lent};

thread_local! {
    /// Whether a driver takes something in within the turn of a peer on this thread.
    static IN_PEERS_TURN: Cell<bool> = const { Cell::new(false) };
}

/// A driver takes something in within the turn of a peer, until this is dropped.
struct InPeersTurn;

impl Drop for InPeersTurn {
    fn drop(&mut self) {
        IN_PEERS_TURN.set(false);
    }
}

/// A claimed node, whose turn follows when this is dropped, whatever happens before: nobody else steps it.
struct ItsTurn(Option<Arc<Node>>);

impl Drop for ItsTurn {
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            node.pump_from_here();
        }
    }
}

impl Node {
    /// [Brings](Self::bring_packet) a packet in the turn of the peer that sends it, which began at a certain time. It may be
    /// answered at once.
    #[inline]
    pub(crate) fn bring_in_turn(
        self: Arc<Self>,
        from: NodeId,
        incarnation: Incarnation,
        packet: impl FnOnce() -> Packet,
        (at, answers): (Instant, &mut VecDeque<Answer>),
    ) {
        // One inside another is enough: a turn is bounded.
        if IN_PEERS_TURN.get() || self.claim_free().is_none() {
            return self.bring_packet(from, incarnation, packet);
        }
        let claimed = ItsTurn(Some(self));
        if let ItsTurn(Some(node)) = &claimed {
            node.go_ahead(Lent { from, incarnation, packet: &mut packet(), at, answers });
        }
        debug_assert!(PUMPING.get(), "a turn sends, so this thread pumps");
    }

    /// Lets the driver of this claimed node take in a packet before its turn, after what came before.
    #[inline(never)]
    fn go_ahead(&self, lent: Lent<'_>) {
        // Nobody else has it: only who claimed a node locks it.
        let mut seat = self.seat.lock();
        if self.closed.get().is_none() {
            seat.ahead = true;
            IN_PEERS_TURN.set(true);
            let _inside = InPeersTurn;
            self.advance(&mut seat, Some(lent));
        }
    }
}
