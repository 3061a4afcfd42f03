//! `expect` lines: what must be true after a command.

use quorate_core::{LeaderId, NodeId, RequestId};

use super::command::Stage;
use super::words::{Words, leader_id, link, node, nodes, number, open_link};
use crate::world::{Kind, Link, Payload, Trace, View, compact, has_words, log_id as show, peer_state, records};

type Check = Result<(), String>;

/// Checks one `expect` line.
pub(super) fn check(stage: &Stage, line: &str) -> Check {
    let mut words = Words::of(line);
    let _expect = words.maybe();
    if words.take("no") {
        return match words.word("what there is none of")? {
            "leader" => no_leader(stage),
            "reply" => no_reply(stage, &mut words),
            other => Err(format!("there can be no `{other}` in an expect line")),
        };
    }
    let (past, wanted) = match words.peek() {
        Some("not") => (&stage.last, Wanted::Absent),
        Some("never") => (&stage.ever, Wanted::Absent),
        Some("ever") => (&stage.ever, Wanted::Present),
        _ => return present(stage, &mut words),
    };
    let _when = words.maybe();
    happened(stage, past, wanted, &mut words)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Present,
    Absent,
}

fn present(stage: &Stage, words: &mut Words<'_>) -> Check {
    match words.peek() {
        Some("sent" | "note" | "write" | "waiting") => happened(stage, &stage.last, Wanted::Present, words),
        Some("reply") => reply(stage, words),
        Some("leader") => leader(stage, words),
        Some("leaders") => leaders(stage, words),
        Some("same") => same_logs(stage, words),
        Some("down") => down(stage, words),
        Some("progress") => progress(stage, words),
        Some(_) => field(stage, words),
        None => Err("an expect line says what is expected".to_string()),
    }
}

/// `sent 1->2 words..`, `note 1 words..`, `write 1 words..`, `waiting 1->2 words..`.
fn happened(stage: &Stage, past: &[Trace], wanted: Wanted, words: &mut Words<'_>) -> Check {
    let kind = words.word("sent, note, write or waiting")?;
    let place = words.word("a node or a link")?;
    let rest: Vec<String> = words.rest().into_iter().map(String::from).collect();
    let found: Option<String> = match kind {
        "sent" => {
            let ends = open_link(place)?;
            let mut sent = past.iter().filter(|trace| matches!(trace.kind, Kind::Sent(link) if fits(ends, link)));
            sent.find(|trace| has_words(&trace.text, &rest)).map(|trace| trace.text.clone())
        }
        "waiting" => {
            let ends = open_link(place)?;
            let mut waiting = stage.world()?.net.waiting().filter(|packet| fits(ends, packet.link));
            waiting.find(|packet| has_words(&packet.text, &rest)).map(|packet| packet.line())
        }
        "note" | "write" => {
            let id = match place {
                "*" => None,
                place => Some(node(place)?),
            };
            let of = |trace: &&Trace| match trace.kind {
                Kind::Note(of) => kind == "note" && id.is_none_or(|id| id == of),
                Kind::Write(of) => kind == "write" && id.is_none_or(|id| id == of),
                Kind::Sent(_) | Kind::Arrived(_) | Kind::Reply(_) | Kind::Told => false,
            };
            past.iter().filter(of).find(|trace| has_words(&trace.text, &rest)).map(|trace| trace.text.clone())
        }
        other => return Err(format!("`{other}` is not sent, note, write or waiting")),
    };
    match (wanted, found) {
        (Wanted::Present, Some(_)) | (Wanted::Absent, None) => Ok(()),
        (Wanted::Present, None) => Err(format!("it did not happen; what happened:\n{}", told(past))),
        (Wanted::Absent, Some(text)) => Err(format!("it did happen: {text}")),
    }
}

fn fits((from, to): (Option<NodeId>, Option<NodeId>), link: Link) -> bool {
    from.is_none_or(|from| from == link.0) && to.is_none_or(|to| to == link.1)
}

fn told(past: &[Trace]) -> String {
    /// More than this says nothing any more.
    const SHOWN_LINES: usize = 40;
    let skipped = past.len().saturating_sub(SHOWN_LINES);
    past.iter().skip(skipped).map(|trace| format!("  {}\n", trace.text)).collect()
}

fn request(word: &str) -> Result<RequestId, String> {
    let digits = word.strip_prefix('r').ok_or_else(|| format!("`{word}` is not a request such as `r1`"))?;
    number(digits).map(RequestId)
}

fn reply(stage: &Stage, words: &mut Words<'_>) -> Check {
    let _reply = words.maybe();
    let id = request(words.word("a request")?)?;
    equals(words)?;
    let wanted: Vec<String> = words.rest().into_iter().map(String::from).collect();
    match stage.world()?.replies.get(&id) {
        None => Err(format!("r{} is not answered", id.0)),
        Some(reply) if has_words(reply, &wanted) => Ok(()),
        Some(reply) => Err(format!("r{} is answered: {reply}", id.0)),
    }
}

fn no_reply(stage: &Stage, words: &mut Words<'_>) -> Check {
    let id = request(words.word("a request")?)?;
    words.end()?;
    match stage.world()?.replies.get(&id) {
        None => Ok(()),
        Some(reply) => Err(format!("r{} is answered: {reply}", id.0)),
    }
}

fn live_leaders(stage: &Stage) -> Result<Vec<(LeaderId, NodeId)>, String> {
    let nodes = stage.world()?.nodes.values();
    let mut found: Vec<_> = nodes.filter_map(|node| Some((node.view()?.leads?, node.id))).collect();
    found.sort_unstable();
    Ok(found)
}

/// The greatest leader.
fn leader(stage: &Stage, words: &mut Words<'_>) -> Check {
    let _leader = words.maybe();
    let wanted = words.node()?;
    let as_whom = words.take("as").then(|| leader_id(words.word("a leader id")?)).transpose()?;
    words.end()?;
    match live_leaders(stage)?.last() {
        Some((found, id)) if *id == wanted && as_whom.is_none_or(|want| want == *found) => Ok(()),
        Some((found, _)) => Err(format!("the greatest leader is {found}")),
        None => Err("nobody leads".to_string()),
    }
}

fn leaders(stage: &Stage, words: &mut Words<'_>) -> Check {
    let _leaders = words.maybe();
    equals(words)?;
    let wanted: Vec<NodeId> = words.rest().into_iter().map(node).collect::<Result<_, _>>()?;
    let mut found: Vec<NodeId> = live_leaders(stage)?.into_iter().map(|(_, id)| id).collect();
    found.sort_unstable();
    match found == wanted {
        true => Ok(()),
        false => Err(format!("the leaders are {found:?}")),
    }
}

fn no_leader(stage: &Stage) -> Check {
    match live_leaders(stage)?.last() {
        None => Ok(()),
        Some((found, _)) => Err(format!("{found} leads")),
    }
}

fn down(stage: &Stage, words: &mut Words<'_>) -> Check {
    let _down = words.maybe();
    let id = words.node()?;
    words.end()?;
    match stage.world()?.node(id)?.core.is_none() {
        true => Ok(()),
        false => Err(format!("node {id} runs")),
    }
}

/// `same logs 1,2,3`: entry by entry, from where the most purged one begins.
fn same_logs(stage: &Stage, words: &mut Words<'_>) -> Check {
    let _same = words.maybe();
    if !words.take("logs") {
        return Err("`same logs 1,2,3`".to_string());
    }
    let world = stage.world()?;
    let logs = nodes(words.word("nodes")?)?.into_iter().map(|id| world.node(id).map(|node| &node.log));
    let logs = logs.collect::<Result<Vec<_>, _>>()?;
    words.end()?;
    let from = logs.iter().map(|log| log.purged.index).max().unwrap_or(0);
    let tail = |log: &crate::world::Log| -> Vec<_> {
        log.entries.iter().filter(|entry| entry.id.index > from).cloned().collect()
    };
    let Some((first, others)) = logs.split_first() else { return Err("which logs?".to_string()) };
    match others.iter().all(|log| tail(log) == tail(first)) {
        true => Ok(()),
        false => Err(format!("the logs end at {:?}", logs.iter().map(|log| log.last()).collect::<Vec<_>>())),
    }
}

/// `progress 1->2 = replicate 1-1.3`: how a leader replicates to a peer, and what it knows the peer to hold.
fn progress(stage: &Stage, words: &mut Words<'_>) -> Check {
    let _progress = words.maybe();
    let (leader, peer) = link(words.word("a link such as `1->2`")?)?;
    equals(words)?;
    let wanted = words.rest().join(" ");
    let view = stage.world()?.node(leader)?.view().ok_or_else(|| format!("node {leader} is down"))?;
    let Some(found) = view.peers.iter().find(|status| status.id == peer) else {
        return Err(format!("node {leader} does not lead, or {peer} is not its peer"));
    };
    let found = format!("{} {}", peer_state(found.state), show(found.matched));
    match found == wanted {
        true => Ok(()),
        false => Err(format!("it is `{found}`")),
    }
}

fn equals(words: &mut Words<'_>) -> Check {
    match words.take("=") {
        true => Ok(()),
        false => Err("an expect line has ` = ` between what and how".to_string()),
    }
}

/// `<field> <node> = <value>`.
fn field(stage: &Stage, words: &mut Words<'_>) -> Check {
    let name = words.word("a field")?;
    let id = words.node()?;
    equals(words)?;
    let wanted = words.rest().join(" ");
    let found = value(stage, name, id)?;
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{name} of node {id} is `{found}`")),
    }
}

fn value(stage: &Stage, name: &str, id: NodeId) -> Result<String, String> {
    let node = stage.world()?.node(id)?;
    let entries = || node.log.entries.iter();
    match name {
        // What the disk would give back after a crash.
        "durable" => return Ok(show(node.disk.log.last())),
        "durable-vote" => return Ok(node.disk.vote.to_string()),
        "snapshot" => {
            return Ok(show(node.disk.snapshot.as_ref().map_or_else(Default::default, |s| s.meta.last_log_id)));
        }
        "applied" => return Ok(node.machine.commands.join(" ")),
        "log" => return Ok(entries().map(|entry| short(&entry.payload)).collect::<Vec<_>>().join(" ")),
        "terms" => {
            let terms = entries().map(|entry| entry.id.leader_id.term.to_string());
            return Ok(terms.collect::<Vec<_>>().join(" "));
        }
        _ => {}
    }
    let view = node.view().ok_or_else(|| format!("node {id} is down"))?;
    of_view(&view, name).ok_or_else(|| format!("there is no field `{name}`; see testdata/README.md"))
}

fn of_view(view: &View, name: &str) -> Option<String> {
    let found = match name {
        "role" => view.role.to_string(),
        "vote" => view.vote.to_string(),
        "following" => view.leader.map_or("nobody".to_string(), |leader| leader.to_string()),
        "last" => show(view.last),
        "commit" => view.commit.to_string(),
        "applied-index" => view.applied.index.to_string(),
        "purged" => show(view.purged),
        "members" => compact(&view.membership),
        "records" => records(&view.membership),
        "membership-at" => show(view.membership_log_id),
        "caught-up" => {
            let ready = view.peers.iter().filter(|peer| peer.caught_up).map(|peer| peer.id.to_string());
            ready.collect::<Vec<_>>().join(" ")
        }
        _ => return None,
    };
    Some(found)
}

/// A payload without spaces: `.` is blank, `@` a membership.
fn short(payload: &Payload) -> String {
    match payload {
        Payload::Membership(_) => "@".to_string(),
        Payload::Blank | Payload::Command(_) => payload.to_string(),
    }
}
