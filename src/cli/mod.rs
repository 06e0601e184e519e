//! Parses and runs the commands of the command line.

mod adopt;
mod bundle;
mod completions;
mod config;
mod consent;
mod credential_helper;
mod doctor;
mod draw;
mod events;
mod fate;
mod leave;
mod leaving;
mod print;
mod recover;
mod restore;
mod rotate_tokens;
mod run;
mod status;
#[cfg(test)]
mod tests;
mod this_node;
mod view;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::api::control::ClientError;
use crate::common::errors::chain;
use crate::common::printable::on_terminal;
use crate::config::{
    EXIT_CODE as EX_CONFIG, Flag, Inputs, Mistake, Mistakes, Origin, Settings, load, salvage,
};

pub use completions::Shell;
pub use credential_helper::as_credential_helper;

/// Nothing was changed: skep refused, or the operator did not confirm.
const EXIT_NOTHING_DONE: u8 = 3;
/// `EX_UNAVAILABLE` of sysexits(3).
const EX_UNAVAILABLE: u8 = 69;

const EXAMPLES_AND_EXIT_CODES: &str = "\
Examples:
  skep run                                    the node's whole life; what skep.service starts
  skep config --set boot.deadline=5m          the settings in force, and their sources
  skep status --json                          the state of this node, for scripts
  skep doctor                                 a check of everything that this node depends on
  skep doctor --fleet                         the findings of all nodes, on a manager
  skep bundle                                 an archive for a bug report, without secrets
  skep events --since 2h                      the events of this node in the last two hours
  skep leave --deadline 5m                    take this node out of the swarm within 5 minutes
  skep leave --terminate                      the same, and have its instance replaced
  skep rotate-tokens --worker                 a new join token for workers; run it on a manager
  skep recover                                shows how to re-create a lost quorum, and asks
  skep adopt                                  shows how to take over a swarm that exists, and asks
  skep restore                                shows what a backup has and the swarm has not, and asks
  skep completions bash                       the completion script of a shell

Exit codes:
  0   done
  1   failed; standard error or the journal says why
  2   the command line is wrong
  3   skep changed nothing: it refused, or the operator did not confirm (recover, restore, adopt,
      leave)
  4   nothing has failed, and there are warnings (doctor), or something waits or was left out (restore)
  69  no skep runs on this host, or it does not answer (status, leave, rotate-tokens, recover,
      doctor --fleet)
  78  the configuration is wrong; every mistake is listed (status, events, leave, rotate-tokens and
      recover still ask the running skep)

Settings come from /etc/skep/skep.toml, /etc/skep/conf.d/*.toml, SKEP_* variables and these flags;
a later one wins. `skep config` lists every key. The packages install the documents in
/usr/share/doc/skep.";

/// Brings an EC2 instance into a Docker Swarm, and takes it out again without losing anything.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES_AND_EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join the swarm, serve, and leave the swarm when the instance ends
    Run,
    /// Show what this node does and waits for; on a manager, also the fleet
    Status(status::Arguments),
    /// Check everything that this node depends on: metadata, AWS, Docker, network, time
    Doctor(doctor::Arguments),
    /// Show the events of this node, and follow new ones
    Events(events::Arguments),
    /// Take this node out of the swarm: drain it, wait for its tasks, leave
    Leave(leave::Arguments),
    /// Renew the swarm's join tokens in Docker and in the secret store; run it on a manager
    RotateTokens(rotate_tokens::Arguments),
    /// Re-create a lost quorum on this manager: show the plan, ask, carry it out
    Recover(recover::Arguments),
    /// Take over a swarm that exists and that skep did not found: show the plan, ask, carry it out
    Adopt(adopt::Arguments),
    /// Create what a backup has and the swarm has not: show the plan, ask, carry it out
    Restore(restore::Arguments),
    /// Write an archive for a bug report: status, findings, events, settings, log, without secrets
    Bundle(bundle::Arguments),
    /// Print every setting in force and where it came from
    Config(config::Arguments),
    /// Print the completion script of a shell; the packages install it
    Completions(completions::Arguments),
}

/// Settings on the command line; they win over every other source.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
struct SettingFlags {
    /// Name of the swarm
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// manager or worker
    #[arg(long, global = true, value_name = "ROLE")]
    role: Option<String>,
    /// DynamoDB table of the ledger
    #[arg(long, global = true, value_name = "NAME")]
    table: Option<String>,
    /// AWS region
    #[arg(long, global = true, value_name = "REGION")]
    region: Option<String>,
    /// off, error, warn, info, debug, trace; or target=level
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text, json, journal
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any setting, such as boot.deadline=5m; can be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Directory of skep.toml and conf.d [default: /etc/skep]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    config_dir: Option<PathBuf>,
}

fn key_and_value(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().into(), value.into())),
        None => Err("write it as KEY=VALUE, such as boot.deadline=5m"),
    }
}

impl SettingFlags {
    fn into_inputs(self) -> Inputs {
        let named = [
            ("--cluster", "cluster", self.cluster),
            ("--role", "role", self.role),
            ("--table", "table", self.table),
            ("--region", "region", self.region),
            ("--log-level", "log.level", self.log_level),
            ("--log-format", "log.format", self.log_format),
        ];
        let named = named
            .into_iter()
            .filter_map(|(flag, key, value)| Some(Flag { flag, key: key.into(), value: value? }));
        let set = self.set.into_iter().map(|(key, value)| Flag { flag: "--set", key, value });
        Inputs::of_this_process(self.config_dir, named.chain(set).collect())
    }
}

impl Cli {
    /// Runs the command. Errors are written to standard error; `skep run` writes its own to the log.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        match self.dispatch() {
            Ok(code) => code,
            Err(error) => {
                match error.downcast_ref::<Mistakes>() {
                    Some(mistakes) => report(mistakes),
                    None => eprintln!("skep: {}", on_terminal(&chain(error.as_ref()))),
                }
                exit_code(&error).into()
            }
        }
    }

    fn dispatch(self) -> anyhow::Result<ExitCode> {
        // It needs no settings, so that mistakes in them are not its business.
        if let Command::Completions(arguments) = &self.command {
            return completions::print(arguments);
        }
        let inputs = self.settings.into_inputs();
        let loaded = load(&inputs);
        // One thread is enough for one node, and uses little memory.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(async {
            match (loaded, self.command) {
                // On the heap: their futures are large, and a thread of a test has 2 MiB of stack.
                (Ok(loaded), Command::Run) => Ok(Box::pin(run::run(loaded)).await),
                (Ok(loaded), Command::Config(arguments)) => {
                    config::print(&arguments, &loaded).await
                }
                (Ok(loaded), Command::Bundle(arguments)) => {
                    Box::pin(bundle::write(&arguments, &loaded.settings, Ok(&loaded))).await
                }
                (Ok(loaded), command) => command.perform(&loaded.settings).await,
                (Err(mistakes), command) => {
                    // Before the announcement: after it, the machine may end.
                    report(&mistakes);
                    command.perform_in_spite_of(&mistakes, &inputs).await
                }
            }
        });
        // A DNS lookup that hangs in its own thread must not keep the process alive.
        runtime.shutdown_background();
        code
    }
}

impl Command {
    /// Runs a command that needs only the settings.
    async fn perform(&self, settings: &Settings) -> anyhow::Result<ExitCode> {
        match self {
            Self::Status(arguments) if arguments.watch => watch::follow(arguments, settings).await,
            Self::Status(arguments) => status::print(arguments, settings).await,
            Self::Doctor(arguments) => {
                Box::pin(doctor::examine_and_print(arguments, settings)).await
            }
            Self::Events(arguments) => events::print(arguments, settings).await,
            Self::Leave(arguments) => leave::ask(arguments, settings).await,
            Self::RotateTokens(arguments) => rotate_tokens::ask(arguments, settings).await,
            Self::Recover(arguments) => Box::pin(recover::ask(arguments, settings)).await,
            Self::Adopt(arguments) => Box::pin(adopt::ask(arguments, settings)).await,
            Self::Restore(arguments) => Box::pin(restore::ask(arguments, settings)).await,
            // `dispatch` has run these.
            Self::Run | Self::Config(_) | Self::Bundle(_) | Self::Completions(_) => {
                Ok(EX_CONFIG.into())
            }
        }
    }

    /// Runs a command although the configuration has mistakes. An operator must still reach the running skep: it read
    /// its settings earlier, and these commands need only its socket and its state directory. A mistake in the flags
    /// stops the command: the operator can correct it.
    async fn perform_in_spite_of(
        &self,
        mistakes: &Mistakes,
        inputs: &Inputs,
    ) -> anyhow::Result<ExitCode> {
        let is_typed = |mistake: &Mistake| matches!(mistake.origin, Some(Origin::Flag(_)));
        match self {
            Self::Run => {
                crate::agent::announce_misconfiguration(&salvage(inputs)).await;
                Ok(EX_CONFIG.into())
            }
            Self::Doctor(_)
            | Self::Adopt(_)
            | Self::Restore(_)
            | Self::Config(_)
            | Self::Completions(_) => Ok(EX_CONFIG.into()),
            _ if mistakes.0.iter().any(is_typed) => Ok(EX_CONFIG.into()),
            // The archive names the mistakes.
            Self::Bundle(arguments) => {
                Box::pin(bundle::write(arguments, &salvage(inputs), Err(mistakes))).await
            }
            Self::Status(_)
            | Self::Events(_)
            | Self::Leave(_)
            | Self::RotateTokens(_)
            | Self::Recover(_) => {
                eprintln!("skep: asking the running skep nevertheless");
                self.perform(&salvage(inputs)).await
            }
        }
    }
}

/// Prints each mistake on its own line.
fn report(mistakes: &Mistakes) {
    mistakes.0.iter().for_each(|mistake| eprintln!("skep: {mistake}"));
}

/// Returns the exit code for an error.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Mistakes>() {
        return EX_CONFIG;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::NotRunning { .. } | ClientError::NoAnswer { .. }) => EX_UNAVAILABLE,
        _ => 1,
    }
}
