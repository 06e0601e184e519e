//! `skep bundle`: writes an archive for a bug report, without secrets.
//!
//! Guarantees: no file is overwritten; only its owner can read the archive; every part passes through the
//! [`Redactor`] before it is written; a part that cannot be collected in time is an error in the archive's
//! `manifest.json`, and the others are written. No skep has to run on this host.

mod archive;
mod collect;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::{draw, events, print};
use crate::common::redact::Redactor;
use crate::config::{Loaded, Mistakes, Settings};

/// Layout of the archive; the number grows when a part is renamed or removed.
const FORMAT: u64 = 1;
const MANIFEST: &str = "manifest.json";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Write to this file [default: skep-bundle-<instance>-<time>.tar.gz]; it must not exist
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take events and log lines since a time such as 2026-11-02T12:00:00Z, or since an age such as 2h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = events::since)]
    since: OffsetDateTime,
}

/// The settings in force with their sources, or the mistakes in them.
pub type Configuration<'a> = Result<&'a Loaded, &'a Mistakes>;

/// A part of the archive, or why it is missing.
pub struct Part {
    name: &'static str,
    content: Result<Content, String>,
}

/// The content of a part, before secrets are removed.
pub enum Content {
    /// One JSON value.
    Json(Value),
    /// A JSON value in each line.
    Lines(Vec<Value>),
    /// Lines of text.
    Text(String),
}

/// A file of the archive.
type Sealed = (String, Vec<u8>);

/// Collects the parts, and writes the archive.
///
/// # Errors
/// When the file exists or cannot be written, or standard output cannot be written.
pub async fn write(
    arguments: &Arguments,
    settings: &Settings,
    configuration: Configuration<'_>,
) -> anyhow::Result<ExitCode> {
    if let Some(path) = &arguments.output {
        refuse_existing(path)?;
    }
    if draw::terminal().is_some() {
        eprintln!("Collecting; this takes up to a minute.");
    }
    let redactor = Redactor::new(collect::known_secrets(settings))?;
    let now = OffsetDateTime::now_utc();
    let instance = collect::instance_id().await;
    let parts = collect::all(settings, configuration, arguments.since).await;
    let path = match &arguments.output {
        Some(path) => path.clone(),
        None => default_name(instance.as_deref(), now).into(),
    };
    refuse_existing(&path)?;
    let about = json!({
        "format": FORMAT,
        "skep": env!("CARGO_PKG_VERSION"),
        "instance": instance,
        "written_at": now.format(&Rfc3339)?,
        "since": arguments.since.format(&Rfc3339)?,
    });
    let files = seal(about, &parts, &redactor)?;
    let size = archive::write(&path, &files, now)
        .with_context(|| format!("cannot write {}", path.display()))?;
    print::to_stdout(&text(&path, size, &parts, &files))?;
    Ok(ExitCode::SUCCESS)
}

fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    // A link to a missing file counts as existing, too: something else has put it there.
    if path.symlink_metadata().is_ok() {
        bail!("{} exists already; name another file with --output", path.display());
    }
    Ok(())
}

fn default_name(instance: Option<&str>, now: OffsetDateTime) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = now.format(format).unwrap_or_default();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let instance: String = instance.unwrap_or("unknown").chars().filter(is_plain).collect();
    format!("skep-bundle-{instance}-{time}.tar.gz")
}

/// Returns the files of the archive: the parts without secrets, and a manifest that names each part.
fn seal(mut about: Value, parts: &[Part], redactor: &Redactor) -> anyhow::Result<Vec<Sealed>> {
    let (mut files, mut listed) = (Vec::new(), Map::new());
    for Part { name, content } in parts {
        let entry = match content {
            Ok(content) => {
                let bytes = content.without_secrets(redactor).into_bytes();
                let entry = json!({ "bytes": bytes.len() });
                files.push(((*name).to_owned(), bytes));
                entry
            }
            Err(why) => json!({ "error": redactor.text(why) }),
        };
        listed.insert((*name).to_owned(), entry);
    }
    about["parts"] = listed.into();
    files.insert(0, (MANIFEST.to_owned(), format!("{about:#}\n").into_bytes()));
    Ok(files)
}

impl Content {
    fn without_secrets(&self, redactor: &Redactor) -> String {
        match self {
            Self::Json(value) => format!("{:#}\n", redactor.json(value)),
            Self::Lines(values) => {
                values.iter().map(|value| format!("{}\n", redactor.json(value))).collect()
            }
            Self::Text(text) => redactor.text(text),
        }
    }
}

/// Describes what was written, and what is missing.
fn text(path: &Path, size: u64, parts: &[Part], files: &[Sealed]) -> String {
    let kib = |bytes: usize| format!("{:.1} KiB", bytes as f64 / 1024.0);
    let rows: Vec<[String; 2]> = parts
        .iter()
        .map(|part| {
            let bytes = files.iter().find(|(name, _)| name == part.name).map(|it| it.1.len());
            let what = match (&part.content, bytes) {
                (Err(why), _) => format!("missing: {}", why.lines().next().unwrap_or_default()),
                (Ok(_), bytes) => kib(bytes.unwrap_or_default()),
            };
            [format!("  {}", part.name), what]
        })
        .collect();
    let path = path.display();
    format!(
        "Wrote {path} ({:.1} KiB):\n{}\n\
         Join tokens, unlock keys, keys of AWS, passwords in URLs and addresses of webhooks were replaced by ***.\n\
         Ids, addresses, names and labels are in it, and so is a secret that skep cannot recognize. Look through it\n\
         before you send it: tar -xzOf {path} | less\n",
        size as f64 / 1024.0,
        print::table(&rows),
    )
}

#[cfg(test)]
mod tests;
