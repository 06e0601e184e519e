use super::*;
use crate::clients::aws::stub::Stub;

fn departure(key: &str, instance: &str, deadline: &str) -> String {
    format!(
        r#"{{"cluster": {{"S": "prod"}}, "item": {{"S": "departure#{key}"}}, "schema": {{"N": "2"}},
            "instance_id": {{"S": "{instance}"}}, "node_id": {{"S": "n1"}},
            "role": {{"S": "manager"}}, "reason": {{"S": "spot"}}, "state": {{"S": "left"}},
            "requested_at": {{"N": "1"}}, "deadline": {deadline}, "boot_id": {{"S": "b"}},
            "expires_at": {{"N": "3"}}}}"#
    )
}

#[tokio::test]
async fn a_row_of_another_layout_is_refused_with_the_steps() {
    let stub = Stub::start().await;
    let ledger = Ledger::example(&stub).await;
    let own = r#""schema": {"N": "2"},"#;
    let of_schema = |schema: &str| departure("i-1", "i-1", r#"{"N": "2"}"#).replace(own, schema);
    for (schema, says) in [
        (r#""schema": {"N": "3"},"#, "a newer skep (schema 3, this one supports 2)"),
        (r#""schema": {"N": "3"},"#, "upgrade skep on this node"),
        (r#""schema": {"N": "1"},"#, "an older skep (schema 1, this one supports 2)"),
        ("", "an older skep (schema 1, this one supports 2)"),
        ("", "stop skep on all nodes, delete all items of the cluster, and start the new skep"),
        (r#""schema": {"N": "one"},"#, "its schema is not a number"),
        (r#""schema": {"S": "1"},"#, "its schema is not a number"),
    ] {
        stub.answer(200, &format!(r#"{{"Item": {}}}"#, of_schema(schema)));
        let error = chain(&ledger.fetch_departure(Role::Manager, "i-1").await.unwrap_err());
        assert!(error.contains("departure#i-1") && error.contains(says), "{error}");
        stub.answer(200, &format!(r#"{{"Items": [{}], "Count": 1}}"#, of_schema(schema)));
        let all = ledger.survey_departures().await.unwrap();
        assert!(all.rows.is_empty());
        assert_eq!(all.unreadable.into_iter().collect::<Vec<_>>(), ["departure#i-1"]);
    }
    stub.answer(200, &format!(r#"{{"Item": {}}}"#, of_schema(own)));
    assert!(ledger.fetch_departure(Role::Manager, "i-1").await.unwrap().is_some());
}

#[test]
fn a_refusal_names_row_field_and_reason_and_shows_nothing_that_moves_a_cursor() {
    let of = |change: &dyn Fn(&mut Row)| {
        let row: serde_json::Value =
            serde_json::from_str(&departure("i-1", "i-1", r#"{"N": "2"}"#)).unwrap();
        let text = |it: &serde_json::Value| match (&it["S"], &it["N"]) {
            (serde_json::Value::String(text), _) => AttributeValue::S(text.clone()),
            (_, number) => AttributeValue::N(number.as_str().unwrap().to_owned()),
        };
        let attributes = row.as_object().unwrap().iter();
        let mut row: Row = attributes.map(|(name, it)| (name.clone(), text(it))).collect();
        change(&mut row);
        chain(&decode::<super::super::DepartureRow>(row).unwrap_err())
    };
    let set = |name: &'static str, value: &'static str| {
        of(&|row| drop(row.insert(name.to_owned(), AttributeValue::S(value.to_owned()))))
    };
    for (name, value, says) in [
        ("deadline", "soon", "deadline"),
        ("state", "\u{1b}[2Jgone", "state"),
        ("node_id", "../services/web", "node_id is not a Docker id"),
        ("boot_id", "a\nb", "boot_id is not one line"),
        ("instance_id", "i-2", "its content belongs under the key departure#i-2"),
    ] {
        let why = set(name, value);
        assert!(why.contains("departure#i-1") && why.contains(says), "{why}");
        assert!(!why.contains(char::is_control), "{why:?}");
    }
    let in_workers = |role: &'static str, is_stand_in: bool| {
        of(&|row| {
            row.insert("cluster".into(), AttributeValue::S("prod#arn:aws:x/i-1".into()));
            row.insert("role".into(), AttributeValue::S(role.into()));
            row.insert("stand_in".into(), AttributeValue::Bool(is_stand_in));
            if is_stand_in {
                let item = "departure#stand-in#i-1".to_owned();
                row.insert("item".into(), AttributeValue::S(item));
            } else {
                row.insert("x".into(), AttributeValue::S("y".repeat(LARGEST_ROW)));
            }
        })
    };
    assert!(in_workers("worker", true).contains("a worker must not write such a row"));
    assert!(in_workers("manager", true).contains("a worker must not write such a row"));
    let large = in_workers("worker", false);
    assert!(large.contains("bytes; a row of skep has at most"), "{large}");
}

#[tokio::test]
async fn a_key_that_dynamodb_leaves_unread_is_unanswered_and_no_missing_row() {
    let stub = Stub::start().await;
    let ledger = Ledger::example(&stub).await;
    let unread = |id: &str| {
        let partition = ledger.workers_partition(id);
        format!(r#"{{"cluster": {{"S": "{partition}"}}, "item": {{"S": "departure#{id}"}}}}"#)
    };
    let answer = |rows: &str, unread: &str| {
        format!(
            r#"{{"Responses": {{"skep": [{rows}]}},
                "UnprocessedKeys": {{"skep": {{"Keys": [{unread}], "ConsistentRead": true}}}}}}"#
        )
    };
    let row = departure("i-1", "i-1", r#"{"N": "2"}"#).replace("manager", "worker");
    stub.answer(200, &answer(&row, &unread("i-2")));
    for _ in 0..BATCH_RETRIES {
        stub.answer(200, &answer("", &unread("i-2")));
    }
    let ids = ["i-1", "i-2", "i-3"].map(str::to_owned);
    let read = ledger.fetch_workers_departures(&ids).await.unwrap();
    assert_eq!(read.rows.len(), 1);
    assert!(read.hides("i-2") && !read.hides("i-3"), "{read:?}");
    assert_eq!(stub.requests().len(), 1 + BATCH_RETRIES as usize);
    assert!(stub.last_request().contains("departure#i-2"), "{:?}", stub.last_request());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_too_large_is_read_again_after_five_minutes_alone() {
    let stub = Stub::start().await;
    let ledger = Ledger::example(&stub).await;
    let large = departure("i-1", "i-1", r#"{"N": "2"}"#).replace(
        r#""boot_id": {"S": "b"}"#,
        &format!(r#""boot_id": {{"S": "{}"}}"#, "b".repeat(LARGEST_ROW)),
    );
    stub.always("departure#i-1", &format!(r#"{{"Responses": {{"skep": [{large}]}}}}"#));
    let read = async || ledger.fetch_workers_departures(&["i-1".to_owned()]).await.unwrap();
    for requests in [1, 1] {
        assert!(read().await.hides("i-1"));
        assert_eq!(stub.requests().len(), requests);
    }
    tokio::time::advance(OVERSIZED_FOR).await;
    assert!(read().await.hides("i-1"));
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn a_row_that_was_edited_by_hand_does_not_hide_the_others() {
    let stub = Stub::start().await;
    let ledger = Ledger::example(&stub).await;
    let rows = [
        departure("i-1", "i-1", r#"{"N": "2"}"#),
        departure("i-2", "i-2", r#"{"S": "tomorrow"}"#),
        departure("i-3", "i-1", r#"{"N": "2"}"#),
        departure("i-4", "i-4", r#"{"N": "2"}"#),
        // The year 9999: it can be decoded, but skep cannot have written it.
        departure("i-5", "i-5", r#"{"N": "253402300799"}"#),
    ];
    stub.answer(200, &format!(r#"{{"Items": [{}], "Count": 5}}"#, rows.join(",")));
    let all = ledger.survey_departures().await.unwrap();
    let ids: Vec<&str> = all.rows.iter().map(|row| row.instance_id.as_str()).collect();
    assert_eq!(ids, ["i-1", "i-4"]);
    stub.answer(200, &format!(r#"{{"Items": [{}], "Count": 5}}"#, rows.join(",")));
    assert_eq!(ledger.survey_departures().await.unwrap(), all);
    let unreadable: Vec<&str> = all.unreadable.iter().map(String::as_str).collect();
    let odd = ["departure#i-2", "departure#i-3", "departure#i-5"];
    assert_eq!(unreadable, odd, "the unreadable rows are listed");
    let complaints = ledger.unreadable.lock().unwrap().clone();
    assert_eq!(complaints.into_iter().collect::<Vec<_>>(), odd, "each is logged once");
}
