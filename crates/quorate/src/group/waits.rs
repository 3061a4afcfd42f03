//! Who waits for a write: one list a proposal, shared by the calls that were batched into it.
//!
//! A list holds one cell an entry, in log order, so the cell of an entry is found by subtraction. One list is one
//! allocation for all calls that came in together, and is completed under one lock.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use quorate_core::{LeaderId, LogId, NodeId};

use super::terms::Timer;
use super::window::Permit;
use crate::session::SessionOutcome;
use crate::{ClosedReason, blame};

/// Why an entry has no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It never entered a log: this node does not lead.
    NotLeader(Option<NodeId>),
    /// It never entered a log: it was only for this leader, which leads no more.
    OtherLeader { wanted: LeaderId, leader: Option<NodeId> },
    /// It never entered a log: the disk is full.
    StorageFull,
    /// It entered a log, but another leader's entry was committed in its place.
    Replaced,
    /// It never entered a log: the group is closed.
    Closed(ClosedReason),
    /// It entered a log; whether it is committed is not known.
    Unknown,
    /// It is about a session and was committed, but has no response.
    Session(SessionOutcome),
}

/// How an entry ended that someone waits for.
pub(crate) type Outcome<R> = Result<(LogId, R), Failure>;

/// What whoever waits for an entry that was applied is told: the response, whose log id follows from its place, or
/// another outcome. Thousands of these pass from one processor to another at once, so they are no larger than most need.
pub(crate) type Applied<R> = Result<R, Box<Outcome<R>>>;

/// Called when a forwarded write ends.
pub(crate) type Responder<R> = Box<dyn FnOnce(Outcome<R>) + Send>;

enum Cell<R> {
    /// Someone polls; `None` if a later cell of the same caller has the waker.
    Waiting(Option<Waker>, Timer),
    /// A peer's call.
    Remote(Responder<R>, Timer),
    Done(R),
    Other(Box<Outcome<R>>),
    Taken,
}

/// The cells of a list.
struct Cells<R> {
    list: Vec<Cell<R>>,
    /// Of the entry of the first one, once there is a response.
    first: LogId,
}

impl<R> Cells<R> {
    /// Takes a result.
    fn take(&mut self, at: usize) -> Outcome<R> {
        let log_id = entry_at(self.first, at);
        match self.list.get_mut(at).map(|cell| std::mem::replace(cell, Cell::Taken)) {
            Some(Cell::Done(response)) => Ok((log_id, response)),
            Some(Cell::Other(outcome)) => *outcome,
            None | Some(Cell::Waiting(..) | Cell::Remote(..) | Cell::Taken) => Err(Failure::Unknown),
        }
    }
}

/// The log id of the entry of a cell.
fn entry_at(first: LogId, cell: usize) -> LogId {
    LogId::new(first.leader_id, first.index + cell as u64)
}

impl<R> Cell<R> {
    /// Whether the result is here, or remembers the waker; the one before goes to `old`, which outlives the lock: an
    /// executor may let go of a caller with it.
    fn wait(&mut self, context: &mut Context<'_>, old: &mut Option<Waker>) -> Poll<()> {
        let Cell::Waiting(waker, _) = self else { return Poll::Ready(()) };
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *old = waker.replace(context.waker().clone());
        }
        Poll::Pending
    }
}

/// The list of one proposal.
pub(crate) struct WaitList<R> {
    cells: Mutex<Cells<R>>,
    /// Bytes of the batch, once the driver took it; 0 before.
    taken: AtomicUsize,
    /// When the first caller joined.
    pub(crate) since: Instant,
}

/// A list that is kept for its room has room for at most this many, or it is let go: enough for a batch of 256 calls,
/// beyond which an allocation a batch costs each of them next to nothing.
pub(crate) const KEPT_ROOM: usize = 256;

/// What has to be done once no lock is held any more. Most turns and applies leave nothing to do, and hand over no more
/// than a pointer to that effect.
#[derive(Default)]
pub(crate) struct Fired(Option<Box<ToDo>>);

#[derive(Default)]
struct ToDo {
    wakers: Vec<Waker>,
    calls: Vec<Box<dyn FnOnce() + Send>>,
    /// Lists that are answered whole. What is left in them when the last of their callers has gone is the user's.
    lists: Vec<Arc<dyn Waits>>,
    /// Given back once everybody is told: a node that drains must not stop before its answers are on their way.
    permits: Vec<Permit>,
}

impl Fired {
    /// To be woken, all of them.
    pub(crate) fn wake_all(&mut self, wakers: &mut Vec<Waker>) {
        if !wakers.is_empty() {
            self.due().wakers.append(wakers);
        }
    }

    /// To be called.
    pub(crate) fn call(&mut self, call: impl FnOnce() + Send + 'static) {
        self.due().calls.push(Box::new(call));
    }

    /// To be let go: all of the list is answered.
    pub(crate) fn let_go(&mut self, list: Arc<dyn Waits>, permit: Permit) {
        let to_do = self.due();
        to_do.lists.push(list);
        to_do.permits.push(permit);
    }

    fn due(&mut self) -> &mut ToDo {
        self.0.get_or_insert_default()
    }

    /// Wakes and calls everyone; keeps the allocations. A panic of one does not keep the others from being told.
    pub(crate) fn fire(&mut self) {
        if let Some(to_do) = &mut self.0 {
            to_do.fire();
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|to_do| to_do.is_empty())
    }

    /// Whether there is room that is worth keeping.
    pub(crate) fn has_room(&self) -> bool {
        self.0.is_some()
    }

    /// Lets go of much room; called when it is empty.
    pub(crate) fn shrink(&mut self) {
        if self.0.as_ref().is_some_and(|to_do| to_do.room() > KEPT_ROOM) {
            self.0 = None;
        }
    }
}

impl ToDo {
    fn fire(&mut self) {
        // First: whoever is woken finds its list to be used again.
        self.lists.drain(..).for_each(|list| guard(|| drop(list)));
        self.wakers.drain(..).for_each(|waker| guard(|| waker.wake()));
        self.calls.drain(..).for_each(guard);
        self.permits.clear();
    }

    fn is_empty(&self) -> bool {
        self.wakers.is_empty() && self.calls.is_empty() && self.lists.is_empty() && self.permits.is_empty()
    }

    fn room(&self) -> usize {
        let lists = self.lists.capacity();
        self.wakers.capacity().max(self.calls.capacity()).max(self.permits.capacity()).max(lists)
    }
}

/// Runs what is not this library's own, such as an executor's waker.
fn guard(run: impl FnOnce()) {
    if let Err(panic) = blame::catch(run) {
        let panic = panic.text();
        tracing::error!(name: "caller_panicked", target: crate::events::NODE, panic, "a waker or responder panicked");
    }
}

/// What the driver, which knows no types, does with a list.
pub(crate) trait Waits: Send + Sync {
    fn as_any(&self) -> &dyn Any;

    /// Fails what is not yet answered from cell `from` on.
    fn fail(&self, from: usize, failure: &Failure, fired: &mut Fired);

    /// Answers "unknown" from cell `from` on to those who count on the node for that.
    fn expire(&self, from: usize, fired: &mut Fired);

    /// When the first caller joined.
    fn since(&self) -> Instant;
}

impl<R: Send + 'static> WaitList<R> {
    /// An empty list that will have about `count` cells.
    pub(crate) fn new(count: usize, since: Instant) -> Self {
        let cells = Mutex::new(Cells { list: Vec::with_capacity(count), first: LogId::ZERO });
        Self { cells, taken: AtomicUsize::new(0), since }
    }

    /// Lets go of what is in it, unless somebody else still holds the list; returns whether it may be used again.
    pub(crate) fn empty(list: &mut Arc<Self>) -> bool {
        // Most callers are not the last one: seen without an exclusive look at the counts.
        if Arc::strong_count(list) > 1 {
            return false;
        }
        Arc::get_mut(list).is_some_and(|list| {
            let cells = &mut list.cells.get_mut().list;
            cells.clear();
            cells.capacity() <= KEPT_ROOM
        })
    }

    /// An emptied list again, as a new one; `None` if somebody else still holds it.
    pub(crate) fn reopen(mut list: Arc<Self>, since: Instant) -> Option<Arc<Self>> {
        let open = Arc::get_mut(&mut list)?;
        *open.taken.get_mut() = 0;
        open.since = since;
        Some(list)
    }

    /// Adds a caller that polls; returns its cell. The first one is not woken before it has [polled](Self::poll).
    pub(crate) fn join(&self, waker: &Waker, timer: Timer) -> usize {
        let cells = &mut self.cells.lock().list;
        let cell = cells.len();
        cells.push(Cell::Waiting((cell > 0).then(|| waker.clone()), timer));
        cell
    }

    /// Adds `count` cells of one caller, which polls for the last of them; returns the first.
    pub(crate) fn join_many(&self, count: usize, timer: Timer) -> usize {
        let cells = &mut self.cells.lock().list;
        let first = cells.len();
        cells.resize_with(first + count, || Cell::Waiting(None, timer));
        first
    }

    /// Adds a peer's call; returns its cell.
    pub(crate) fn join_remote(&self, responder: Responder<R>, timer: Timer) -> usize {
        let cells = &mut self.cells.lock().list;
        cells.push(Cell::Remote(responder, timer));
        cells.len() - 1
    }

    /// Callers that joined.
    pub(crate) fn count(&self) -> usize {
        self.cells.lock().list.len()
    }

    /// The driver took the batch, which has so many bytes.
    pub(crate) fn set_taken(&self, bytes: usize) {
        self.taken.store(bytes, Ordering::Release);
    }

    /// Bytes of the batch, once the driver took it; 0 before.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Answers consecutive cells from `from` on; `first` is the log id of the entry of the first cell of all.
    pub(crate) fn complete(
        &self,
        first: LogId,
        from: usize,
        results: impl Iterator<Item = Applied<R>>,
        fired: &mut Fired,
    ) {
        let to_do = fired.due();
        let mut cells = self.cells.lock();
        cells.first = first;
        for ((place, cell), result) in cells.list.iter_mut().enumerate().skip(from).zip(results) {
            set(cell, result, || entry_at(first, place), to_do);
        }
    }

    /// The result of a cell, or remembers the waker.
    pub(crate) fn poll(&self, cell: usize, context: &mut Context<'_>) -> Poll<Outcome<R>> {
        let mut old = None;
        let mut cells = self.cells.lock();
        let Some(waits) = cells.list.get_mut(cell) else { return Poll::Ready(Err(Failure::Unknown)) };
        waits.wait(context, &mut old).map(|()| cells.take(cell))
    }

    /// Whether a cell has its result, or remembers the waker.
    pub(crate) fn poll_done(&self, cell: usize, context: &mut Context<'_>) -> Poll<()> {
        let mut old = None;
        self.cells.lock().list.get_mut(cell).map_or(Poll::Ready(()), |cell| cell.wait(context, &mut old))
    }

    /// Takes the results of `count` cells from `from` on.
    pub(crate) fn take_each(&self, from: usize, count: usize, mut take: impl FnMut(Outcome<R>)) {
        let mut cells = self.cells.lock();
        (from..from + count).for_each(|cell| take(cells.take(cell)));
    }
}

fn set<R: Send + 'static>(cell: &mut Cell<R>, result: Applied<R>, log_id: impl FnOnce() -> LogId, to_do: &mut ToDo) {
    match cell {
        Cell::Waiting(waker, _) => {
            to_do.wakers.extend(waker.take());
            *cell = match result {
                Ok(response) => Cell::Done(response),
                Err(outcome) => Cell::Other(outcome),
            };
        }
        Cell::Remote(..) => {
            if let Cell::Remote(responder, _) = std::mem::replace(cell, Cell::Taken) {
                let outcome = result.map_or_else(|outcome| *outcome, |response| Ok((log_id(), response)));
                to_do.calls.push(Box::new(move || responder(outcome)));
            }
        }
        // Nobody takes this result any more. A response is the user's: it is dropped once no lock is held (law 20).
        Cell::Done(_) | Cell::Other(_) | Cell::Taken => to_do.calls.push(Box::new(move || drop(result))),
    }
}

/// As [`set`], without a response.
fn set_failed<R: Send + 'static>(cell: &mut Cell<R>, failure: Failure, to_do: &mut ToDo) {
    set(cell, Err(Box::new(Err(failure))), LogId::default, to_do);
}

impl<R: Send + 'static> Waits for WaitList<R> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn fail(&self, from: usize, failure: &Failure, fired: &mut Fired) {
        for cell in self.cells.lock().list.iter_mut().skip(from) {
            if matches!(cell, Cell::Waiting(..) | Cell::Remote(..)) {
                set_failed(cell, failure.clone(), fired.due());
            }
        }
    }

    fn expire(&self, from: usize, fired: &mut Fired) {
        for cell in self.cells.lock().list.iter_mut().skip(from) {
            if matches!(cell, Cell::Waiting(_, Timer::Node) | Cell::Remote(_, Timer::Node)) {
                set_failed(cell, Failure::Unknown, fired.due());
            }
        }
    }

    fn since(&self) -> Instant {
        self.since
    }
}
