use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::table::{Row, decode};
use super::*;
use crate::clients::ledger::fuzz;
use crate::clients::ledger::{
    Attempt, Charter, DemotionRequest, DepartureRow, Lease, Member, RegistryAuth, ServicesWorse,
};

/// Whether an accepted row can be written again and then reads as the same.
fn is_stable<T: Serialize + DeserializeOwned + Record + PartialEq>(row: Row) -> bool {
    let Ok(read) = decode::<T>(row) else { return true };
    let item = read.item().unwrap_or_else(|| "item".to_owned());
    let again = super::super::table::encode(&item, &read).map(|mut row| {
        row.insert("item".to_owned(), AttributeValue::S(item));
        decode::<T>(row)
    });
    matches!(again, Ok(Ok(again)) if again == read)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_content_of_a_row_panics_and_what_is_read_can_be_written((kind, row) in fuzz::any_row()) {
        let is_stable = match kind {
            "charter" => is_stable::<Charter>(row),
            "member" => is_stable::<Member>(row),
            "departure" => is_stable::<DepartureRow>(row),
            "attempt" => is_stable::<Attempt>(row),
            "lease" => is_stable::<Lease>(row),
            "demotion-request" => is_stable::<DemotionRequest>(row),
            "services" => is_stable::<ServicesWorse>(row),
            _ => is_stable::<RegistryAuth>(row),
        };
        prop_assert!(is_stable);
    }
}

#[test]
fn an_id_is_one_part_of_a_path() {
    for id in ["n1", "node-1", "8xv7cdtxuq3ggbvsyiykx7gkl", &"x".repeat(64)] {
        assert_eq!(docker_id("node_id", id), Ok(()), "{id}");
    }
    let long = "x".repeat(65);
    for id in ["", "..", ".", "../services/web", "a/b", "a b", "a?b", "a%2fb", "ü", "\0", &long] {
        let why = docker_id("node_id", id).unwrap_err();
        assert!(why.contains("node_id is not a Docker id") && why.len() < 100, "{why}");
        assert!(!why.contains('\0'), "{why}");
    }
    assert_eq!(instance("founder", "i-01234567890123456"), Ok(()));
    for id in ["", "i-", "0abc", "i-../x", "i-012345678901234567"] {
        assert!(instance("founder", id).is_err(), "{id}");
    }
    assert!(name("group", "").is_err() && name("group", "web servers / 1").is_ok());
    assert!(name("group", "a\u{1b}b").is_err() && name("group", &"x".repeat(256)).is_err());
}

#[test]
fn times_and_generations_leave_room_to_calculate() {
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    for (seconds, is_right) in [
        (-377_705_116_800, false),
        (-1, false),
        (0, true),
        (1_795_860_000, true),
        (32_503_679_999, true),
        (32_503_680_000, false),
        (253_402_300_799, false),
    ] {
        assert_eq!(moment("at", at(seconds)).is_ok(), is_right, "{seconds}");
    }
    let now = OffsetDateTime::now_utc();
    let ahead = |hours| near("at", now + time::Duration::hours(hours));
    assert!(near("at", at(0)).is_ok() && ahead(48).is_ok());
    assert!(ahead(50).unwrap_err().contains("at is more than 49 hours ahead"));
    assert!(generation(HIGHEST_GENERATION).is_ok() && generation(HIGHEST_GENERATION + 1).is_err());
}

#[test]
fn texts_and_labels_are_those_that_skep_itself_would_write() {
    assert!(
        text("zone", "eu-central-1a", 64).is_ok() && text("zone", &"x".repeat(65), 64).is_err()
    );
    let why = text("zone", "a\u{1b}[2Jb", 64).unwrap_err();
    assert!(why.contains("zone") && !why.contains('\u{1b}'), "{why}");
    let of = |key: &str| requested_labels("labels", &[(key.to_owned(), String::new())].into());
    assert_eq!(of("disk"), Ok(()));
    for key in ["skep.instance", "skep.labels", "com.docker.x", "a b", ""] {
        assert!(of(key).unwrap_err().starts_with("labels: "), "{key}");
    }
    let many: Labels = (0..51).map(|n| (format!("key-{n}"), String::new())).collect();
    assert!(requested_labels("labels", &many).is_err());
}
