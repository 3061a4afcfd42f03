//! Commands that violate something, and the fewest of them that still do.
//!
//! After the idea of delta debugging (Zeller and Hildebrandt, 2002). What a command asks for in vain is left out: it is
//! the violation that counts, not the way there.

use super::command::Stage;

/// What commands came to that were played one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// The commands that were done, up to the one that violated something.
    pub done: Vec<String>,
    /// Those that could not be done, and why not; they were passed over.
    pub undone: Vec<(String, String)>,
    /// What was violated at the last command, by a core or by the cluster.
    pub violation: Option<String>,
}

/// Plays commands of a script until something is violated.
pub fn rehearse(commands: &[String]) -> Rehearsal {
    let mut stage = Stage::default();
    let mut rehearsal = Rehearsal { done: Vec::new(), undone: Vec::new(), violation: None };
    for command in commands {
        let ran = stage.run(command);
        if let Some(what) = stage.violation() {
            rehearsal.done.push(command.clone());
            rehearsal.violation = Some(what.to_string());
            break;
        }
        match ran {
            Ok(_) => rehearsal.done.push(command.clone()),
            Err(why) => rehearsal.undone.push((command.clone(), why)),
        }
    }
    rehearsal
}

/// Commands that violate something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violated {
    /// The commands.
    pub commands: Vec<String>,
    /// What the last one violates.
    pub what: String,
}

/// What commands violate, if anything, without those that cannot be done.
pub fn violated(commands: &[String]) -> Option<Violated> {
    let Rehearsal { done, violation, .. } = rehearse(commands);
    violation.map(|what| Violated { commands: done, what })
}

/// Leaves out commands, and words of commands, as long as the same is violated. At most so many tries.
pub fn shorten(found: Violated, tries: usize) -> Violated {
    let mut shortener = Shortener { kind: kind(&found.what), best: found, left: tries };
    loop {
        let before = shortener.best.clone();
        shortener.drop_commands();
        shortener.drop_words();
        if shortener.left == 0 || shortener.best == before {
            return shortener.best;
        }
    }
}

struct Shortener {
    /// Of violation.
    kind: String,
    best: Violated,
    /// Tries.
    left: usize,
}

impl Shortener {
    /// Whether these commands violate the same; then they are the best.
    fn attempt(&mut self, commands: &[String]) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let found = violated(commands).filter(|found| kind(&found.what) == self.kind);
        let is_better = found.is_some();
        self.best = found.unwrap_or_else(|| self.best.clone());
        is_better
    }

    /// In ever smaller parts, from the end.
    fn drop_commands(&mut self) {
        let mut part = self.best.commands.len().div_ceil(2);
        loop {
            let mut end = self.best.commands.len();
            while end > 1 {
                // The first one makes the cluster.
                let start = end.saturating_sub(part).max(1);
                let rest = [&self.best.commands[..start], &self.best.commands[end..]].concat();
                self.attempt(&rest);
                end = start.min(self.best.commands.len());
            }
            if part == 1 || self.left == 0 {
                return;
            }
            part = part.div_ceil(2);
        }
    }

    /// Options of the cluster and of starts, counts of messages, and the decimals of times. Which message a command means
    /// stays, so that a person can follow.
    fn drop_words(&mut self) {
        let mut line = 0;
        while line < self.best.commands.len() {
            let mut place = 1;
            while let Some((told, word)) = self.word(line, place) {
                let may_go = match told.split(' ').next() {
                    Some("cluster" | "restart" | "crash") => place > 1,
                    Some("deliver" | "duplicate" | "drop") => place > 2,
                    _ => false,
                };
                let rounded = word.split_once('.').map(|(whole, _)| whole.to_string());
                let rounded = rounded.filter(|whole| whole.parse::<u64>().is_ok());
                let without = self.with_word(line, place, None);
                if may_go && self.attempt(&without) {
                    continue;
                }
                if let Some(rounded) = rounded {
                    let with = self.with_word(line, place, Some(&rounded));
                    self.attempt(&with);
                }
                place += 1;
            }
            line += 1;
        }
    }

    fn word(&self, line: usize, place: usize) -> Option<(String, String)> {
        let told = self.best.commands.get(line)?;
        Some((told.clone(), told.split(' ').nth(place)?.to_string()))
    }

    /// The commands with another word, or none, at this place of this line.
    fn with_word(&self, line: usize, place: usize, word: Option<&str>) -> Vec<String> {
        let mut commands = self.best.commands.clone();
        let told = commands[line].split(' ').enumerate();
        let words = told.filter_map(|(at, old)| if at == place { word } else { Some(old) });
        commands[line] = words.collect::<Vec<_>>().join(" ");
        commands
    }
}

/// Two violations of one kind are the same failure: the same invariant of a core, or the same words, numbers aside.
fn kind(violation: &str) -> String {
    let said =
        violation.split_once("invariant ").map_or(violation, |(_, claim)| claim.split(':').next().unwrap_or(claim));
    let said =
        said.split_once(" panics at ").map_or(said, |(_, rest)| rest.rsplit_once("}: ").map_or(rest, |(_, why)| why));
    said.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<String> {
        text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn what_cannot_be_done_violates_nothing() {
        let odd = "cluster 3\n deliver 1->2 #7 1\n crash 1\n crash 1\n fly 2\n timeout 9\n elect 2 real\n deliver all";
        let told = rehearse(&commands(odd));
        assert_eq!((told.violation, told.done.len()), (None, 4));
        assert_eq!(told.undone[1], ("crash 1".to_string(), "node 1 is down already".to_string()));
    }

    /// A message that contradicts its own sender: no core sends it, and the cluster's invariants see what comes of it.
    const CONTRADICTION: &str = "
        cluster 3 seed=7 heartbeat=50
        elect 1 real
        deliver all
        propose 1 a
        deliver all
        wait 3.25
        propose 1 b
        read 2
        inject 1->2 append 1-1 stream 9 round 9 commit 4 prev 1-1.3 entries 1-1.4=z
        deliver all
        heartbeat 1
        deliver all
        wait 100";

    #[test]
    fn fewer_commands_violate_the_same() {
        let whole = violated(&commands(CONTRADICTION)).expect("something is violated");
        let short = shorten(whole.clone(), 1000);
        assert_eq!(kind(&short.what), kind(&whole.what));
        assert!(short.commands.len() < whole.commands.len(), "{:?}", short.commands);
        assert!(!short.commands.iter().any(|told| told.starts_with("wait") || told.starts_with("read")));
        assert_eq!(violated(&short.commands), Some(short.clone()));
        assert_eq!(shorten(whole.clone(), 0), whole);
    }

    #[test]
    fn kinds_leave_out_numbers_and_events() {
        let one = "node 1 panics at Timeout: invariant 4, Name: what 3";
        let other = "node 2 panics at Message(Envelope { from: n1 }): invariant 4, Name: what 5";
        assert_eq!(kind(one), kind(other));
        assert_ne!(kind(one), kind("node 1 panics at Timeout: invariant 5, Another: what"));
        assert_eq!(kind("node 1 commits 2-1.3"), kind("node 2 commits 4-2.7"));
    }
}
