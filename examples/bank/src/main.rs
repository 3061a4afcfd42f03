//! A bank that is tested before it is run: a thousand transfers in simulated clusters with faults of every kind, and no
//! cent may appear or vanish. `cargo run --release -p bank`
//!
//! The simulator runs the library's production code on a virtual clock, network and disk, all from one seed. A run that
//! fails prints its seed, and the seed is the bug report. `cargo run --release -p bank -- 100` tries a hundred seeds.
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use quorate::{Payload, RaftStateMachine, ReadPolicy};
use quorate_sim::{FaultSet, Op, Report, Returned, Rng, Simulation, read};
use serde::{Deserialize, Serialize};

const ACCOUNTS: u64 = 4;
const OPENING_BALANCE: u64 = 100;

#[derive(Serialize, Deserialize)]
struct Transfer {
    from: u64,
    to: u64,
    amount: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Done,
    NotEnough,
}

/// Balances by account. Ordered, because all nodes must write the same snapshot.
#[derive(Serialize, Deserialize)]
struct Bank(BTreeMap<u64, u64>);

impl Bank {
    fn open() -> Self {
        Bank((0..ACCOUNTS).map(|account| (account, OPENING_BALANCE)).collect())
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl RaftStateMachine for Bank {
    type Command = Transfer;
    type Response = Answer;

    fn apply(&mut self, Transfer { from, to, amount }: Transfer) -> Answer {
        let Some(left) = self.0.get(&from).and_then(|balance| balance.checked_sub(amount)) else {
            return Answer::NotEnough;
        };
        self.0.insert(from, left);
        *self.0.entry(to).or_default() += amount;
        Answer::Done
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        Self::read_from(input)
    }
}

/// What a client does next: a third looks at the total, the others move money.
fn next(_number: u64, chance: &mut Rng) -> Op<Bank, u64> {
    match chance.below(3) {
        0 => read(ReadPolicy::ReadIndex, Bank::total),
        _ => {
            let (from, to) = (chance.below(ACCOUNTS), chance.below(ACCOUNTS));
            Op::Write(Transfer { from, to, amount: chance.between(1, 50) })
        }
    }
}

/// One cluster, from one seed. Three nodes run in it, and all that can fail does.
fn simulate(seed: u64) -> Report {
    Simulation::new(seed, Bank::open, next)
        .nodes(3)
        .operations(100)
        .faults(FaultSet::ALL)
        .check(|end, told| {
            let wanted = ACCOUNTS * OPENING_BALANCE;
            for told in told {
                if let Returned::Seen(total) = told.returned
                    && total != wanted
                {
                    return Err(format!("operation {} saw {total} cents in all, there are {wanted}", told.id));
                }
            }
            if end.total() != wanted {
                return Err(format!("{} cents are left of {wanted}", end.total()));
            }
            Ok(())
        })
        .run()
}

fn main() -> Result<(), String> {
    let seeds = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(|_| format!("{text} is not a number of seeds"))?,
        None => 10,
    };
    for seed in 1..=seeds {
        if let Some(violation) = simulate(seed).violation {
            return Err(format!("seed {seed}: {violation}"));
        }
    }
    println!("{seeds} clusters, 100 operations each, every kind of fault: no cent is missing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cent_is_missing_in_three_clusters() {
        for seed in 1..=3 {
            assert_eq!(simulate(seed).violation, None, "seed {seed}");
        }
    }
}
