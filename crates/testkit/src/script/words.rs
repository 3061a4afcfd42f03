//! The words of a command, and how ids are written.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::{Campaign, Config, LeaderId, LogId, NodeId, OnLostLog, Toggle, Vote};

use crate::world::{Choice, Link};

/// The words of a line, read from the left.
pub(super) struct Words<'a> {
    rest: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        let mut rest: Vec<&str> = line.split_whitespace().collect();
        rest.reverse();
        Self { rest }
    }

    pub(super) fn maybe(&mut self) -> Option<&'a str> {
        self.rest.pop()
    }

    pub(super) fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.rest.pop().ok_or_else(|| format!("the command lacks {what}"))
    }

    pub(super) fn peek(&self) -> Option<&'a str> {
        self.rest.last().copied()
    }

    /// Takes the next word if it is this one.
    pub(super) fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.rest.pop();
        }
        found
    }

    pub(super) fn node(&mut self) -> Result<NodeId, String> {
        node(self.word("a node")?)
    }

    pub(super) fn number(&mut self, what: &str) -> Result<u64, String> {
        number(self.word(what)?)
    }

    pub(super) fn rest(&mut self) -> Vec<&'a str> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.reverse();
        rest
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), String> {
        match self.peek() {
            None => Ok(()),
            Some(word) => Err(format!("`{word}` is not understood here")),
        }
    }

    /// A vote: `5-2` or `5-2 committed`.
    pub(super) fn vote(&mut self) -> Result<Vote, String> {
        let leader_id = leader_id(self.word("a vote such as `2-1`")?)?;
        Ok(Vote { leader_id, committed: self.take("committed") })
    }

    pub(super) fn log_id(&mut self) -> Result<LogId, String> {
        log_id(self.word("a log id such as `2-1.3`")?)
    }

    pub(super) fn millis(&mut self) -> Result<Duration, String> {
        millis(self.word("milliseconds")?)
    }

    /// Which messages: `[from->to] [#number] [count] [words ..]`.
    pub(super) fn choice(&mut self) -> Result<Choice, String> {
        let mut choice = Choice::default();
        if let Some(word) = self.peek().filter(|word| word.contains("->")) {
            self.maybe();
            (choice.from, choice.to) = open_link(word)?;
        }
        if let Some(word) = self.peek().and_then(|word| word.strip_prefix('#')) {
            self.maybe();
            choice.number = Some(number(word)?);
        }
        if let Some(count) = self.peek().and_then(|word| word.parse().ok()) {
            self.maybe();
            choice.limit = Some(count);
        }
        choice.words = self.rest().into_iter().map(String::from).collect();
        Ok(choice)
    }
}

pub(super) fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is not a number"))
}

/// Milliseconds, perhaps with up to six decimals.
pub(super) fn millis(word: &str) -> Result<Duration, String> {
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    if part.len() > 6 {
        return Err(format!("`{word}` is finer than a nanosecond"));
    }
    let nanos = number(&format!("{part:0<6}"))?;
    Ok(Duration::from_millis(number(whole)?) + Duration::from_nanos(nanos))
}

pub(super) fn node(word: &str) -> Result<NodeId, String> {
    word.parse().map(NodeId).map_err(|_| format!("`{word}` is not a node"))
}

/// Node ids with commas.
pub(super) fn nodes(word: &str) -> Result<Vec<NodeId>, String> {
    word.split(',').filter(|part| !part.is_empty()).map(node).collect()
}

/// `1->2`, where `*` is any node.
pub(super) fn open_link(word: &str) -> Result<(Option<NodeId>, Option<NodeId>), String> {
    let (from, to) = word.split_once("->").ok_or_else(|| format!("`{word}` is not a link such as `1->2`"))?;
    let end = |word: &str| if word == "*" { Ok(None) } else { node(word).map(Some) };
    Ok((end(from)?, end(to)?))
}

/// `1->2`.
pub(super) fn link(word: &str) -> Result<Link, String> {
    match open_link(word)? {
        (Some(from), Some(to)) => Ok((from, to)),
        _ => Err(format!("`{word}` must name both nodes")),
    }
}

/// Links as partitions name them: `1->2` one way, `1-2` both ways, `1` everything to and from node 1.
pub(super) fn links(word: &str, all: &[NodeId]) -> Result<Vec<Link>, String> {
    if word.contains("->") {
        return Ok(vec![link(word)?]);
    }
    if let Some((a, b)) = word.split_once('-') {
        let (a, b) = (node(a)?, node(b)?);
        return Ok(vec![(a, b), (b, a)]);
    }
    let alone = node(word)?;
    let others = all.iter().filter(|other| **other != alone);
    Ok(others.flat_map(|other| [(alone, *other), (*other, alone)]).collect())
}

pub(super) fn leader_id(word: &str) -> Result<LeaderId, String> {
    let wrong = || format!("`{word}` is not a leader id such as `2-1`");
    let (term, id) = word.split_once('-').ok_or_else(wrong)?;
    Ok(LeaderId::new(term.parse::<u64>().map_err(|_| wrong())?, node(id)?))
}

/// `2-1.3`; `0` is before the first entry.
pub(super) fn log_id(word: &str) -> Result<LogId, String> {
    if word == "0" {
        return Ok(LogId::ZERO);
    }
    let (leader, index) = word.split_once('.').ok_or_else(|| format!("`{word}` is not a log id such as `2-1.3`"))?;
    Ok(LogId::new(leader_id(leader)?, number(index)?))
}

/// A campaign as it is shown: `11.2`.
pub(super) fn campaign(word: &str) -> Result<Campaign, String> {
    let (run, nth) = word.split_once('.').ok_or_else(|| format!("`{word}` is not a campaign such as `11.1`"))?;
    Ok(Campaign(number(run)? << 16 | number(nth)?))
}

/// Sets the tunable that `key` names; `false` if it names none.
pub(super) fn tune(config: &mut Config, key: &str, value: &str) -> Result<bool, String> {
    let toggle = || match value {
        "on" => Ok(Toggle::On),
        "off" => Ok(Toggle::Off),
        _ => Err(format!("`{key}` is on or off, not `{value}`")),
    };
    let millis = || millis(value);
    match key {
        "tick" => config.tick = toggle()?,
        "heartbeats" => config.heartbeat = toggle()?,
        "pre-vote" => config.pre_vote = toggle()?,
        "check-quorum" => config.check_quorum = toggle()?,
        "campaign" => config.elect = toggle()?,
        "heartbeat" => config.heartbeat_interval = millis()?,
        "retransmit" => config.retransmit_timeout = millis()?,
        "max-disk-lag" => config.max_disk_lag = millis()?,
        "max-append-bytes" => config.max_append_bytes = number(value)?,
        "max-inflight-bytes" => config.max_inflight_bytes = number(value)?,
        "max-inflight" => {
            config.max_inflight_appends = usize::try_from(number(value)?).map_err(|e| e.to_string())?;
        }
        "on-lost-log" => {
            config.on_lost_log = match value {
                "halt" => OnLostLog::Halt,
                "rejoin" => OnLostLog::Rejoin,
                other => return Err(format!("on-lost-log is halt or rejoin, not `{other}`")),
            }
        }
        "snapshot-entries" => config.snapshot_entries = number(value)?,
        "snapshot-bytes" => config.snapshot_bytes = number(value)?,
        "snapshot-interval" => config.snapshot_interval = millis()?,
        "max-kept-bytes" => config.max_kept_bytes = number(value)?,
        "keep-entries" => config.keep_entries = number(value)?,
        "lag-threshold" => config.replication_lag_threshold = number(value)?,
        "max-clock-drift" => config.max_clock_drift = millis()?,
        "seed" => config.seed = number(value)?,
        "election-timeout" => {
            let (min, max) = value.split_once("..").ok_or("`election-timeout` is such as `300..600`")?;
            config.election_timeout_min = self::millis(min)?;
            config.election_timeout_max = self::millis(max)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// `key=value` words; words without `=` have an empty value.
pub(super) fn options<'a>(words: &[&'a str]) -> BTreeMap<&'a str, &'a str> {
    words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect()
}
