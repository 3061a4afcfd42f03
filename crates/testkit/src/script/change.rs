//! What `change` asks for: membership changes, their terms, quorum rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_core::{
    ChangeMembers, ChangeTerms, LeasePolicy, Node as Record, NodeId, Precondition, Quorum, Readiness, Retain, Settings,
};

use super::words::{leader_id, log_id, node, nodes, number};

/// Stands where no node is named.
const NOBODY: &str = "nobody";

/// A change as a caller asks for it.
pub(super) struct Asked {
    pub(super) change: ChangeMembers,
    pub(super) retain: Retain,
    pub(super) terms: ChangeTerms,
}

/// `add-voters 4 ; remove-voters 1 retain wait=500 if-membership=1-1.3`.
pub(super) fn asked(mut words: Vec<&str>) -> Result<Asked, String> {
    let (mut retain, mut terms) = (Retain::Remove, ChangeTerms::default());
    while let Some(word) = words.last() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("retain", "") => retain = Retain::AsLearners,
            ("waived", "") => terms.readiness = Readiness::Waived,
            ("wait", millis) => terms.patience = Duration::from_millis(number(millis)?),
            ("if-leader", id) => terms.preconditions.push(Precondition::LeaderId(leader_id(id)?)),
            ("if-last", id) => terms.preconditions.push(Precondition::LastLogId(log_id(id)?)),
            ("if-membership", id) => terms.preconditions.push(Precondition::LastMembershipLogId(log_id(id)?)),
            _ => break,
        }
        words.pop();
    }
    let parts: Vec<ChangeMembers> = words.split(|word| *word == ";").map(one).collect::<Result<_, _>>()?;
    let change = match <[ChangeMembers; 1]>::try_from(parts) {
        Ok([only]) => only,
        Err(parts) => ChangeMembers::Batch(parts),
    };
    Ok(Asked { change, retain, terms })
}

/// One change: `add-voters 4,5`, `quorum 1,2,3 elect 1 commit 3`, and so on.
fn one(words: &[&str]) -> Result<ChangeMembers, String> {
    let (name, rest) = words.split_first().ok_or("`change` needs a change")?;
    let first = rest.first().copied().unwrap_or_default();
    let set = || nodes(if first == NOBODY { "" } else { first }).map(|ids| ids.into_iter().collect::<BTreeSet<_>>());
    match (*name, &rest[rest.len().min(1)..]) {
        ("add-voters", []) => records(first).map(ChangeMembers::AddVoters),
        ("add-voter-ids", []) => set().map(ChangeMembers::AddVoterIds),
        ("remove-voters", []) => set().map(ChangeMembers::RemoveVoters),
        ("replace-voters", []) => set().map(ChangeMembers::ReplaceAllVoters),
        ("add-nodes", []) => records(first).map(ChangeMembers::AddNodes),
        ("set-nodes", []) => records(first).map(ChangeMembers::SetNodes),
        ("remove-nodes", []) => set().map(ChangeMembers::RemoveNodes),
        ("replace-nodes", []) => records(first).map(ChangeMembers::ReplaceAllNodes),
        ("lease-reads", []) => Ok(ChangeMembers::SetSettings(Settings { lease: LeasePolicy::LeaseReads })),
        ("fast-failover", []) => Ok(ChangeMembers::SetSettings(Settings { lease: LeasePolicy::FastFailover })),
        ("quorum", ["elect", elect, "commit", commit]) => {
            let voters = nodes(first)?;
            Ok(ChangeMembers::SetQuorum { elect: threshold(elect, &voters)?, commit: threshold(commit, &voters)? })
        }
        ("rule", [elect, "commit", commit]) if first == "elect" => {
            Ok(ChangeMembers::SetQuorum { elect: rule(elect)?, commit: rule(commit)? })
        }
        _ => Err(format!("`{}` is not a change", words.join(" "))),
    }
}

pub(super) fn record(id: NodeId) -> Record {
    Record::at(format!("node-{id}:7000"))
}

/// Node ids with commas, each perhaps with a record: `4,5@elsewhere:1/zone=a/rack=b`.
fn records(word: &str) -> Result<BTreeMap<NodeId, Record>, String> {
    let one = |word: &str| {
        let Some((id, told)) = word.split_once('@') else { return node(word).map(|id| (id, record(id))) };
        let mut parts = told.split('/');
        let mut record = Record::at(parts.next().unwrap_or_default());
        for label in parts {
            let (key, value) = label.split_once('=').ok_or_else(|| format!("`{label}` is not a label `key=value`"))?;
            record.labels.insert(key.to_string(), value.to_string());
        }
        Ok((node(id)?, record))
    };
    match word {
        NOBODY => Ok(BTreeMap::new()),
        some => some.split(',').map(one).collect(),
    }
}

pub(super) fn threshold(need: &str, voters: &[NodeId]) -> Result<Quorum, String> {
    let need = u32::try_from(number(need)?).map_err(|e| e.to_string())?;
    Ok(Quorum::at_least(need, voters.iter().copied()))
}

/// A rule in full: `2{2{1,2,3},2{4,5,6},7*2}`; `*2` is a weight.
pub(super) fn rule(word: &str) -> Result<Quorum, String> {
    let Some((need, rest)) = word.split_once('{') else { return node(word).map(Quorum::Node) };
    let inner = rest.strip_suffix('}').ok_or_else(|| format!("`{word}` lacks a closing brace"))?;
    let mut of = Vec::new();
    let (mut depth, mut from) = (0usize, 0);
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let part = &inner[from..at];
                // A weight stands behind the whole part.
                let (part, weight) = match part.rsplit_once('*') {
                    Some((part, weight)) if !weight.contains('}') => (part, weight),
                    Some(_) | None => (part, "1"),
                };
                of.push((u32::try_from(number(weight)?).map_err(|e| e.to_string())?, rule(part)?));
                from = at + 1;
            }
            _ => {}
        }
    }
    Ok(Quorum::AtLeast { need: u32::try_from(number(need)?).map_err(|e| e.to_string())?, of })
}
