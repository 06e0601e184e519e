//! Reads the metrics page of a skep.

use serde::Serialize;

/// The longest poll of a duty of the leader.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    pub(super) duty: String,
    pub(super) seconds: f64,
}

/// Returns the value of a metric without labels other than the cluster.
pub(super) fn value(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

pub(super) fn longest_round(page: &str) -> Option<Round> {
    let rounds = page.lines().filter_map(|line| {
        let (labels, value) =
            line.strip_prefix("skep_duty_longest_poll_seconds")?.rsplit_once(' ')?;
        let (_, duty) = labels.split_once("duty=\"")?;
        let duty = duty.split('"').next()?.to_owned();
        Some(Round { duty, seconds: value.parse().ok()? })
    });
    rounds.max_by(|a, b| a.seconds.total_cmp(&b.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_with_and_without_a_cluster() {
        let page = "# TYPE skep_in_trouble gauge\nskep_in_trouble{cluster=\"scale\"} 1\n\
                    skep_duty_longest_poll_seconds{duty=\"labels\",cluster=\"scale\"} 0.25\n\
                    skep_duty_longest_poll_seconds{duty=\"departures\"} 1.5\n";
        assert_eq!(value(page, "skep_in_trouble"), Some(1.0));
        let round = longest_round(page).unwrap();
        assert_eq!((round.duty.as_str(), round.seconds), ("departures", 1.5));
        assert!(longest_round("").is_none());
    }
}
