//! The table of the fleet: every column in a pipe; on a terminal those that fit, and the nodes that need attention first.

use time::OffsetDateTime;

use crate::cli::draw::{ELLIPSIS, fit};
use crate::cli::view::span;
use crate::common::report::{FleetMember, FleetView, ViewSource};

/// Stands for an unknown value, and for nothing.
const NONE: &str = "-";
/// Stands for an unknown number, which is not 0.
const UNKNOWN_NUMBER: &str = "?";
/// Docker's state of a node that the managers have not received a heartbeat from.
const UNHEARD_OF: &str = "unknown";
/// State of a node that is well, by the ledger and by Docker.
const READY: &str = "ready";
const GAP: &str = "  ";
/// Number of nodes that a terminal shows: more cannot be looked through.
pub const MOST: usize = 40;

const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const RED: u8 = 31;

/// How the status is shown.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Columns of the terminal; `None` for all of the text, such as in a pipe.
    pub width: Option<usize>,
    /// Number of nodes that are shown.
    pub rows: usize,
    pub colour: bool,
}

impl Look {
    /// Everything, uncut.
    pub fn whole(colour: bool) -> Self {
        Self { width: None, rows: usize::MAX, colour }
    }
}

/// What a column needs on a terminal.
struct Column {
    heading: &'static str,
    /// The column with the largest rank is left out first; 0 stays.
    rank: u8,
    /// As long as a column with a rank is shown, this one has its widest cell, or so many characters.
    comfortable: usize,
    /// It is not cut to fewer characters.
    least: usize,
}

impl Column {
    /// A column that is never cut.
    const fn rigid(heading: &'static str, rank: u8) -> Self {
        Self { heading, rank, comfortable: usize::MAX, least: usize::MAX }
    }
}

const NODE: usize = 0;
const LEDGER: usize = 5;
const DOCKER: usize = 6;
const DEPARTURE: usize = 8;
const COLUMNS: [Column; 10] = [
    Column { heading: "NODE", rank: 0, comfortable: 27, least: 12 },
    Column::rigid("ROLE", 0),
    Column::rigid("ADDRESS", 5),
    Column::rigid("ZONE", 4),
    Column::rigid("GEN", 7),
    Column::rigid("LEDGER", 3),
    Column { heading: "DOCKER", rank: 0, comfortable: 14, least: 6 },
    Column::rigid("TASKS", 1),
    Column { heading: "DEPARTURE", rank: 2, comfortable: 20, least: 9 },
    Column::rigid("SEEN", 6),
];

type Row = [String; COLUMNS.len()];

/// The table and what it leaves out.
pub struct Table<'a> {
    /// Lines, each with its end.
    pub text: String,
    /// The shown nodes, and for each whether its departure is cut or left out.
    pub shown: Vec<(&'a FleetMember, bool)>,
    /// Counts the nodes that are not shown.
    pub more: Option<String>,
}

/// Draws the table; `own` is this node's id, which has a star.
pub fn table<'a>(
    fleet: &'a FleetView,
    own: Option<&str>,
    now: OffsetDateTime,
    look: Look,
) -> Table<'a> {
    let (members, more) = choose(fleet, look.rows);
    let rows = |is_short| -> Vec<Row> {
        let rows = members.iter().map(|member| row(member, own, now, is_short));
        std::iter::once(COLUMNS.map(|column| column.heading.to_owned())).chain(rows).collect()
    };
    let mut cells = rows(false);
    let mut columns = natural(&cells);
    if let Some(width) = look.width
        && total(&columns) > width
    {
        cells = rows(true);
        columns = fitting(natural(&cells), width);
    }
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        let member = number.checked_sub(1).map(|number| members[number]);
        let line = line(row, member, &columns, look.colour);
        text.push_str(&look.width.map_or(line.clone(), |width| fit(&line, width)));
        text.push('\n');
    }
    let room = columns.iter().find(|(column, _)| *column == DEPARTURE).map_or(0, |it| it.1);
    let is_cut = |row: &Row| row[DEPARTURE] != NONE && row[DEPARTURE].chars().count() > room;
    let shown = members.iter().zip(&cells[1..]).map(|(member, row)| (*member, is_cut(row)));
    Table { text, shown: shown.collect(), more }
}

/// Returns the nodes that are shown, and the text about the others. If not all can be shown, those that need attention
/// come first.
fn choose(fleet: &FleetView, most: usize) -> (Vec<&FleetMember>, Option<String>) {
    let mut members: Vec<&FleetMember> = fleet.members.iter().collect();
    if members.len() <= most {
        return (members, None);
    }
    members.sort_by_key(|member| !needs_attention(member, fleet.source));
    let hidden = members.split_off(most);
    let ill = hidden.iter().filter(|member| needs_attention(member, fleet.source)).count();
    let which = match ill {
        0 => " that are ready".to_owned(),
        ill => format!(", of which {ill} need attention"),
    };
    let more = format!("{ELLIPSIS} and {} more{which}; --wide shows all", hidden.len());
    (members, Some(more))
}

/// Whether a node is anything else than an active one that is ready and stays. Without the ledger's answer, Docker's
/// counts.
fn needs_attention(member: &FleetMember, source: ViewSource) -> bool {
    let is = |state: &Option<String>, wanted: &str| state.as_deref() == Some(wanted);
    let has_rows = matches!(source, ViewSource::LedgerAndDocker | ViewSource::Ledger);
    let is_well = is(&member.docker_state, READY)
        && is(&member.docker_availability, "active")
        && (is(&member.state, READY) || !has_rows);
    let has_words = [&member.departure, &member.scheduling_hold, &member.verdict];
    !is_well || has_words.iter().any(|words| words.is_some())
}

/// Returns all columns, each with the width of its widest cell.
fn natural(rows: &[Row]) -> Vec<(usize, usize)> {
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    (0..COLUMNS.len()).map(|column| (column, widest(column).unwrap_or(0))).collect()
}

fn total(columns: &[(usize, usize)]) -> usize {
    let gaps = GAP.len() * columns.len().saturating_sub(1);
    columns.iter().map(|(_, width)| width).sum::<usize>() + gaps
}

/// Leaves columns out, and cuts others, until they fit. The least that is shown has about 35 characters.
fn fitting(mut columns: Vec<(usize, usize)>, width: usize) -> Vec<(usize, usize)> {
    let comfortable = |columns: &[(usize, usize)]| {
        let cut = columns.iter().map(|(at, width)| (*at, *width.min(&COLUMNS[*at].comfortable)));
        total(&cut.collect::<Vec<_>>())
    };
    while comfortable(&columns) > width {
        let ranks = columns.iter().map(|(column, _)| COLUMNS[*column].rank);
        let Some(rank) = ranks.max().filter(|rank| *rank > 0) else { break };
        columns.retain(|(column, _)| COLUMNS[*column].rank != rank);
    }
    for flexible in [DEPARTURE, DOCKER, NODE] {
        let excess = total(&columns).saturating_sub(width);
        if let Some((_, own)) = columns.iter_mut().find(|(column, _)| *column == flexible) {
            *own = own.saturating_sub(excess).max((*own).min(COLUMNS[flexible].least));
        }
    }
    columns
}

fn line(
    row: &Row,
    member: Option<&FleetMember>,
    columns: &[(usize, usize)],
    colour: bool,
) -> String {
    let mut line = String::new();
    for (nth, (column, width)) in columns.iter().enumerate() {
        let text = fit(&row[*column], *width);
        let blanks = width.saturating_sub(text.chars().count());
        let code = member.filter(|_| colour).and_then(|member| colour_of(*column, member));
        line.push_str(&code.map_or(text.clone(), |code| format!("\x1b[{code}m{text}\x1b[0m")));
        if nth + 1 < columns.len() {
            line.push_str(&" ".repeat(blanks));
            line.push_str(GAP);
        }
    }
    line
}

/// Colours repeat what the words of a cell say.
fn colour_of(column: usize, member: &FleetMember) -> Option<u8> {
    match column {
        LEDGER => (ledger(member)? != READY).then_some(YELLOW),
        DOCKER => Some(match member.docker_state.as_deref()? {
            READY if member.docker_availability.as_deref() == Some("active") => GREEN,
            READY => YELLOW,
            _ => RED,
        }),
        DEPARTURE => (member.leaving.is_some() || stays(member).is_some()).then_some(YELLOW),
        _ => None,
    }
}

/// Returns the instance id, or else Docker's id.
pub fn name(member: &FleetMember) -> String {
    let known = member.instance_id.as_ref().or(member.node_id.as_ref());
    known.cloned().unwrap_or_else(|| NONE.into())
}

/// Returns the words of the column DEPARTURE.
pub fn departure(member: &FleetMember) -> Option<String> {
    member.departure.clone().or_else(|| stays(member))
}

pub fn row(member: &FleetMember, own: Option<&str>, now: OffsetDateTime, is_short: bool) -> Row {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.into());
    let mut name = name(member);
    if own.is_some() && member.node_id.as_deref() == own {
        name.push_str(" *");
    }
    let role = match (member.leader, is_short) {
        (true, true) => "leader".to_owned(),
        (true, false) => format!("{} (leader)", member.role),
        (false, _) => member.role.to_string(),
    };
    // `active` is the usual case and not worth showing.
    let away = member.docker_availability.as_ref().filter(|availability| *availability != "active");
    let docker = member.docker_state.clone().into_iter().chain(away.cloned());
    let docker = docker.collect::<Vec<_>>().join(", ");
    [
        name,
        role,
        or_none(member.address.map(|address| address.to_string())),
        or_none(member.zone.clone()),
        or_none(member.generation.map(|generation| generation.to_string())),
        or_none(ledger(member).map(str::to_owned)),
        if docker.is_empty() { NONE.into() } else { docker },
        member.tasks.map_or_else(|| UNKNOWN_NUMBER.into(), |tasks| tasks.to_string()),
        or_none(departure(member)),
        or_none(member.updated_at.map(|at| format!("{} ago", span(now - at)))),
    ]
}

/// Returns the state in the ledger, or `unknown` if Docker reports that no manager receives the node's heartbeats:
/// then the row is outdated.
fn ledger(member: &FleetMember) -> Option<&str> {
    let docker = member.docker_state.as_deref().filter(|state| *state == UNHEARD_OF);
    let state = member.state.as_deref();
    docker.filter(|_| state == Some(READY)).or(state)
}

/// `standby: stays`
fn stays(member: &FleetMember) -> Option<String> {
    member.scheduling_hold.as_ref().map(|scheduling_hold| format!("{scheduling_hold}: stays"))
}
