//! `quorate status`: who leads, how far every node is, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::Failure;
use super::table::table;
use crate::proto::{
    ClusterClient, MaintenanceClient, Member, MemberListRequest, ResponseHeader, StatusRequest, StatusResponse,
};
use crate::topology::Address;

/// A node that has not answered by then is not well, whatever the reason.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Entries that a healthy follower may be behind while there are writes.
const MAX_LAG: u64 = 1000;

/// Flags of `quorate status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where the nodes serve clients: host:port or http://host:port, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
}

/// Asks every endpoint and prints what it learns; fails if something is wrong.
pub(super) async fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    let endpoints = parse(&args.endpoints)?;
    let mut asking = JoinSet::new();
    for (at, address) in endpoints.iter().cloned().enumerate() {
        asking.spawn(async move { (at, ask(&address).await) });
    }
    let mut answers: Vec<Answer> = Vec::new();
    let mut by_place = BTreeMap::new();
    while let Some(asked) = asking.join_next().await {
        let (at, answer) = asked.map_err(|error| Failure::new(format!("cannot ask the endpoints: {error}")))?;
        by_place.insert(at, answer);
    }
    for (address, answer) in endpoints.into_iter().zip(by_place.into_values()) {
        answers.push(Answer { address, result: answer });
    }
    let report = Report::of(&answers);
    print!("{}", report.text);
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse(endpoints: &[String]) -> Result<Vec<Address>, Failure> {
    let parse = |text: &String| {
        let text = text.trim();
        let parsed = if text.contains("://") { Address::parse_url(text) } else { Address::parse(text) };
        parsed.map_err(|error| Failure::new(format!("--endpoints: {error}")))
    };
    endpoints.iter().map(parse).collect()
}

/// What one endpoint said, or why it said nothing.
struct Answer {
    address: Address,
    result: Result<Said, String>,
}

struct Said {
    status: StatusResponse,
    members: Vec<Member>,
}

async fn ask(address: &Address) -> Result<Said, String> {
    let asked = async {
        let endpoint = Endpoint::from_shared(address.url()).map_err(|error| cause(&error))?;
        let channel: Channel = endpoint.connect_timeout(TIMEOUT).connect().await.map_err(|error| cause(&error))?;
        let status = MaintenanceClient::new(channel.clone())
            .status(StatusRequest {})
            .await
            .map_err(|status| status.message().to_owned())?
            .into_inner();
        // An older or stuck node may not know; its status is worth printing all the same.
        let members = ClusterClient::new(channel).member_list(MemberListRequest { linearizable: false }).await;
        let members = members.map(|response| response.into_inner().members).unwrap_or_default();
        Ok(Said { status, members })
    };
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer in {} s", TIMEOUT.as_secs())),
    }
}

/// The innermost cause: "connection refused" says more than "transport error".
fn cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // The system's number says nothing to people.
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// What is printed, and the verdict.
struct Report {
    text: String,
    healthy: bool,
}

impl Report {
    fn of(answers: &[Answer]) -> Report {
        let cluster = Cluster::of(answers);
        let mut rows = vec![
            ["ENDPOINT", "NAME", "ID", "ROLE", "TERM", "COMMITTED", "APPLIED", "LAG", "SIZE", "PROBLEM"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for answer in answers {
            rows.push(cluster.row(answer));
        }
        let problems = cluster.problems(answers);
        let mut text = table(&rows);
        text.push('\n');
        match cluster.leader() {
            Some(leader) => text.push_str(&format!("leader: {} in term {}\n", cluster.name(leader), cluster.term)),
            None => text.push_str("leader: none\n"),
        }
        for problem in &problems {
            text.push_str(&format!("problem: {problem}\n"));
        }
        if problems.is_empty() {
            text.push_str("healthy\n");
        } else {
            text.push_str(&format!("next: {}\n", cluster.next(answers)));
        }
        Report { text, healthy: problems.is_empty() }
    }
}

/// What the answers say together.
struct Cluster {
    members: BTreeMap<u64, Member>,
    term: u64,
    committed: u64,
    /// In the greatest term: who is said to lead.
    leaders: BTreeSet<u64>,
}

impl Cluster {
    fn of(answers: &[Answer]) -> Self {
        let said: Vec<&Said> = answers.iter().filter_map(|answer| answer.result.as_ref().ok()).collect();
        let term = said.iter().map(|said| said.status.raft_term).max().unwrap_or(0);
        let newest = said.iter().filter(|said| said.status.raft_term == term);
        let leaders = newest.map(|said| said.status.leader).filter(|leader| *leader != 0).collect();
        let committed = said.iter().map(|said| said.status.raft_index).max().unwrap_or(0);
        // The node that has applied most knows best who its members are.
        let best = said.iter().max_by_key(|said| said.status.raft_applied_index);
        let members = best.map(|said| said.members.iter().map(|member| (member.id, member.clone())).collect());
        Cluster { members: members.unwrap_or_default(), term, committed, leaders }
    }

    /// The leader, if the nodes of the greatest term agree on one.
    fn leader(&self) -> Option<u64> {
        match self.leaders.len() {
            1 => self.leaders.first().copied(),
            _ => None,
        }
    }

    fn name(&self, id: u64) -> String {
        match self.members.get(&id) {
            Some(member) if !member.name.is_empty() => member.name.clone(),
            _ => format!("{id:016x}"),
        }
    }

    fn row(&self, answer: &Answer) -> Vec<String> {
        let said = match &answer.result {
            Ok(said) => said,
            Err(error) => {
                let mut row = vec![answer.address.to_string()];
                row.extend(std::iter::repeat_n("-".to_owned(), 8));
                row.push(error.clone());
                return row;
            }
        };
        let status = &said.status;
        let id = id_of(status.header.as_ref());
        let role = if status.leader == id && id != 0 {
            "leader"
        } else if status.is_learner {
            "learner"
        } else if status.leader == 0 {
            "no leader"
        } else {
            "follower"
        };
        vec![
            answer.address.to_string(),
            self.name(id),
            format!("{id:016x}"),
            role.to_owned(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            self.lag(status).to_string(),
            size(status.db_size),
            status.errors.join("; "),
        ]
    }

    fn lag(&self, status: &StatusResponse) -> u64 {
        self.committed.saturating_sub(status.raft_applied_index)
    }

    fn problems(&self, answers: &[Answer]) -> Vec<String> {
        let mut problems = Vec::new();
        for answer in answers {
            match &answer.result {
                Err(error) => problems.push(format!("{} does not answer: {error}", answer.address)),
                Ok(said) => {
                    let lag = self.lag(&said.status);
                    if lag > MAX_LAG {
                        problems.push(format!("{} is {lag} entries behind", answer.address));
                    }
                    for error in &said.status.errors {
                        problems.push(format!("{} says: {error}", answer.address));
                    }
                }
            }
        }
        let answering: BTreeSet<u64> = answers
            .iter()
            .filter_map(|answer| Some(id_of(answer.result.as_ref().ok()?.status.header.as_ref())))
            .collect();
        let clusters: BTreeSet<u64> = answers
            .iter()
            .filter_map(|answer| Some(answer.result.as_ref().ok()?.status.header.as_ref()?.cluster_id))
            .filter(|id| *id != 0) // not in a cluster yet
            .collect();
        if clusters.len() > 1 {
            problems.push("the endpoints belong to different clusters: ask one cluster at a time".to_owned());
        }
        let voters = self.members.values().filter(|member| !member.is_learner).count();
        let up = self.members.values().filter(|member| !member.is_learner && answering.contains(&member.id)).count();
        let needed = voters / 2 + 1;
        if self.leaders.len() > 1 {
            problems.push(format!("nodes disagree on who leads in term {}: ask again in a second", self.term));
        }
        if self.leader().is_none() && voters > 0 {
            problems.push(format!("nobody leads: {up} of {voters} voters answered here, {needed} are needed"));
        }
        problems
    }

    /// The command to run next.
    fn next(&self, answers: &[Answer]) -> String {
        let given: BTreeSet<String> = answers.iter().map(|answer| answer.address.to_string()).collect();
        let mut all = given.clone();
        for url in self.members.values().flat_map(|member| &member.client_urls) {
            if let Ok(address) = Address::parse_url(url) {
                all.insert(address.to_string());
            }
        }
        let list = |addresses: &BTreeSet<String>| addresses.iter().cloned().collect::<Vec<_>>().join(",");
        if all != given {
            return format!("ask every member: quorate status --endpoints={}", list(&all));
        }
        let silent = answers.iter().find(|answer| answer.result.is_err());
        match silent {
            Some(answer) => format!(
                "start the node at {}, or look at its output; then: quorate status --endpoints={}",
                answer.address,
                list(&all)
            ),
            None => format!("ask again, or look at the nodes' output: quorate status --endpoints={}", list(&all)),
        }
    }
}

fn id_of(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.member_id)
}

fn size(bytes: i64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests;
