//! DynamoDB.

use skep_sim::cloud::Service;

use super::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn items_are_written_under_a_condition_and_queried() {
    let bench = Bench::start().await;
    bench.cloud.create_table("skep").unwrap();
    let item = r#"{"cluster":{"S":"demo"},"item":{"S":"charter"},"phase":{"S":"founding"}}"#;
    let put = [
        "dynamodb",
        "put-item",
        "--table-name",
        "skep",
        "--item",
        item,
        "--condition-expression",
        "attribute_not_exists(#c)",
        "--expression-attribute-names",
        // `cluster` is a reserved word, which DynamoDB refuses in an expression.
        r##"{"#c":"cluster"}"##,
    ];
    bench.aws(&put).await;
    let again = bench.refused(&put).await;
    assert!(again.contains("(ConditionalCheckFailedException)"), "{again}");
    let query = [
        "dynamodb",
        "query",
        "--table-name",
        "skep",
        "--key-condition-expression",
        "#c = :c",
        "--expression-attribute-names",
        r##"{"#c":"cluster"}"##,
        "--expression-attribute-values",
        r#"{":c":{"S":"demo"}}"#,
    ];
    let found = bench.aws(&query).await;
    assert_eq!(found["Count"], 1);
    assert_eq!(found["Items"][0]["phase"]["S"], "founding");
    let last = bench.cloud.requests().pop().unwrap();
    assert_eq!((last.service, last.status), (Service::DynamoDb, 200));
}
