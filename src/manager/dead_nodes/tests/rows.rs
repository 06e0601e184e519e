//! Tests rows of managers without a group: Auto Scaling's answer is no evidence about their instances.

use super::*;
use crate::clients::ledger::CharterPhase;

const DAYS: i64 = 3 * 24 * 3600;

/// Returns a charter of generation 2.
fn charter(swarm: &str, phase: CharterPhase, former: &[&str]) -> Charter {
    let row = serde_json::json!({
        "phase": "open", "generation": 2, "founder": "i-me", "lease_expires_at": 0,
        "swarm_id": swarm, "former": former,
    });
    Charter { phase, ..serde_json::from_value(row).unwrap() }
}

/// A row does not expire: where Auto Scaling cannot show that the instance is gone, Docker's list of the very swarm
/// that the row names shows at least that it is no member.
#[test]
fn a_row_without_a_group_goes_once_its_swarm_has_not_listed_it_for_days() {
    let of =
        |swarm: Option<&str>, row: Member| Member { swarm_id: swarm.map(str::to_owned), ..row };
    let mine = || member("i-me", "me", 1, 0);
    let days = |days: i64| days * 24 * 3600;
    let goes = |mine: Member, row: Member, nodes: Vec<NodeView>| {
        !World::new(nodes, vec![mine, row], Survey::default()).orphans().is_empty()
    };
    let lone = |age: i64| ungrouped(member("i-lone", "w1", 4, age));
    let ours = || of(Some("s1"), mine());
    assert!(goes(ours(), of(Some("s1"), lone(days(3))), vec![me()]));
    assert!(!goes(ours(), of(Some("s1"), lone(days(1))), vec![me()]));
    assert!(!goes(ours(), of(Some("s1"), lone(days(3))), vec![me(), node("w1", "down", 4)]));
    assert!(!goes(ours(), of(Some("s2"), lone(days(3))), vec![me()]), "of another swarm");
    assert!(!goes(ours(), of(None, lone(days(3))), vec![me()]), "its swarm is unknown");
    assert!(
        !goes(mine(), of(None, lone(days(3))), vec![me()]),
        "this manager's swarm is unknown, too"
    );
}

/// No list ever shows that such a node is gone: the charter records that its swarm was given up.
#[test]
fn a_row_without_a_group_of_a_swarm_that_was_given_up_goes_by_the_charter() {
    let mine = || Member { swarm_id: Some("s2".into()), ..member("i-me", "me", 1, 0) };
    let lone = |swarm: Option<&str>, generation, age| {
        let swarm_id = swarm.map(str::to_owned);
        Member { swarm_id, generation, ..ungrouped(member("i-lone", "w1", 4, age)) }
    };
    let open = || charter("s2", CharterPhase::Open, &["s0", "s1"]);
    let goes = |charter: Charter, mine: Member, row: Member| {
        let rows = vec![mine, row];
        let mut world = World::new(vec![me()], rows, Survey::default());
        let is_needed = needs_charter("me", &world.managers, NOW);
        world.charter = Some(charter).filter(|_| is_needed);
        !world.orphans().is_empty()
    };
    assert!(goes(open(), mine(), lone(Some("s1"), 1, DAYS)));
    assert!(goes(open(), mine(), lone(None, 1, DAYS)), "of this swarm or of an earlier one");
    assert!(goes(open(), mine(), lone(None, 2, DAYS)));
    assert!(!goes(open(), mine(), lone(None, 3, DAYS)), "of a later one");
    assert!(!goes(open(), mine(), lone(Some("s1"), 1, DAYS / 3)), "too young");
    assert!(!goes(open(), mine(), lone(Some("s3"), 3, DAYS)), "not given up");
    let elsewhere = charter("s3", CharterPhase::Open, &["s1", "s2"]);
    assert!(!goes(elsewhere, mine(), lone(Some("s1"), 1, DAYS)), "this list is not the cluster's");
    for phase in [CharterPhase::Founding, CharterPhase::Closed] {
        let not_open = charter("s2", phase, &["s1"]);
        assert!(!goes(not_open, mine(), lone(Some("s1"), 1, DAYS)), "{phase:?}");
    }
    let nameless = Member { swarm_id: None, ..mine() };
    assert!(
        !goes(open(), nameless, lone(Some("s1"), 1, DAYS)),
        "the swarm of this list is unknown"
    );
    let listed = vec![me(), node("w1", "down", 4)];
    let rows = vec![mine(), lone(Some("s1"), 1, DAYS)];
    let world = World { charter: Some(open()), ..World::new(listed, rows, Survey::default()) };
    assert!(world.orphans().is_empty(), "it is on the list");
}

/// One more read for each poll is worth it only for rows that nothing else explains.
#[test]
fn the_charter_is_read_only_for_old_rows_without_a_group_of_other_swarms() {
    let of = |swarm: &str, row: Member| Member { swarm_id: Some(swarm.into()), ..row };
    let needs =
        |row: Member| needs_charter("me", &[of("s2", member("i-me", "me", 1, 0)), row], NOW);
    assert!(needs(of("s1", ungrouped(member("i-lone", "w1", 4, DAYS)))));
    assert!(needs(ungrouped(member("i-lone", "w1", 4, DAYS))));
    assert!(!needs(of("s2", ungrouped(member("i-lone", "w1", 4, DAYS)))), "of this swarm");
    assert!(!needs(of("s1", ungrouped(member("i-lone", "w1", 4, 60)))), "young");
    assert!(
        !needs(of("s1", member("i-w1", "w1", 4, DAYS))),
        "Auto Scaling can show whether it is gone"
    );
}
