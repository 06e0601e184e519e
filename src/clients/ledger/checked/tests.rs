use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::table::{Row, decode, sort_out};
use super::*;
use crate::clients::ledger::fuzz;
use crate::clients::ledger::{
    Attempt, Charter, DemotionRequest, DepartureRow, Lease, Member, RegistryAuth,
};

/// Whether an accepted row can be written again and then reads as the same.
fn is_stable<T: Serialize + DeserializeOwned + Checked + PartialEq>(row: Row) -> bool {
    let Ok(read) = decode::<T>(row) else { return true };
    let again = super::super::table::encode("item", &read).map(decode::<T>);
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
            "turn" => is_stable::<Lease>(row),
            "rejoin" => is_stable::<DemotionRequest>(row),
            _ => is_stable::<RegistryAuth>(row),
        };
        prop_assert!(is_stable);
    }

    /// A refused row does not affect the others.
    #[test]
    fn the_other_rows_are_read((_, odd) in fuzz::any_row(), right in right_row()) {
        let key = || "right".to_owned();
        let rows = vec![right.clone(), odd, right];
        let (read, refused) = sort_out(rows, |_: &Named| key());
        prop_assert_eq!((read.len(), refused.len()), (2, 1), "the odd row is under another key");
    }
}

/// A row that is readable with any content.
#[derive(Debug, Serialize, Deserialize)]
struct Named {}

impl Checked for Named {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

fn right_row() -> impl Strategy<Value = Row> {
    Just(Row::from([("item".to_owned(), AttributeValue::S("right".to_owned()))]))
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
    assert!(generation(HIGHEST_GENERATION).is_ok() && generation(HIGHEST_GENERATION + 1).is_err());
}
