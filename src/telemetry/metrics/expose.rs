//! Writes the page `GET /metrics`: OpenMetrics 1.0, or the older text format for clients that accept only that.

use axum::http::{HeaderMap, header};
use prometheus_client::encoding::text;

use super::{Metrics, metrics};
use crate::common::state::NodeState;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns content type and text for a request with these headers.
#[must_use]
pub fn page(state: &NodeState, headers: &HeaderMap) -> (&'static str, String) {
    let page = open_metrics(metrics(), state);
    if wants_classic(headers) { (CLASSIC, classic(&page)) } else { (OPEN_METRICS, page) }
}

#[expect(clippy::expect_used, reason = "a string takes any text")]
pub(super) fn open_metrics(metrics: &Metrics, state: &NodeState) -> String {
    metrics.read_off(state);
    let mut page = String::new();
    let registry = metrics.registry(state.cluster.as_deref());
    text::encode(&mut page, &registry).expect("a string takes any text");
    page
}

/// Whether the client accepts only the older format. Prometheus requests OpenMetrics first.
fn wants_classic(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accepted: Vec<&str> = accepted.collect();
    let names = |kind: &str| accepted.iter().any(|value| value.contains(kind));
    names("text/plain") && !names("application/openmetrics-text")
}

/// Converts a page to the older format, which has no units, no end and no infos, and names a counter with its `_total`.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub(super) fn classic(page: &str) -> String {
    let mut types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: std::collections::BTreeMap<_, _> = types.by_ref().collect();
    let mut classic = String::with_capacity(page.len());
    for line in page.lines() {
        let described = line.strip_prefix("# ").and_then(|line| line.split_once(' '));
        let Some((what, rest)) = described else {
            if !line.starts_with('#') {
                classic.extend([line, "\n"]);
            }
            continue;
        };
        let Some((name, text)) = rest.split_once(' ').filter(|_| what != "UNIT") else { continue };
        let (suffix, kind) = match types.get(name) {
            Some(&"counter") => ("_total", "counter"),
            Some(&"info") => ("_info", "gauge"),
            Some(kind) => ("", *kind),
            None => ("", "untyped"),
        };
        let text = if what == "TYPE" { kind } else { text };
        classic.extend(["# ", what, " ", name, suffix, " ", text, "\n"]);
    }
    classic
}
