//! The states of the whole cluster. Nodes, messages and histories are kept once each and named by numbers, so that a
//! state of the cluster is a few words; a step of a node is taken once and remembered, however many states of the
//! cluster it is part of.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use quorate_core::Message;

use crate::cluster::History;
use crate::local::{Broken, Cause, Driver, Local, Moment, Packet};
use crate::scope::{Links, Scope};

/// Things that are kept once each.
struct Kept<T> {
    all: Vec<Rc<T>>,
    numbers: HashMap<Rc<T>, u32>,
}

impl<T: Eq + Hash> Kept<T> {
    fn new() -> Self {
        Self { all: Vec::new(), numbers: HashMap::new() }
    }

    fn number(&mut self, thing: T) -> u32 {
        if let Some(number) = self.numbers.get(&thing) {
            return *number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let thing = Rc::new(thing);
        self.all.push(Rc::clone(&thing));
        self.numbers.insert(thing, number);
        number
    }

    fn at(&self, number: u32) -> &Rc<T> {
        &self.all[number as usize]
    }
}

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    campaigns: u8,
    proposals: u8,
    crashes: u8,
    damages: u8,
    duplicates: u8,
    lost_sends: u8,
    beats: u8,
    changes: u8,
}

/// Most nodes of a cluster that is searched.
const NODES: usize = 3;

/// A state of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct World {
    nodes: [u32; NODES],
    history: u32,
    used: Used,
    /// Messages under way, sorted by link; on a link that keeps their order, in that order, else by number.
    messages: Box<[u32]>,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Persisted(usize),
    Timeout(usize, Moment),
    Propose(usize),
    Change(usize),
    Crash(usize),
    Damage(usize),
    Deliver(u32, Moment),
    DeliverOneOfTwo(u32),
    ReportLost(u32),
}

type Step = Rc<Result<(u32, Vec<u32>), Broken>>;

/// Takes steps, and remembers them.
pub(crate) struct Stepper<'a> {
    scope: &'a Scope,
    driver: Driver<'a>,
    locals: Kept<Local>,
    packets: Kept<Packet>,
    histories: Kept<History>,
    steps: HashMap<(u32, Code), Step>,
}

/// A cause, in which a message is a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Code {
    Persisted,
    Timeout(Moment),
    Propose,
    Change,
    Crash,
    Damage,
    Message(u32, Moment),
    Lost(u32),
}

impl<'a> Stepper<'a> {
    pub(crate) fn new(driver: Driver<'a>) -> Self {
        Self {
            scope: driver.scope,
            driver,
            locals: Kept::new(),
            packets: Kept::new(),
            histories: Kept::new(),
            steps: HashMap::new(),
        }
    }

    /// Every node with the first membership, and nothing under way.
    pub(crate) fn beginning(&mut self) -> World {
        let mut nodes = [0; NODES];
        for (place, id) in nodes.iter_mut().zip(self.scope.nodes()) {
            *place = self.locals.number(self.driver.first(id));
        }
        let history = self.histories.number(History::default());
        World { nodes, history, used: Used::default(), messages: Box::new([]) }
    }

    /// How many states of one node, and steps of one node, there are so far.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.locals.all.len(), self.steps.len())
    }

    fn local_step(&mut self, local: u32, code: Code) -> Step {
        if let Some(step) = self.steps.get(&(local, code)) {
            return Rc::clone(step);
        }
        let packet = |number: u32| self.packets.at(number).as_ref().clone();
        let cause = match code {
            Code::Persisted => Cause::Persisted,
            Code::Timeout(moment) => Cause::Timeout(moment),
            Code::Propose => Cause::Propose,
            Code::Change => Cause::Change,
            Code::Crash => Cause::CrashAndRestart,
            Code::Damage => Cause::Damage,
            Code::Message(number, moment) => Cause::Message(packet(number), moment),
            Code::Lost(number) => Cause::Lost(packet(number)),
        };
        let before = Rc::clone(self.locals.at(local));
        let step = self.driver.happen(&before, &cause).map(|(after, sent)| {
            let sent = sent.into_iter().map(|packet| self.packets.number(packet)).collect();
            (self.locals.number(after), sent)
        });
        let step = Rc::new(step);
        self.steps.insert((local, code), Rc::clone(&step));
        step
    }

    /// Everything that may happen next.
    pub(crate) fn choices(&self, world: &World, into: &mut Vec<Choice>) {
        into.clear();
        let (scope, used) = (self.scope, world.used);
        for (place, number) in world.nodes.iter().enumerate() {
            let node = self.locals.at(*number);
            if node.has_pending() {
                into.push(Choice::Persisted(place));
            }
            let leads = node.core.is_leader();
            if !leads && node.core.deadline().is_some() && used.campaigns < scope.campaigns {
                into.push(Choice::Timeout(place, Moment::Late));
            }
            if leads && used.beats < scope.beats {
                into.push(Choice::Timeout(place, Moment::Soon));
                into.push(Choice::Timeout(place, Moment::Later));
                if scope.check_quorum.is_on() {
                    into.push(Choice::Timeout(place, Moment::Late));
                }
            }
            if leads && used.proposals < scope.proposals {
                into.push(Choice::Propose(place));
            }
            if leads && scope.change.is_some() && used.changes == 0 {
                into.push(Choice::Change(place));
            }
            if used.crashes < scope.crashes {
                into.push(Choice::Crash(place));
            }
            if used.damages < scope.damages && node.may_be_damaged() {
                into.push(Choice::Damage(place));
            }
        }
        for (at, message) in world.messages.iter().enumerate() {
            if !world.messages[..at].contains(message) {
                self.choices_of(*message, used, into);
            }
        }
    }

    fn choices_of(&self, message: u32, used: Used, into: &mut Vec<Choice>) {
        let packet = self.packets.at(message);
        into.push(Choice::Deliver(message, Moment::Now));
        if matches!(packet.message, Message::VoteRequest(_)) {
            into.push(Choice::Deliver(message, Moment::Late));
        }
        if used.duplicates < self.scope.duplicates {
            into.push(Choice::DeliverOneOfTwo(message));
        }
        let has_entries = matches!(&packet.message, Message::Append(append) if !append.entries.runs.is_empty());
        if has_entries && used.lost_sends < self.scope.lost_sends {
            into.push(Choice::ReportLost(message));
        }
    }

    fn link(&self, message: u32) -> (quorate_core::NodeId, quorate_core::NodeId) {
        let packet = self.packets.at(message);
        (packet.from, packet.to)
    }

    fn place_of(&self, id: quorate_core::NodeId) -> Option<usize> {
        self.scope.nodes().iter().position(|node| *node == id)
    }

    /// Takes a choice; `None`: it leads out of bounds, or changes nothing.
    pub(crate) fn take(&mut self, world: &World, choice: Choice) -> Result<Option<World>, Broken> {
        let mut next = world.clone();
        let (place, code) = self.pay_for(world, choice, &mut next.used);
        let step = self.local_step(world.nodes[place], code);
        let (local, sent) = match step.as_ref() {
            Ok(step) => step,
            Err(broken) => return Err(broken.clone()),
        };
        next.nodes[place] = *local;
        next.messages = self.messages_after(world, choice, sent, &next.nodes);
        let out_of_bounds = self.locals.at(*local).core.vote().leader_id.term > self.scope.max_term;
        if out_of_bounds || next.messages.len() > self.scope.messages {
            return Ok(None);
        }
        if *local != world.nodes[place] {
            self.check(&mut next, place)?;
        }
        Ok(Some(next))
    }

    /// Which node meets what, and what of the scope's budget it uses up.
    fn pay_for(&self, world: &World, choice: Choice, used: &mut Used) -> (usize, Code) {
        match choice {
            Choice::Persisted(place) => (place, Code::Persisted),
            Choice::Timeout(place, moment) => {
                match self.locals.at(world.nodes[place]).core.is_leader() {
                    true => used.beats += 1,
                    false => used.campaigns += 1,
                }
                (place, Code::Timeout(moment))
            }
            Choice::Propose(place) => {
                used.proposals += 1;
                (place, Code::Propose)
            }
            Choice::Change(place) => {
                used.changes += 1;
                (place, Code::Change)
            }
            Choice::Crash(place) => {
                used.crashes += 1;
                (place, Code::Crash)
            }
            Choice::Damage(place) => {
                used.damages += 1;
                (place, Code::Damage)
            }
            Choice::Deliver(number, moment) => {
                (self.place_of(self.packets.at(number).to).unwrap_or(0), Code::Message(number, moment))
            }
            Choice::DeliverOneOfTwo(number) => {
                used.duplicates += 1;
                (self.place_of(self.packets.at(number).to).unwrap_or(0), Code::Message(number, Moment::Now))
            }
            Choice::ReportLost(number) => {
                used.lost_sends += 1;
                (self.place_of(self.packets.at(number).from).unwrap_or(0), Code::Lost(number))
            }
        }
    }

    /// What is on its way after a choice, with what was sent at it.
    fn messages_after(&self, world: &World, choice: Choice, sent: &[u32], nodes: &[u32; NODES]) -> Box<[u32]> {
        let mut messages: Vec<u32> = Vec::with_capacity(world.messages.len() + sent.len());
        messages.extend_from_slice(&world.messages);
        if let Choice::Deliver(gone, _) | Choice::ReportLost(gone) = choice
            && let Some(at) = messages.iter().position(|number| *number == gone)
        {
            messages.remove(at);
            let link = self.link(gone);
            let mut place = 0..;
            // What was sent before it on a link that keeps the order is lost.
            messages.retain(|number| {
                let before = place.next().is_some_and(|place: usize| place < at);
                !(self.scope.links == Links::InOrder && before && self.link(*number) == link)
            });
        }
        messages.extend(sent.iter().copied().filter(|number| self.place_of(self.packets.at(*number).to).is_some()));
        self.leave_out_the_dead(nodes, &mut messages);
        match self.scope.links {
            Links::AnyOrder => messages.sort_unstable(),
            Links::InOrder => messages.sort_by_key(|number| self.link(*number)),
        }
        messages.into_boxed_slice()
    }

    fn check(&mut self, world: &mut World, place: usize) -> Result<(), Broken> {
        let count = self.scope.nodes().len();
        let nodes: Vec<Rc<Local>> = world.nodes[..count].iter().map(|n| Rc::clone(self.locals.at(*n))).collect();
        let all: Vec<&Local> = nodes.iter().map(Rc::as_ref).collect();
        let mut history = self.histories.at(world.history).as_ref().clone();
        history.after_step(all[place], &all, self.scope.mode)?;
        world.history = self.histories.number(history);
        Ok(())
    }

    /// Leaves out replies that will never be heard: to a campaign or a leadership that is over. Every step is
    /// checked to ignore them (`StaleChangesNothing`), and neither ever comes back.
    fn leave_out_the_dead(&self, nodes: &[u32; NODES], messages: &mut Vec<u32>) {
        messages.retain(|number| {
            let packet = self.packets.at(*number);
            let Some(place) = self.place_of(packet.to) else { return false };
            let core = &self.locals.at(nodes[place]).core;
            match &packet.message {
                Message::AppendReply(reply) => core.is_leader() && core.vote() == reply.vote,
                Message::VoteReply(reply) => !core.is_leader() && core.vote().leader_id <= reply.requested.leader_id,
                _ => true,
            }
        });
    }

    /// 128 bits of a state.
    pub(crate) fn fingerprint(&self, world: &World) -> u128 {
        let used = world.used;
        let counters = [
            used.campaigns,
            used.proposals,
            used.crashes,
            used.duplicates,
            used.lost_sends,
            used.beats,
            used.changes,
            used.damages,
        ];
        let mut mixer = Mixer::default();
        world.nodes.iter().for_each(|number| mixer.add(u64::from(*number)));
        mixer.add(u64::from(world.history));
        mixer.add(u64::from_le_bytes(counters));
        world.messages.iter().for_each(|number| mixer.add(u64::from(*number)));
        mixer.finish()
    }

    /// What a choice is, in words.
    pub(crate) fn tell(&self, choice: Choice) -> String {
        let name = |place: usize| self.scope.nodes().iter().nth(place).map_or(0, |id| id.0);
        let packet = |number: u32| {
            let packet = self.packets.at(number);
            format!("{}->{} {:?}", packet.from, packet.to, packet.message)
        };
        match choice {
            Choice::Persisted(place) => format!("node {}'s oldest write is durable", name(place)),
            Choice::Timeout(place, moment) => format!("node {} times out ({moment:?})", name(place)),
            Choice::Propose(place) => format!("node {} is given a command", name(place)),
            Choice::Change(place) => format!("node {} is asked for another membership", name(place)),
            Choice::Crash(place) => format!("node {} crashes and restarts", name(place)),
            Choice::Damage(place) => format!("node {} crashes and restarts without its last entry", name(place)),
            Choice::Deliver(number, moment) => format!("arrives ({moment:?}): {}", packet(number)),
            Choice::DeliverOneOfTwo(number) => format!("arrives, and will again: {}", packet(number)),
            Choice::ReportLost(number) => format!("is reported lost: {}", packet(number)),
        }
    }

    /// Lets everything happen that would by itself, but for time-outs: what a scope begins with.
    pub(crate) fn settle(&mut self, mut world: World) -> Result<World, Broken> {
        let mut choices = Vec::new();
        loop {
            self.choices(&world, &mut choices);
            let quiet = |choice: &&Choice| matches!(choice, Choice::Persisted(_) | Choice::Deliver(_, Moment::Now));
            let Some(choice) = choices.iter().find(quiet).copied() else { break };
            match self.take(&world, choice)? {
                Some(next) => world = next,
                None => return Err(format!("the beginning is out of bounds at: {}", self.tell(choice))),
            }
        }
        world.used = Used::default();
        Ok(world)
    }
}

/// Two lanes of multiply and shift over words (the finalizer of SplitMix64, with a multiplier a lane).
#[derive(Default)]
struct Mixer(u64, u64);

impl Mixer {
    fn add(&mut self, word: u64) {
        let mix = |lane: u64, by: u64| {
            let mut z = (lane ^ word).wrapping_add(by);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)).wrapping_mul(by | 1)
        };
        self.0 = mix(self.0, 0x9e37_79b9_7f4a_7c15);
        self.1 = mix(self.1.rotate_left(29), 0xd1b5_4a32_d192_ed03);
    }

    fn finish(&self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}
