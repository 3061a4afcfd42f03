//! The shipped transport on loopback, logs in memory: TCP alone (NT), and what TLS takes of it (N2).

use std::fs;
use std::path::Path;

use quorate::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::args::Options;
use crate::measure::{Contender, Goal, Load, RowPlan, Trial, measure_row};
use crate::report::{Better, Report};
use crate::sides::echo;
use crate::sides::library::{Cluster, Link, Put, Setup};

/// Bytes of a command.
const COMMAND: usize = 256;
/// The cluster's name in certificates.
const CLUSTER: &str = "bench";

pub(crate) fn tcp(options: &Options, report: &mut Report) -> Result<(), String> {
    say(report);
    for clients in [1, 64, 1024] {
        let plan = plan("NT", clients, "", None);
        let row = measure_row(
            options,
            plan,
            vec![
                Contender::ours("tcp", || trial(options, Link::Tcp, clients)),
                Contender::limit("bare tcp", || bare(options, clients)),
            ],
        )?;
        report.rows.push(row);
    }
    Ok(())
}

pub(crate) fn n2(options: &Options, report: &mut Report) -> Result<(), String> {
    say(report);
    let dir = options.dir.join(format!("certificates-{}", std::process::id()));
    let files = certificates(&dir).map_err(|error| format!("certificates cannot be made: {error}"))?;
    for clients in [64, 1024] {
        let plan = plan("N2", clients, ", TLS beside none", Some(Goal::Ratio { must: 0.85, aim: 0.85 }));
        let sides = vec![
            Contender::ours("tls 1.3", || trial(options, Link::Tls(files.clone()), clients)),
            Contender::beside("tcp", || trial(options, Link::Tcp, clients)),
            Contender::limit("bare tcp", || bare(options, clients)),
        ];
        report.rows.push(measure_row(options, plan, sides)?);
    }
    fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))
}

fn say(report: &mut Report) {
    report
        .settings
        .push(format!("three nodes in this process, joined by loopback, logs in memory; commands of {COMMAND} bytes; bare tcp: one connection, and a peer that only says how many commands came"));
}

fn plan<'a>(id: &'a str, clients: usize, what: &str, goal: Option<Goal>) -> RowPlan<'a> {
    let clients = format!("{clients} {}{what}", if clients == 1 { "client" } else { "clients" });
    RowPlan { id, what: clients, unit: "put/s", better: Better::Higher, goal }
}

fn trial(options: &Options, link: Link, clients: usize) -> Result<Trial, String> {
    let cluster = Cluster::start(options, &Setup::in_memory(link))?;
    cluster.measure(options, Load::in_process(clients), |node| Put::sized(node, COMMAND))
}

/// One connection and a peer that only counts.
fn bare(options: &Options, clients: usize) -> Result<Trial, String> {
    echo::over_tcp(options, Load::in_process(clients), COMMAND)
}

/// An authority of its own, and a certificate for each of three nodes.
fn certificates(dir: &Path) -> Result<Vec<TlsFiles>, Box<dyn std::error::Error>> {
    fs::create_dir_all(dir)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = dir.join("ca.pem");
    fs::write(&ca, params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    let node = |id: u32| {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![format!("node-{id}.{CLUSTER}.quorate")])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, private) = (dir.join(format!("{id}.pem")), dir.join(format!("{id}.key")));
        fs::write(&certificate, params.signed_by(&key, &issuer)?.pem())?;
        fs::write(&private, key.serialize_pem())?;
        Ok(TlsFiles { ca: ca.clone(), certificate, key: private, cluster_name: CLUSTER.to_owned() })
    };
    (1..=3).map(node).collect()
}
