//! Writes the log to standard error: a readable line per event, JSON, or journal entries with separate fields.
//!
//! If standard error leads to the journal, a line begins with its priority instead of the time. skep uses the journal's
//! own protocol, which keeps fields separate, only if it is configured: its entries never reach the console
//! (`StandardError=journal+console`), where an operator searches for the reason why an instance did not start.
//!
//! skep logs at the level in the settings, every other crate at `warn` and above.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::stat::fstat;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::{Event, Level, Span, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt;

use crate::common::printable::on_one_line;
use crate::common::state::Phase;
use crate::config::{Log, LogFormat};
use crate::telemetry::event_log::{self, Recorder};

/// Rooms with several parts; a log line names the part.
const ROOMS_OF_PARTS: [&str; 6] = ["api", "clients", "common", "host", "lifecycle", "telemetry"];
/// Name of the span that [`phase_span`] returns.
const PHASE_SPAN: &str = "phase";
/// Prefix of every field in the journal: `journalctl SKEP_PHASE=ready`.
const JOURNAL_FIELD_PREFIX: &str = "SKEP";

/// Starts the log, and the event log below `state_dir`. Must be called once. If the journal is configured and does not
/// answer, the log is text.
pub fn start(log: &Log, state_dir: &Path) {
    let lines = || {
        let begin = if stderr_is_the_journal() { Begin::Priority } else { Begin::Time };
        text(begin, io::stderr, wants_colour(&io::stderr()))
    };
    let (layer, problem) = match log.format {
        LogFormat::Text => (lines(), None),
        LogFormat::Json => (json(io::stderr), None),
        LogFormat::Journal => match tracing_journald::layer() {
            Ok(layer) => (layer.with_field_prefix(Some(JOURNAL_FIELD_PREFIX.into())).boxed(), None),
            Err(problem) => (lines(), Some(problem)),
        },
    };
    let (recorder, unwritable) = match event_log::recorder(state_dir) {
        Ok(recorder) => (Some(recorder.with_filter(Recorder::targets())), None),
        Err(error) => (None, Some(error)),
    };
    let shown = layer.with_filter(log.level.targets());
    tracing_subscriber::registry().with(shown).with(recorder).init();
    if let Some(error) = unwritable {
        tracing::warn!("cannot write the event log in {}: {error}", state_dir.display());
    }
    if let Some(problem) = problem {
        tracing::warn!(%problem, "the journal does not answer; logging as text");
    }
}

/// Whether to colour the output to `stream`: only on a terminal that has colours, and not if `NO_COLOR` is set to a
/// value (<https://no-color.org>).
pub fn wants_colour(stream: &impl IsTerminal) -> bool {
    let variable = |name: &str| std::env::var_os(name);
    stream.is_terminal() && has_colour(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
}

fn has_colour(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

type Boxed<S> = Box<dyn Layer<S> + Send + Sync>;

fn text<S, W>(begin: Begin, writer: W, colour: bool) -> Boxed<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .event_format(Line { begin })
        .with_ansi(colour)
        .with_writer(writer)
        .boxed()
}

fn json<S, W>(writer: W) -> Boxed<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_writer(writer)
        .boxed()
}

/// Whether standard error leads to the journal. systemd sets `JOURNAL_STREAM` to the device and inode of the stream
/// (systemd.exec(5)); child processes inherit it, so skep compares it with the present standard error.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stat = fstat(io::stderr().as_fd());
    stat.is_ok_and(|stat| stream.is_some_and(|s| s == format!("{}:{}", stat.st_dev, stat.st_ino)))
}

/// Beginning of a line of text.
#[derive(Clone, Copy)]
enum Begin {
    /// `23:08:01.123 INFO  `, in UTC.
    Time,
    /// `<6>`: the priority, in the format of sd-daemon(3). The journal adds the time.
    Priority,
}

/// Formats an event as one line: `23:08:01.123 INFO  boot: joined the swarm generation=3`.
struct Line {
    begin: Begin,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        const TIME: &[BorrowedFormatItem<'_>] =
            format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
        let time = OffsetDateTime::now_utc().format(TIME).map_err(|_| fmt::Error)?;
        let (colour, plain) = match *event.metadata().level() {
            _ if !writer.has_ansi_escapes() => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[32m", "\x1b[0m"),
            Level::DEBUG | Level::TRACE => ("\x1b[2m", "\x1b[0m"),
        };
        let level = event.metadata().level();
        match self.begin {
            Begin::Time => write!(writer, "{time} {colour}{level:<5}{plain} ")?,
            Begin::Priority => write!(writer, "<{}>", priority(*level))?,
        }
        write!(writer, "{}: ", component(event.metadata().target()))?;
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        writer.write_str(&on_one_line(&fields))?;
        write_context(context, &mut writer)?;
        writer.write_char('\n')
    }
}

/// Writes the fields of the spans around an event, such as ` duty=labels`. The phase is left out: the component shows
/// it.
fn write_context<S, N>(context: &FmtContext<'_, S, N>, writer: &mut Writer<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let spans = context.event_scope().into_iter().flat_map(Scope::from_root);
    for span in spans.filter(|span| span.name() != PHASE_SPAN) {
        if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
            write!(writer, " {}", on_one_line(&fields.fields))?;
        }
    }
    Ok(())
}

/// Returns the span of a phase of this node's life, which every line that is logged in it has in JSON and in the
/// journal.
#[must_use]
pub fn phase_span(phase: Phase) -> Span {
    tracing::info_span!("phase", phase = phase.as_str())
}

/// Returns the priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Returns the part of skep that logs: `skep::manager::act` → `manager`, and in a room of several parts
/// `skep::lifecycle::boot::join` → `boot`. Other crates keep their name.
pub(crate) fn component(target: &str) -> &str {
    let mut path = target.split("::");
    let first = path.next().unwrap_or(target);
    match (first, path.next(), path.next()) {
        ("skep", Some(room), Some(part)) if ROOMS_OF_PARTS.contains(&room) => part,
        ("skep", Some(room), _) => room,
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::Registry;

    use super::*;

    #[test]
    fn colours_are_for_terminals_that_have_them() {
        let has = |no_color: Option<&str>, term: Option<&str>| {
            has_colour(no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(has(None, Some("xterm")) && has(None, None) && has(Some(""), Some("xterm")));
        assert!(!has(Some("1"), Some("xterm")) && !has(Some("0"), Some("xterm")));
        assert!(!has(None, Some("dumb")));
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the output of `say` through a layer.
    fn logged(layer: impl FnOnce(Written) -> Boxed<Registry>, say: impl FnOnce()) -> String {
        let written = Written::default();
        let subscriber = tracing_subscriber::registry().with(layer(written.clone()));
        tracing::subscriber::with_default(subscriber, say);
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    fn as_text(colour: bool, say: impl FnOnce()) -> String {
        logged(|written| text(Begin::Time, move || written.clone(), colour), say)
    }

    #[test]
    fn in_the_journal_a_line_begins_with_its_priority() {
        let text = logged(
            |written| text(Begin::Priority, move || written.clone(), false),
            || {
                tracing::error!(target: "skep::lifecycle::boot", "no table");
                tracing::info!(target: "skep::lifecycle::boot", "joined");
            },
        );
        assert_eq!(text, "<3>boot: no table\n<6>boot: joined\n");
    }

    #[test]
    fn a_line_tells_when_how_grave_who_and_what() {
        let line = as_text(false, || {
            tracing::info!(target: "skep::lifecycle::boot::join", generation = 3, "joined {}", "prod");
        });
        let (time, rest) = line.split_at(12);
        assert!(time.chars().enumerate().all(|(at, c)| match at {
            2 | 5 => c == ':',
            8 => c == '.',
            _ => c.is_ascii_digit(),
        }));
        assert_eq!(rest, " INFO  boot: joined prod generation=3\n");
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let line = as_text(false, || tracing::error!(answer = "a\nb", "first\nsecond"));
        assert_eq!(line.lines().count(), 1, "{line:?}");
        assert!(line.contains("first\\nsecond answer="), "{line:?}");
    }

    #[test]
    fn colour_is_only_where_it_is_asked_for() {
        assert!(!as_text(false, || tracing::warn!("x")).contains('\x1b'));
        assert!(as_text(true, || tracing::warn!("x")).contains("\x1b[33mWARN \x1b[0m"));
    }

    #[test]
    fn json_has_the_fields_at_the_top() {
        let line = logged(
            |written| json(move || written.clone()),
            || tracing::info!(target: "skep::lifecycle::boot", phase = "ready", "joined"),
        );
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["message"], "joined");
        assert_eq!(event["phase"], "ready");
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["target"], "skep::lifecycle::boot");
    }

    #[test]
    fn a_line_has_the_context_of_its_spans() {
        let say = || {
            let _phase = phase_span(Phase::Ready).entered();
            let _duty = tracing::info_span!("duty", duty = "labels").entered();
            tracing::warn!(target: "skep::manager::labels", node = "n1", "refused");
        };
        let text = logged(|written| text(Begin::Priority, move || written.clone(), false), say);
        assert_eq!(text, "<4>manager: refused node=\"n1\" duty=\"labels\"\n");
        let event: serde_json::Value =
            serde_json::from_str(&logged(|written| json(move || written.clone()), say)).unwrap();
        assert_eq!(event["spans"][0]["phase"], "ready");
        assert_eq!(event["spans"][1]["duty"], "labels");
    }

    #[test]
    fn other_crates_keep_their_name() {
        assert_eq!(component("skep"), "skep");
        assert_eq!(component("skep::lifecycle::leave::act"), "leave");
        assert_eq!(component("skep::lifecycle"), "lifecycle");
        assert_eq!(component("skep::manager::dead_nodes::decide"), "manager");
        assert_eq!(component("hyper_util::client::legacy"), "hyper_util");
    }
}
