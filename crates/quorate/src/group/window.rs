//! How many bytes of writes may wait for a node at once, and the callers that wait for room, in the order of their coming.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};

/// Callers that wait get no more than what leaves this part of the window free: forwarded writes do not wait in the line of
/// the node that they are forwarded to, and would never find room in front of a long one. Nor may they take it all: while
/// there is a line, no more of them are taken than of those who stand in it.
const FORWARDED_PART: usize = 8;

/// Whether a write's bytes were already taken from the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Take,
    Taken,
}

/// Bytes of writes that wait, and the line of callers that wait for fewer of them.
///
/// Who comes while others stand in line stands behind them: a caller that has just been answered would else take the room
/// that its own answer made, again and again, and those in the line would wait until their deadlines. Room is handed to the
/// front of the line, so that as many callers are woken as find room.
#[derive(Debug, Default)]
pub(crate) struct Window {
    used: AtomicUsize,
    /// Length of the line. Who gives room back and sees zero here gave it back before anybody stood in line.
    waiting: AtomicUsize,
    line: Mutex<Line>,
    /// Bytes that the line was given, beyond those of forwarded writes since.
    ahead: AtomicUsize,
    /// Whether somebody waits, or has waited, for nothing to be taken; that is told then.
    draining: AtomicBool,
    empty: Notify,
}

#[derive(Debug, Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    /// The number of whoever came last.
    last: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    bytes: usize,
    limit: usize,
    told: oneshot::Sender<Permit>,
}

/// Room that was found, to be told once no lock is held.
type Found = SmallVec<[(oneshot::Sender<Permit>, Permit); 4]>;

impl Window {
    /// Takes `bytes` of `limit` if they fit and nobody stands in line for them.
    pub(crate) fn take(&self, bytes: usize, limit: usize) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.take_at_once(bytes, limit)
    }

    /// The same for a write that was forwarded: while others stand in line, in turn with them.
    pub(crate) fn take_forwarded(&self, bytes: usize, limit: usize) -> bool {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return self.take_at_once(bytes, limit);
        }
        let is_its_turn =
            self.ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ahead| ahead.checked_sub(bytes)).is_ok();
        let takes = is_its_turn && self.take_at_once(bytes, limit);
        if is_its_turn && !takes {
            self.ahead.fetch_add(bytes, Ordering::Relaxed);
        }
        takes
    }

    /// Takes `bytes` of `limit` if they fit; a single larger write fits an empty window.
    fn take_at_once(&self, bytes: usize, limit: usize) -> bool {
        let fits = |used: usize| (used == 0 || used + bytes <= limit).then_some(used + bytes);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn give(self: &Arc<Self>, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.hand_out();
        }
        self.tell_if_empty();
    }

    /// Waits in line until `bytes` of `limit` could be taken.
    pub(crate) async fn take_in_line(self: &Arc<Self>, bytes: usize, limit: usize) -> Permit {
        if self.take(bytes, limit) {
            return Permit { window: Arc::clone(self), bytes };
        }
        loop {
            let (told, found) = oneshot::channel();
            let _leaves = self.stand(bytes, limit, told);
            // What was given back before this caller stood in line wakes nobody.
            self.hand_out();
            // A sender is never dropped without telling.
            if let Ok(permit) = found.await {
                return permit;
            }
        }
    }

    fn stand(self: &Arc<Self>, bytes: usize, limit: usize, told: oneshot::Sender<Permit>) -> InLine<'_> {
        let mut line = self.line.lock();
        line.last += 1;
        let number = line.last;
        line.waiters.push_back(Waiter { number, bytes, limit, told });
        self.waiting.store(line.waiters.len(), Ordering::SeqCst);
        InLine { window: self, number }
    }

    /// Waits until nothing is taken any more, and nobody stands in line: who needs room again meanwhile is waited for.
    pub(crate) async fn until_empty(&self) {
        self.draining.store(true, Ordering::SeqCst);
        loop {
            let empty = self.empty.notified();
            tokio::pin!(empty);
            empty.as_mut().enable();
            // An empty window has room for whoever is at the front.
            if self.is_empty() {
                return;
            }
            empty.await;
        }
    }

    fn is_empty(&self) -> bool {
        self.used.load(Ordering::SeqCst) == 0 && self.waiting.load(Ordering::SeqCst) == 0
    }

    fn tell_if_empty(&self) {
        if self.draining.load(Ordering::SeqCst) && self.is_empty() {
            self.empty.notify_waiters();
        }
    }

    /// Gives what is free to the front of the line.
    fn hand_out(self: &Arc<Self>) {
        let mut found = Found::new();
        {
            let mut line = self.line.lock();
            let fits = |front: &mut Waiter| self.take_at_once(front.bytes, front.limit - front.limit / FORWARDED_PART);
            while let Some(Waiter { told, bytes, limit, .. }) = line.waiters.pop_front_if(fits) {
                let give = |ahead: usize| Some((ahead + bytes).min(limit));
                let _always = self.ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
                found.push((told, Permit { window: Arc::clone(self), bytes }));
            }
            self.waiting.store(line.waiters.len(), Ordering::SeqCst);
        }
        // Who has stopped waiting gives it back by this.
        found.into_iter().for_each(|(told, permit)| drop(told.send(permit)));
    }
}

/// A caller's place in the line, which it leaves when it stops waiting.
struct InLine<'a> {
    window: &'a Arc<Window>,
    number: u64,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let left = {
            let mut line = self.window.line.lock();
            let at = line.waiters.binary_search_by_key(&self.number, |waiter| waiter.number);
            let left = at.ok().and_then(|at| line.waiters.remove(at));
            self.window.waiting.store(line.waiters.len(), Ordering::SeqCst);
            left
        };
        if left.is_some() {
            // Who stands behind may want less.
            self.window.hand_out();
            self.window.tell_if_empty();
        }
    }
}

/// Bytes taken from a window; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) window: Arc<Window>,
    pub(crate) bytes: usize,
}

impl Permit {
    /// From here on the queue gives the bytes back.
    pub(crate) fn hand_on(mut self) -> Room {
        self.bytes = 0;
        Room::Taken
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.window.give(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
