//! Objects that histories are often about. Each names its key, state, input and output, as a model of one's own would.

use std::collections::BTreeMap;

use super::Model;

/// A register: read, write, compare and swap. It holds 0 at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// What is asked of a [`Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterInput {
    /// Look at it.
    Read,
    /// Overwrite it.
    Write(u64),
    /// Overwrite it if it holds this.
    CompareAndSwap {
        /// What it must hold.
        expect: u64,
        /// With what.
        value: u64,
    },
}

/// What a [`Register`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOutput {
    /// It holds this.
    Value(u64),
    /// It was overwritten.
    Written,
    /// Whether it was overwritten.
    Swapped(bool),
}

impl Model for Register {
    type Key = ();
    type State = u64;
    type Input = RegisterInput;
    type Output = RegisterOutput;

    fn key(&self, _input: &RegisterInput) {}

    fn start(&self, _key: &()) -> u64 {
        0
    }

    fn step(&self, state: &u64, input: &RegisterInput, output: Option<&RegisterOutput>) -> Option<u64> {
        let (next, answer) = match *input {
            RegisterInput::Read => (*state, RegisterOutput::Value(*state)),
            RegisterInput::Write(value) => (value, RegisterOutput::Written),
            RegisterInput::CompareAndSwap { expect, value } if expect == *state => {
                (value, RegisterOutput::Swapped(true))
            }
            RegisterInput::CompareAndSwap { .. } => (*state, RegisterOutput::Swapped(false)),
        };
        output.is_none_or(|output| *output == answer).then_some(next)
    }
}

/// A map of texts: get, put, append. Every key is an object of its own, and is empty at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyValue;

/// What is asked of a [`KeyValue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValueInput {
    /// The key.
    pub key: String,
    /// What is done with its value. The answer is the value afterwards.
    pub deed: KeyValueDeed,
}

/// What is done with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValueDeed {
    /// Look at it.
    Get,
    /// Overwrite it.
    Put(String),
    /// Add to its end.
    Append(String),
}

impl Model for KeyValue {
    type Key = String;
    type State = String;
    type Input = KeyValueInput;
    /// A get's value; writes answer `None`: that they are done.
    type Output = Option<String>;

    fn key(&self, input: &KeyValueInput) -> String {
        input.key.clone()
    }

    fn start(&self, _key: &String) -> String {
        String::new()
    }

    fn step(&self, state: &String, input: &KeyValueInput, output: Option<&Option<String>>) -> Option<String> {
        match &input.deed {
            KeyValueDeed::Get => output.is_none_or(|output| output.as_ref() == Some(state)).then(|| state.clone()),
            KeyValueDeed::Put(value) => Some(value.clone()),
            KeyValueDeed::Append(value) => Some(format!("{state}{value}")),
        }
    }
}

/// A list: append, and look at all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct AppendList;

/// What is asked of an [`AppendList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendListInput {
    /// Look at it.
    Read,
    /// Add to its end.
    Append(u64),
}

/// What an [`AppendList`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendListOutput {
    /// It holds this.
    Values(Vec<u64>),
    /// It is now this long.
    Length(usize),
}

impl Model for AppendList {
    type Key = ();
    type State = Vec<u64>;
    type Input = AppendListInput;
    type Output = AppendListOutput;

    fn key(&self, _input: &AppendListInput) {}

    fn start(&self, _key: &()) -> Vec<u64> {
        Vec::new()
    }

    fn step(&self, state: &Vec<u64>, input: &AppendListInput, output: Option<&AppendListOutput>) -> Option<Vec<u64>> {
        let fits = match (input, output) {
            (_, None) => true,
            (AppendListInput::Read, Some(AppendListOutput::Values(values))) => values == state,
            (AppendListInput::Append(_), Some(AppendListOutput::Length(length))) => *length == state.len() + 1,
            _ => false,
        };
        fits.then(|| match input {
            AppendListInput::Read => state.clone(),
            AppendListInput::Append(value) => state.iter().copied().chain([*value]).collect(),
        })
    }
}

/// A counter that counts every command of a session once, however often it arrives, and answers a repeated one as
/// before. Each answer is the count after the command took effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnceCounter;

/// A command for an [`OnceCounter`], or a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnceCounterInput {
    /// Look at it.
    Read,
    /// Count so many, once for this serial of this session.
    Add {
        /// The session.
        session: u64,
        /// The command's number in it.
        serial: u64,
        /// How many.
        amount: u64,
    },
}

/// What an [`OnceCounter`] holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OnceCounterState {
    /// The count.
    pub count: u64,
    /// What was answered, by session and serial.
    pub answers: BTreeMap<(u64, u64), u64>,
}

impl Model for OnceCounter {
    type Key = ();
    type State = OnceCounterState;
    type Input = OnceCounterInput;
    type Output = u64;

    fn key(&self, _input: &OnceCounterInput) {}

    fn start(&self, _key: &()) -> OnceCounterState {
        OnceCounterState::default()
    }

    fn step(
        &self,
        state: &OnceCounterState,
        input: &OnceCounterInput,
        output: Option<&u64>,
    ) -> Option<OnceCounterState> {
        let mut next = state.clone();
        let answer = match *input {
            OnceCounterInput::Read => state.count,
            OnceCounterInput::Add { session, serial, amount } => match state.answers.get(&(session, serial)) {
                Some(answer) => *answer,
                None => {
                    next.count += amount;
                    next.answers.insert((session, serial), next.count);
                    next.count
                }
            },
        };
        output.is_none_or(|output| *output == answer).then_some(next)
    }
}
