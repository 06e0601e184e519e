//! Tests the memory between two polls: for how long a node has looked lifeless, and when Auto Scaling is asked again.

use super::*;

#[test]
fn only_who_stays_down_is_suspected() {
    let start = Instant::now();
    let mut memory = Memory::default();
    let mut look = |seconds: u64, states: [&str; 3]| -> Vec<u64> {
        let nodes: Vec<NodeView> =
            ["a", "b", "c"].iter().zip(states).map(|(id, state)| node(id, state, 1)).collect();
        let so_long = memory.lifeless_for(&nodes, start + Duration::from_secs(seconds));
        ["a", "b", "c"].map(|id| so_long.get(id).map_or(99, Duration::as_secs)).to_vec()
    };
    assert_eq!(look(0, ["down", "unknown", "down"]), [0, 99, 0]);
    assert_eq!(look(10, ["down", "unknown", "ready"]), [10, 99, 99]);
    assert_eq!(look(20, ["down", "unknown", "down"]), [20, 99, 0], "c was back meanwhile");
    assert_eq!(look(40, ["ready", "disconnected", "down"]), [99, 99, 20]);
}

#[test]
fn a_large_fleet_is_asked_about_less_often() {
    let now = Instant::now();
    let is_due = |ids: usize, is_leader: bool, seconds: u64| {
        let surveyed_at = Some((now, ids));
        let memory = Memory { surveyed_at, ..Memory::default() };
        memory.is_survey_due(is_leader, now + Duration::from_secs(seconds))
    };
    assert!(Memory::default().is_survey_due(true, now));
    assert!(!is_due(100, true, 59) && is_due(100, true, 60));
    assert!(!is_due(1000, true, 83) && is_due(1000, true, 84));
    assert!(!is_due(5, false, 239) && is_due(5, false, 240));
}
