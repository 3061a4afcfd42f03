//! `quorate recover`: what to do when so many nodes are lost for good that no quorum can come together again.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate::NodeId;
use quorate::recover::{RecoverError, Recovery};

use super::Failure;

/// Flags of `quorate recover`.
#[derive(Clone, Debug, Args)]
pub struct RecoverArgs {
    #[command(subcommand)]
    command: RecoverCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum RecoverCommand {
    /// Says what `apply` would do and what may be lost. Changes nothing.
    Plan(SurvivorArgs),
    /// Makes a survivor the only voter of the cluster. Its node must be stopped, and stays the one to start next.
    Apply(SurvivorArgs),
}

/// Which directories survived.
#[derive(Clone, Debug, Args)]
struct SurvivorArgs {
    /// The data directory of a stopped survivor; give several times if there are several on this machine. The one with
    /// the most complete log is taken.
    #[arg(long, required = true, num_args = 1)]
    data_dir: Vec<PathBuf>,
    /// Takes the directory of this node id, even if another one's log is more complete.
    #[arg(long)]
    survivor: Option<u64>,
    /// Declares these node ids lost although something that does not say who it is listens at their addresses;
    /// several are separated by commas.
    #[arg(long, value_delimiter = ',')]
    lost: Vec<u64>,
}

impl SurvivorArgs {
    fn recovery(&self) -> Recovery {
        let recovery = Recovery::new(self.data_dir.clone()).lost(self.lost.iter().map(|id| NodeId(*id)));
        match self.survivor {
            Some(id) => recovery.survivor(id),
            None => recovery,
        }
    }

    /// The same flags again, for a command line.
    fn flags(&self) -> String {
        let mut flags: Vec<String> =
            self.data_dir.iter().map(|directory| format!("--data-dir={}", directory.display())).collect();
        flags.extend(self.survivor.map(|id| format!("--survivor={id}")));
        if !self.lost.is_empty() {
            let lost: Vec<String> = self.lost.iter().map(u64::to_string).collect();
            flags.push(format!("--lost={}", lost.join(",")));
        }
        flags.join(" ")
    }
}

/// Plans, or plans and applies.
pub(super) async fn run(args: RecoverArgs) -> Result<(), Failure> {
    match args.command {
        RecoverCommand::Plan(survivors) => {
            let plan = survivors.recovery().plan().await.map_err(|error| explain(&error))?;
            println!("{plan}\nnothing was changed; to do it: quorate recover apply {}", survivors.flags());
        }
        RecoverCommand::Apply(survivors) => {
            let plan = survivors.recovery().apply().await.map_err(|error| explain(&error))?;
            println!("{plan}\ndone\n{}", plan.next_steps().trim_end());
        }
    }
    Ok(())
}

fn explain(error: &RecoverError) -> Failure {
    let hint = match error {
        RecoverError::QuorumReachable { unclear, .. } if !unclear.is_empty() => {
            let ids: Vec<String> = unclear.iter().map(NodeId::to_string).collect();
            format!("\nif that is not the member: --lost={}", ids.join(","))
        }
        RecoverError::NoSingleBest { .. } => "\nsay which one to take: --survivor=NODE".to_owned(),
        _ => String::new(),
    };
    Failure::new(format!("nothing was changed: {error}{hint}"))
}
