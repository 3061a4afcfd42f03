//! The search for a linearization of Wing and Gong, with Lowe's memory of what was tried ("Testing for
//! linearizability", 2017). Operations of different keys are searched apart, since linearizability is local (Herlihy
//! and Wing, 1990, theorem 1).

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

use crate::history::Nanos;

/// An object of which clients ask: what it does, and what it answers.
pub trait Model {
    /// Names independent objects. One object: `()`.
    type Key: Ord + Clone + Debug;
    /// What an object holds. Keep it small: it is cloned at every step of the search.
    type State: Clone + Eq + Hash;
    /// What is asked.
    type Input;
    /// What is answered.
    type Output;

    /// The object that an operation is about.
    fn key(&self, input: &Self::Input) -> Self::Key;

    /// What an object holds at first.
    fn start(&self, key: &Self::Key) -> Self::State;

    /// What an object holds after an operation; `None` if it would have given another answer. Without an answer nobody
    /// knows it, so any would do.
    fn step(&self, state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;

    /// Whether the object gives this answer in no state that it can get to from this one, as a list that only grows is
    /// never short again. The search does not go on from a state that has left an answer behind.
    fn is_past(&self, state: &Self::State, input: &Self::Input, output: &Self::Output) -> bool {
        let _ = (state, input, output);
        false
    }
}

/// An operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed<I, O> {
    /// What was asked.
    pub input: I,
    /// What was answered. `None`: nobody knows; the operation may take effect at any time after it was asked, or never,
    /// whenever its client gave up. Leave out those that certainly took none.
    pub output: Option<O>,
    /// When it was asked.
    pub invoked_at: Nanos,
    /// When it was answered; `None`: at the end. An operation comes before another if it was answered *before* the other
    /// was asked; in the same nanosecond either may be first.
    pub returned_at: Option<Nanos>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<K> {
    /// What was found.
    pub verdict: Verdict<K>,
    /// Steps of the model that it took.
    pub steps: u64,
}

/// Whether a history is linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<K> {
    /// It is.
    Linearizable,
    /// It is not.
    Violation {
        /// The object.
        key: K,
        /// The longest order that explains answers, by place in the history.
        longest: Vec<usize>,
        /// After that order, an operation whose answer does not fit any more.
        stuck: usize,
    },
    /// The search was given up.
    Unknown {
        /// The object.
        key: K,
    },
}

/// Searches an order of all operations, in which each takes effect between its call and its return and every answer is
/// what the model gives. Gives up after `max_steps` steps of the model, over all keys together.
pub fn linearizable<M: Model>(model: &M, history: &[Timed<M::Input, M::Output>], max_steps: u64) -> Checked<M::Key> {
    let mut keys: BTreeMap<M::Key, Vec<usize>> = BTreeMap::new();
    for (place, operation) in history.iter().enumerate() {
        keys.entry(model.key(&operation.input)).or_default().push(place);
    }
    let mut steps = 0;
    for (key, places) in keys {
        let mut search = Search::new(model, history, &places, max_steps - steps);
        let found = search.run(model.start(&key));
        steps += search.steps;
        let verdict = match found {
            Found::Order => continue,
            Found::None { longest, stuck } => {
                let longest = longest.into_iter().map(|number| places[number]).collect();
                Verdict::Violation { key, longest, stuck: places[stuck] }
            }
            Found::GaveUp => Verdict::Unknown { key },
        };
        return Checked { verdict, steps };
    }
    Checked { verdict: Verdict::Linearizable, steps }
}

/// Operations of one key, by number.
struct Search<'a, M: Model> {
    model: &'a M,
    operations: Vec<&'a Timed<M::Input, M::Output>>,
    /// Calls and returns of operations with a known answer, in order of time: an operation that is taken out is
    /// placed in the order.
    events: Vec<Event>,
    /// Where an operation's call and return are in `events`.
    ends: Vec<(usize, usize)>,
    /// The links of `events`; the last place is the list's head.
    known: Links,
    /// Operations with an unknown answer, in order of their calls.
    unknown: Vec<usize>,
    /// The links of `unknown`.
    open: Links,
    max_steps: u64,
    steps: u64,
}

#[derive(Clone, Copy)]
struct Event {
    at: Nanos,
    operation: usize,
    returns: bool,
}

/// A step that was taken: which operation, where it was found, and the state before.
struct Taken<S> {
    operation: usize,
    found: Cursor,
    before: S,
}

/// Where the search looks for the next operation.
#[derive(Clone, Copy)]
enum Cursor {
    Known(usize),
    /// A place in `unknown`; its operation must be asked before the first return at this time.
    Open(usize, Nanos),
}

enum Found {
    Order,
    None { longest: Vec<usize>, stuck: usize },
    GaveUp,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Timed<M::Input, M::Output>], places: &[usize], max_steps: u64) -> Self {
        let operations: Vec<_> = places.iter().map(|place| &history[*place]).collect();
        let (mut events, mut unknown) = (Vec::new(), Vec::new());
        for (number, operation) in operations.iter().enumerate() {
            if operation.output.is_none() {
                unknown.push(number);
                continue;
            }
            let returned_at = operation.returned_at.unwrap_or(Nanos::MAX);
            events.push(Event { at: operation.invoked_at, operation: number, returns: false });
            events.push(Event { at: returned_at, operation: number, returns: true });
        }
        // Calls first: what returns when another is called is concurrent with it.
        events.sort_by_key(|event| (event.at, event.returns));
        unknown.sort_by_key(|number| operations[*number].invoked_at);
        let mut ends = vec![(0, 0); operations.len()];
        for (place, event) in events.iter().enumerate() {
            let (call, ret) = &mut ends[event.operation];
            *if event.returns { ret } else { call } = place;
        }
        for (place, number) in unknown.iter().enumerate() {
            ends[*number] = (place, place);
        }
        let (known, open) = (Links::new(events.len()), Links::new(unknown.len()));
        Self { model, operations, events, ends, known, unknown, open, max_steps, steps: 0 }
    }

    /// Depth first. Operations with known answers are tried first, so that those nobody knows of are placed only where
    /// an answer needs them.
    fn run(&mut self, start: M::State) -> Found {
        let mut state = start;
        let mut order: Vec<Taken<M::State>> = Vec::new();
        let mut placed = vec![0_u64; self.operations.len().div_ceil(64)];
        let mut tried: HashSet<(Box<[u64]>, M::State)> = HashSet::new();
        let mut deepest: Option<(Vec<usize>, usize)> = None;
        let mut cursor = Cursor::Known(self.known.first());
        while self.known.first() != self.known.head() {
            let candidate = match cursor {
                Cursor::Known(place) if self.events[place].returns => {
                    let event = self.events[place];
                    if deepest.as_ref().is_none_or(|(longest, _)| longest.len() < order.len()) {
                        deepest = Some((order.iter().map(|taken| taken.operation).collect(), event.operation));
                    }
                    cursor = Cursor::Open(self.open.first(), event.at);
                    continue;
                }
                Cursor::Known(place) => Some(self.events[place].operation),
                Cursor::Open(place, limit) => {
                    let number = self.unknown.get(place).copied();
                    number.filter(|number| self.operations[*number].invoked_at <= limit)
                }
            };
            let Some(operation) = candidate else {
                let Some(taken) = order.pop() else {
                    let (longest, stuck) = deepest.unwrap_or_default();
                    return Found::None { longest, stuck };
                };
                placed[taken.operation / 64] ^= 1 << (taken.operation % 64);
                self.put_back(taken.operation, taken.found);
                state = taken.before;
                cursor = self.after(taken.found);
                continue;
            };
            self.steps += 1;
            if self.steps > self.max_steps {
                return Found::GaveUp;
            }
            let asked = self.operations[operation];
            let next = self.model.step(&state, &asked.input, asked.output.as_ref());
            let left_behind = next.as_ref().and_then(|next| self.leaves_behind(operation, next));
            if let Some(left) = left_behind
                && deepest.as_ref().is_none_or(|(longest, _)| longest.len() <= order.len())
            {
                let longest = order.iter().map(|taken| taken.operation).chain([operation]).collect();
                deepest = Some((longest, left));
            }
            placed[operation / 64] ^= 1 << (operation % 64);
            match next {
                Some(next)
                    if !self.is_in_vain(&state, order.last(), operation, &next)
                        && left_behind.is_none()
                        && tried.insert((placed.clone().into(), next.clone())) =>
                {
                    let before = std::mem::replace(&mut state, next);
                    order.push(Taken { operation, found: cursor, before });
                    self.take(operation, cursor);
                    cursor = Cursor::Known(self.known.first());
                }
                _ => {
                    placed[operation / 64] ^= 1 << (operation % 64);
                    cursor = self.after(cursor);
                }
            }
        }
        Found::Order
    }

    /// Whether an order with this operation next is as good without an operation of unknown answer: this one changes nothing,
    /// or the one before it made no difference to it. What is left out may take effect later, so such an order explains
    /// nothing that the shorter one, which is tried as well, does not. Else all subsets of them would be tried.
    fn is_in_vain(&self, state: &M::State, last: Option<&Taken<M::State>>, operation: usize, next: &M::State) -> bool {
        let asked = self.operations[operation];
        let changes_nothing = asked.output.is_none() && next == state;
        let last = last.filter(|last| self.operations[last.operation].output.is_none());
        changes_nothing
            || last.is_some_and(|last| {
                self.model.step(&last.before, &asked.input, asked.output.as_ref()).as_ref() == Some(next)
            })
    }

    /// An operation whose answer is still to be given, and cannot be given any more once this operation made this state.
    fn leaves_behind(&self, operation: usize, next: &M::State) -> Option<usize> {
        let places = std::iter::successors(Some(self.known.first()), |place| Some(self.known.next[*place]));
        let events = places.take_while(|place| *place != self.known.head()).map(|place| self.events[place]);
        let others = events.filter(|event| !event.returns && event.operation != operation);
        others.map(|event| event.operation).find(|other| {
            let asked = self.operations[*other];
            asked.output.as_ref().is_some_and(|output| self.model.is_past(next, &asked.input, output))
        })
    }

    fn after(&self, cursor: Cursor) -> Cursor {
        match cursor {
            Cursor::Known(place) => Cursor::Known(self.known.next[place]),
            Cursor::Open(place, limit) => Cursor::Open(self.open.next[place], limit),
        }
    }

    fn take(&mut self, operation: usize, found: Cursor) {
        let (call, ret) = self.ends[operation];
        match found {
            Cursor::Known(_) => {
                self.known.take(call);
                self.known.take(ret);
            }
            Cursor::Open(..) => self.open.take(call),
        }
    }

    fn put_back(&mut self, operation: usize, found: Cursor) {
        let (call, ret) = self.ends[operation];
        match found {
            Cursor::Known(_) => {
                self.known.put_back(ret);
                self.known.put_back(call);
            }
            Cursor::Open(..) => self.open.put_back(call),
        }
    }
}

/// A ring of places 0 to n - 1 and a head, from which places are taken, and put back in the opposite order.
struct Links {
    next: Vec<usize>,
    prev: Vec<usize>,
}

impl Links {
    fn new(len: usize) -> Self {
        let next = (0..=len).map(|place| (place + 1) % (len + 1)).collect();
        let prev = (0..=len).map(|place| (place + len) % (len + 1)).collect();
        Self { next, prev }
    }

    fn head(&self) -> usize {
        self.next.len() - 1
    }

    fn first(&self) -> usize {
        self.next[self.head()]
    }

    fn take(&mut self, place: usize) {
        let (prev, next) = (self.prev[place], self.next[place]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    fn put_back(&mut self, place: usize) {
        let (prev, next) = (self.prev[place], self.next[place]);
        self.next[prev] = place;
        self.prev[next] = place;
    }
}
