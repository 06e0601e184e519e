//! Tests of the command line: flags, exit codes, help.

use clap::CommandFactory;

use super::*;
use crate::config::KEYS;

fn inputs(words: &[&str]) -> Inputs {
    Cli::try_parse_from([&["skep"], words].concat()).unwrap().settings.into_inputs()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn flags_stand_before_or_after_the_command_and_keep_their_order() {
    let flag = |flag, key: &str, value: &str| Flag { flag, key: key.into(), value: value.into() };
    let given = inputs(&[
        "--set=boot.deadline=5m",
        "--role=worker",
        "run",
        "--cluster=prod",
        "--table=t",
        "--region=eu-west-1",
        "--log-level=skep::lifecycle::boot=debug",
        "--log-format=json",
        "--config-dir=/srv/skep",
    ]);
    assert_eq!(given.directory, Some("/srv/skep".into()));
    assert_eq!(
        given.flags,
        [
            flag("--cluster", "cluster", "prod"),
            flag("--role", "role", "worker"),
            flag("--table", "table", "t"),
            flag("--region", "region", "eu-west-1"),
            flag("--log-level", "log.level", "skep::lifecycle::boot=debug"),
            flag("--log-format", "log.format", "json"),
            flag("--set", "boot.deadline", "5m"),
        ]
    );
    assert!(given.flags.iter().all(|flag| KEYS.iter().any(|key| key.name == flag.key)));
}

#[test]
fn a_setting_needs_a_value_and_a_deadline_a_unit() {
    assert!(Cli::try_parse_from(["skep", "run", "--set", "boot.deadline"]).is_err());
    assert!(Cli::try_parse_from(["skep", "leave", "--deadline", "5"]).is_err());
    assert!(Cli::try_parse_from(["skep", "leave", "--deadline", "5m"]).is_ok());
    assert!(Cli::try_parse_from(["skep", "leave", "--terminate"]).is_ok());
    let unseen = Cli::try_parse_from(["skep", "leave", "--terminate", "--no-wait"]);
    assert!(unseen.is_err(), "nobody would power the machine off");
}

/// Runs a command with a mistake in the configuration, on a host where no skep runs.
fn with_a_mistake(words: &[&str]) -> anyhow::Result<ExitCode> {
    let directory = tempfile::TempDir::new().unwrap();
    let toml = format!("runtime_dir = '{}'\n[boot]\ndeadlin = '5m'\n", directory.path().display());
    std::fs::write(directory.path().join("skep.toml"), toml).unwrap();
    let config_dir = format!("--config-dir={}", directory.path().display());
    Cli::try_parse_from([&["skep", &config_dir], words].concat()).unwrap().dispatch()
}

#[test]
fn a_mistake_in_the_configuration_keeps_nobody_from_the_running_skep() {
    for words in [&["status"][..], &["leave"], &["rotate-tokens"], &["recover"]] {
        let error = with_a_mistake(words).unwrap_err();
        let asked = error.downcast_ref::<ClientError>();
        assert!(matches!(asked, Some(ClientError::NotRunning { .. })), "{words:?}: {error:?}");
    }
    let state_dir = tempfile::TempDir::new().unwrap();
    let state_dir = format!("state_dir={}", state_dir.path().display());
    let exit = |words: &[&str]| format!("{:?}", with_a_mistake(words).unwrap());
    let is = |code: u8| format!("{:?}", ExitCode::from(code));
    assert_eq!(exit(&["events", "--set", &state_dir]), is(0));
    assert_eq!(exit(&["config"]), is(EX_CONFIG));
    assert_eq!(exit(&["doctor"]), is(EX_CONFIG));
    assert_eq!(exit(&["completions", "bash"]), is(0), "it needs no settings");
    let typed = ["status", "--set", "boot.deadlin=5m"];
    assert_eq!(exit(&typed), is(EX_CONFIG), "a mistake in the flags stops the command");
}

#[test]
fn the_help_offers_what_is_taken() {
    let command = Cli::command();
    let help = |flag: &str| {
        let argument = command.get_arguments().find(|it| it.get_long() == Some(flag)).unwrap();
        argument.get_help().unwrap().to_string()
    };
    for (flag, between) in [("log-format", ", "), ("log-level", ", "), ("role", " or ")] {
        let offered = help(flag);
        // `; or target=level` describes a form and is not a value.
        let words = offered.split(';').next().unwrap().split(between);
        for word in words {
            let flag = format!("--{flag}={word}");
            let mut inputs = inputs(&["config", &flag]);
            (inputs.directory, inputs.variables) = (None, vec![]);
            assert!(load(&inputs).is_ok(), "{flag} is offered and refused");
        }
    }
}

#[test]
fn the_exit_code_tells_what_kind_of_error_it_was() {
    let mistake = Mistake { origin: Some(Origin::Default), key: None, problem: "x".into() };
    let path = || "/run/skep/skep.sock".into();
    assert_eq!(exit_code(&Mistakes(vec![mistake]).into()), 78);
    assert_eq!(exit_code(&ClientError::NotRunning { path: path() }.into()), 69);
    assert_eq!(exit_code(&ClientError::NotPermitted { path: path() }.into()), 1);
    assert_eq!(exit_code(&std::io::Error::other("x").into()), 1);
}

#[test]
fn the_help_and_the_page_name_every_exit_code() {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"));
    let help = Cli::command().render_long_help().to_string();
    for code in [0, 1, 2, EXIT_NOTHING_DONE, 4, EX_UNAVAILABLE, EX_CONFIG] {
        let named = help.lines().any(|line| line.trim_start().starts_with(&format!("{code} ")));
        assert!(named, "{code} is not in:\n{help}");
        assert!(page.contains(&format!("\n| {code} | ")), "{code} is not in the page");
    }
}
