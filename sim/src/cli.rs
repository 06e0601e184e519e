//! The command line: `up` keeps a cloud running, and the other commands use it.

mod admin;
mod current;
mod instance;
mod list;
mod shell;
mod trouble;
mod up;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use skep_sim::{bench, chaos, demo, scale};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const EXAMPLES: &str = "\
Examples:
  skep-sim up --managers 3 --workers 2        a cloud with a swarm, until Ctrl-C
  skep-sim list                               its instances, from another terminal
  skep-sim shell i-0123                       a shell on an instance
  skep-sim shell i-0123 -- skep status        one command there
  eval \"$(skep-sim env)\"                      variables for the aws command line
  skep-sim desired workers 5                  scale the workers' group
  skep-sim refresh workers                    an instance refresh of it
  skep-sim spot i-0123 --in 30s               a spot interruption
  skep-sim isolate i-0123                     out of reach for the other instances
  skep-sim slow i-0123 --rate 128kbit         a slow link
  skep-sim kill i-0123 dockerd                its supervisor starts it again
  skep-sim stop i-0123 skep                   a program that hangs
  skep-sim mend --all                         end all of that
  skep-sim chaos --rounds 20 --profile hard   a fault campaign
  skep-sim fault set --service ssm --throttle 0.5
";

/// The local cloud: EC2 instances with real Docker daemons on this machine, and the AWS services
/// that skep needs. Needs root.
#[derive(Debug, Parser)]
#[command(name = "skep-sim", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cloud with a swarm and keep it until Ctrl-C
    Up(Box<up::Arguments>),
    /// Show what skep does: a swarm boots and loses a worker, its leader and a spot instance
    Demo(demo::Arguments),
    /// Measure skep, a bare join and a shell script
    Bench(bench::Arguments),
    /// Boot a thousand instances at once, with engines that are played, and measure
    Scale(scale::Arguments),
    /// Play random faults by seed on a fleet of its own, judged from outside
    Chaos(chaos::Arguments),
    /// Show the instances of the running cloud
    List(list::Arguments),
    /// Run a shell, or one command, on an instance of the running cloud
    Shell(shell::Arguments),
    /// Print the shell variables that the aws command line needs
    Env(current::Endpoint),
    #[command(flatten)]
    Admin(admin::Command),
    #[command(flatten)]
    Trouble(trouble::Command),
    /// Remove the remains of killed runs
    Clean,
}

/// Runs the command line; an error is printed with its causes.
pub async fn main() -> ExitCode {
    // DynamoDB's conditions refuse one of two writers: a normal answer, without a warning.
    let levels =
        Targets::new().with_default(LevelFilter::WARN).with_target("dynoxide", LevelFilter::ERROR);
    let ansi = std::io::stderr().is_terminal();
    let messages = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .without_time();
    tracing_subscriber::registry().with(messages).with(levels).init();
    let done = match Cli::parse().command {
        Command::Up(arguments) => up::run(*arguments).await,
        Command::Demo(arguments) => demo::run(&arguments).await,
        Command::Bench(arguments) => bench::run(&arguments).await,
        Command::Scale(arguments) => scale::run(&arguments).await,
        Command::Chaos(arguments) => chaos::run(&arguments).await,
        Command::List(arguments) => list::run(&arguments).await,
        Command::Shell(arguments) => shell::run(&arguments).await,
        Command::Env(endpoint) => current::print_variables(&endpoint),
        Command::Admin(command) => admin::run(command).await,
        Command::Trouble(command) => trouble::run(command).await,
        Command::Clean => clean().await,
    };
    exit_code(&done)
}

/// Prints an error with its causes.
fn exit_code(done: &anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn clean() -> anyhow::Result<()> {
    let cleaned = tokio::task::spawn_blocking(skep_sim::fleet::clean_dead_runs).await??;
    for id in &cleaned {
        println!("removed what was left of run {id}");
    }
    for (id, dir) in skep_sim::fleet::live_runs() {
        println!("run {id} is alive: {}", dir.display());
    }
    if cleaned.is_empty() {
        println!("nothing to remove");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_such_as_a_missed_target_is_a_failure() {
        assert_eq!(exit_code(&Ok(())), ExitCode::SUCCESS);
        assert_eq!(exit_code(&Err(anyhow::anyhow!("a target is missed"))), ExitCode::FAILURE);
    }

    #[test]
    fn the_bench_measures_chosen_parts() {
        let parse = |parts| Cli::try_parse_from(["skep-sim", "bench", "--only", parts]);
        assert!(parse("boot,idle,departures").is_ok());
        assert!(parse("script,leave").is_ok() && parse("notice").is_ok());
        assert!(parse("everything").is_err());
    }
}
