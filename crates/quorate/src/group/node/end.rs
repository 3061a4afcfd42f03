//! The end of a group on a node: its callers are answered, and whoever stops it waits until nothing of it runs any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Node;
use crate::ClosedReason;
use crate::driver::Input;
use crate::events::NODE;
use crate::group::Fired;

impl Node {
    /// Ends the group on this node. Called by the pump only; others bring [`Input::Close`].
    pub(super) fn close(&self, reason: ClosedReason) {
        if self.closed.set(reason.clone()).is_err() {
            return;
        }
        match &reason {
            ClosedReason::Shutdown => {
                tracing::info!(name: "closed", target: NODE, node = self.me.0, group = self.group.0, "closed");
            }
            reason => tracing::error!(
                name: "failed", target: NODE, node = self.me.0, group = self.group.0, %reason, "closed"
            ),
        }
        let mut fired = Fired::default();
        self.leads.store(false, Ordering::Relaxed);
        self.leader.send_replace(None);
        self.proposals.close(&reason, &mut fired);
        self.reads.close(&reason, &mut fired);
        let left = {
            let mut seat = self.seat.lock();
            seat.driver.close(&reason, &mut fired);
            // What a turn that panicked left, and what came since: no turn takes it.
            let mut left = std::mem::take(&mut seat.inputs);
            left.append(&mut self.inbox.lock().inputs);
            left
        };
        for input in left {
            match input {
                Input::Read { batch, .. } => batch.close(&reason, &mut fired),
                input => fired.call(move || input.discard()),
            }
        }
        self.applies.close(&reason, &mut fired);
        self.metrics.send_modify(|metrics| {
            metrics.closed = Some(reason);
            metrics.current_leader = None;
        });
        fired.fire();
        self.signal.notify_one();
        self.over.notify_waiters();
    }

    /// Waits until the group is over.
    pub(crate) async fn wait_closed(&self) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if self.closed.get().is_some() {
                return;
            }
            over.await;
        }
    }

    /// Waits until the group is over and nothing of its state machine runs any more: no apply, no read, no build of a
    /// snapshot. That may be never: it is user code.
    /// Returns whether it could be waited for.
    async fn wait_at_rest(&self) -> bool {
        self.wait_closed().await;
        // What is brought to a group that is over is under way until it has found that out.
        while !self.applies.halt() {
            if self.halted().wait_for(|halted| *halted).await.is_err() {
                return false;
            }
        }
        let task = self.task.lock().take();
        if let Some(task) = task {
            drop(task.await);
        }
        true
    }

    /// Becomes true once nothing of the machine was under way. A thread of its own waits for that, one for all who ask:
    /// what is under way may need the runtime's threads, and the runtime may end first.
    fn halted(&self) -> watch::Receiver<bool> {
        let mut waiter = self.waiter.lock();
        let is_waiting = |halted: &&watch::Receiver<bool>| !*halted.borrow() && halted.has_changed().is_ok();
        if let Some(halted) = waiter.as_ref().filter(is_waiting) {
            return halted.clone();
        }
        let (tell, halted) = watch::channel(false);
        let (applies, runtime) = (Arc::clone(&self.applies), self.runtime.clone());
        let wait = move || {
            // The machine may be dropped here.
            let _context = runtime.enter();
            applies.halt_and_wait();
            drop(applies);
            tell.send_replace(true);
        };
        // Without a thread nobody waits, which is seen by the channel.
        drop(std::thread::Builder::new().name("quorate-rest".into()).spawn(wait));
        *waiter = Some(halted.clone());
        halted
    }

    /// [Waits](Self::wait_at_rest) no longer than that; returns whether it is so then.
    pub(crate) async fn comes_to_rest(&self, until: tokio::time::Instant) -> bool {
        let rests = tokio::time::timeout_at(until, self.wait_at_rest()).await == Ok(true);
        if !rests {
            tracing::error!(
                name: "stop_stuck", target: NODE, node = self.me.0, group = self.group.0,
                "the state machine, the storage or the network does not come back: what it uses must not be opened again \
                 in this process"
            );
        }
        rests
    }

    /// Whether its task has ended: it is over, or its runtime is.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.task.lock().as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Whether the group is over and nothing of its state machine runs any more.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.closed().is_some() && self.applies.halt()
    }

    /// From now on writes are sent elsewhere; those under way go on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether it takes no new writes, because it is about to stop.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why the group is over, if it is.
    pub(crate) fn closed(&self) -> Option<&ClosedReason> {
        self.closed.get()
    }
}
