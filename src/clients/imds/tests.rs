//! Tests the client against a stub: tokens, refusals, timeouts and error texts.

use std::time::Duration;

use futures_util::future::join_all;

use super::stub::{Stub, soon};
use super::*;

const ID: &str = "instance-id";

async fn stub() -> Stub {
    let stub = Stub::start().await;
    stub.set(ID, "i-0abc");
    stub
}

fn text(answer: Result<Option<String>, ImdsError>) -> String {
    answer.unwrap().expect("the item exists")
}

#[tokio::test]
async fn reads_an_item_and_knows_that_another_is_not_there() {
    let stub = stub().await;
    let imds = stub.imds();
    assert_eq!(text(imds.get(ID, soon()).await), "i-0abc");
    assert_eq!(imds.get("spot/instance-action", soon()).await.unwrap(), None);
    assert_eq!(stub.answers().gets, 2, "404 is not retried");
}

#[tokio::test]
async fn one_token_serves_all_and_is_fetched_once_for_concurrent_callers() {
    let stub = stub().await;
    stub.answers().put_delay = Duration::from_millis(50);
    let imds = stub.imds();
    let clone = imds.clone();
    for answer in join_all((0..10).map(|_| imds.get(ID, soon()))).await {
        assert_eq!(text(answer), "i-0abc");
    }
    assert_eq!(text(clone.get(ID, soon()).await), "i-0abc");
    assert_eq!(stub.answers().puts, 1);
}

#[tokio::test]
async fn a_poller_keeps_one_connection_and_a_burst_opens_few() {
    let stub = stub().await;
    let imds = stub.imds();
    for _ in 0..5 {
        imds.get(ID, soon()).await.unwrap();
    }
    assert_eq!(stub.answers().peers.len(), 1);
    stub.answers().get_delay = Duration::from_millis(20);
    for answer in join_all((0..20).map(|_| imds.get(ID, soon()))).await {
        assert_eq!(text(answer), "i-0abc");
    }
    let (at_once, connections) = {
        let answers = stub.answers();
        (answers.most_at_once, answers.peers.len())
    };
    assert_eq!(at_once, MAX_CONCURRENT as u64, "neither one by one nor all at once");
    assert!(connections <= MAX_CONCURRENT + 1, "{connections} connections");
}

#[tokio::test]
async fn concurrent_callers_share_a_failed_token_too() {
    let stub = stub().await;
    stub.answers().put_delay = Duration::from_millis(50);
    stub.answers().next_puts = [403; 10].into();
    let imds = stub.imds();
    for answer in join_all((0..10).map(|_| imds.get(ID, soon()))).await {
        assert!(matches!(answer, Err(ImdsError::SwitchedOff { .. })));
    }
    assert_eq!(stub.answers().puts, 1);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_for_all() {
    let stub = stub().await;
    let imds = stub.imds();
    imds.get(ID, soon()).await.unwrap();
    stub.answers().revoked = 1;
    for answer in join_all((0..10).map(|_| imds.get(ID, soon()))).await {
        assert_eq!(text(answer), "i-0abc");
    }
    assert_eq!(stub.tokens(), 2);
}

#[tokio::test]
async fn a_service_that_refuses_fresh_tokens_is_not_asked_for_ever() {
    let stub = stub().await;
    stub.answers().revoked = u64::MAX;
    let error = stub.imds().get(ID, soon()).await.unwrap_err();
    assert!(matches!(error, ImdsError::TokenRefused { .. }), "{error}");
    assert_eq!(stub.answers().gets, 2);
    assert_eq!(stub.tokens(), 2);
    assert!(!format!("{error:?} {error}").contains("token-"), "the token leaked: {error:?}");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let stub = stub().await;
    stub.answers().ttl = 2;
    let imds = stub.imds();
    imds.get(ID, soon()).await.unwrap();
    imds.get(ID, soon()).await.unwrap();
    assert_eq!(stub.tokens(), 1, "fresh tokens are kept");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    imds.get(ID, soon()).await.unwrap();
    assert_eq!(stub.tokens(), 2, "half of the lifetime has passed");
    assert_eq!(stub.answers().gets, 3, "renewed without a refusal first");
}

#[tokio::test]
async fn no_lifetime_of_a_token_stops_skep() {
    for ttl in [0, 1, u64::MAX] {
        let stub = stub().await;
        stub.answers().ttl = ttl;
        assert_eq!(text(stub.imds().get(ID, soon()).await), "i-0abc", "{ttl}");
    }
}

#[tokio::test]
async fn throttling_server_errors_and_silence_are_retried() {
    for trouble in [429, 500, 503, 0] {
        let stub = stub().await;
        stub.answers().next_gets = [trouble, trouble].into();
        assert_eq!(text(stub.imds().get(ID, soon()).await), "i-0abc");
        assert_eq!(stub.answers().gets, 3, "after {trouble}");
        stub.answers().next_puts = [trouble].into();
        assert_eq!(text(stub.imds().get(ID, soon()).await), "i-0abc");
        assert_eq!(stub.answers().puts, 3, "token after {trouble}");
    }
}

#[tokio::test]
async fn a_switched_off_service_is_final_and_says_how_to_switch_it_on() {
    let stub = stub().await;
    stub.answers().next_puts = [403, 403].into();
    let error = stub.imds().get(ID, soon()).await.unwrap_err();
    assert!(matches!(&error, ImdsError::SwitchedOff { path, uri, .. }
        if path == ID && uri.ends_with("/latest/api/token")));
    let remedy = "aws ec2 modify-instance-metadata-options --instance-id <id> --http-endpoint";
    assert!(error.to_string().contains(remedy), "{error}");
    assert_eq!(stub.answers().puts, 1);
}

#[tokio::test]
async fn an_unexpected_status_is_final() {
    let stub = stub().await;
    stub.answers().next_gets = [418, 418].into();
    let error = stub.imds().get(ID, soon()).await.unwrap_err();
    assert!(matches!(error, ImdsError::UnexpectedStatus { status: 418, .. }));
    assert_eq!(stub.answers().gets, 1);
}

#[tokio::test]
async fn what_lasts_ends_at_the_deadline() {
    let stub = stub().await;
    stub.answers().next_gets = [503; 100].into();
    let started = Instant::now();
    let error = stub.imds().get(ID, started + Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(error, ImdsError::Busy { status: 503, .. }));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert!(stub.answers().gets >= 2);
}

#[tokio::test]
async fn nobody_there_says_what_to_check() {
    // The listener is dropped, so connections to its port are refused.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let imds = Imds::new(&endpoint).unwrap();
    let deadline = Instant::now() + Duration::from_millis(300);
    let error = imds.get(ID, deadline).await.unwrap_err();
    assert!(matches!(&error, ImdsError::NoAnswer { path, .. } if path == ID));
    for hint in ["HttpEndpoint", "169.254.169.254", "HttpPutResponseHopLimit", &endpoint] {
        assert!(error.to_string().contains(hint), "{hint}: {error}");
    }
    let chain = crate::common::errors::chain(&error);
    assert_eq!(chain.matches(&endpoint).count(), 1, "the URI must occur once: {chain}");
}

#[tokio::test]
async fn the_clock_offset_follows_the_date_header() {
    let stub = stub().await;
    let imds = stub.imds();
    assert_eq!(imds.clock_offset(), None);
    let server = OffsetDateTime::now_utc() - time::Duration::hours(1);
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    stub.answers().date = Some(server.format(&format).unwrap());
    imds.get(ID, soon()).await.unwrap();
    let offset = imds.clock_offset().unwrap();
    assert!((3600..3603).contains(&offset.whole_seconds()), "{offset}");
}

#[test]
fn the_environment_names_the_endpoint_as_for_the_sdks() {
    let from = |vars: &[(&str, &str)]| {
        Imds::from_vars(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let endpoint = |vars: &[(&str, &str)]| from(vars).unwrap().0.endpoint.to_string();
    let (url, mode) =
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    assert_eq!(endpoint(&[]), "http://169.254.169.254/");
    assert_eq!(endpoint(&[(url, "")]), "http://169.254.169.254/");
    assert_eq!(endpoint(&[(mode, "ipv6")]), "http://[fd00:ec2::254]/");
    assert_eq!(endpoint(&[(mode, "IPv4")]), "http://169.254.169.254/");
    assert_eq!(endpoint(&[(url, "http://10.0.0.1:81/x"), (mode, "IPv6")]), "http://10.0.0.1:81/x/");
    let disabled = from(&[("AWS_EC2_METADATA_DISABLED", "True")]).unwrap_err();
    assert!(disabled.to_string().contains("AWS_EC2_METADATA_DISABLED"));
    for (name, value) in [(mode, "IPv5"), (url, "nowhere"), (url, "https://10.0.0.1")] {
        let error = from(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
}
