//! Tests the metadata and the faults over HTTP, and the timers in real time.

mod calls;
mod s3;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};

use super::*;
use crate::machines::{Disturbance, Launch};

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

struct Idle;

impl Machines for Idle {
    fn launch(&self, _: Launch) {}

    fn stop(&self, _: &str) {}

    fn start(&self, _: &str) {}

    fn terminate(&self, _: &str) {}

    fn disturb(&self, instance_id: &str, what: Disturbance) -> anyhow::Result<()> {
        anyhow::bail!("idle machines cannot do {what:?} to {instance_id}")
    }
}

struct Bench {
    cloud: Cloud,
    client: Client,
    aws: SocketAddr,
    imds: SocketAddr,
    id: String,
}

impl Bench {
    /// Starts a cloud with one instance; this process gets that instance's metadata.
    async fn start() -> Self {
        Self::of(Market::OnDemand).await
    }

    async fn of(market: Market) -> Self {
        let cloud = Cloud::new(CloudOptions {
            region: "eu-central-1".to_owned(),
            zones: vec!["eu-central-1a".to_owned()],
            subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
            seed: 7,
        })
        .unwrap();
        cloud.set_machines(Arc::new(Idle));
        let aws = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let imds = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (aws_address, imds_address) = (aws.local_addr().unwrap(), imds.local_addr().unwrap());
        tokio::spawn(cloud.clone().serve_aws(aws));
        tokio::spawn(cloud.clone().serve_imds(imds));
        cloud
            .create_group(GroupSpec {
                name: "nodes".to_owned(),
                max: 3,
                desired: 1,
                market,
                role_name: Some("worker".to_owned()),
                ..GroupSpec::default()
            })
            .unwrap();
        let id = cloud.instances()[0].id.clone();
        cloud.stand_in(IpAddr::V4(Ipv4Addr::LOCALHOST), &id);
        Self {
            cloud,
            client: Client::builder().no_proxy().build().unwrap(),
            aws: aws_address,
            imds: imds_address,
            id,
        }
    }

    async fn token(&self, ttl: &str) -> Response {
        self.client
            .put(format!("http://{}/latest/api/token", self.imds))
            .header(TTL, ttl)
            .send()
            .await
            .unwrap()
    }

    async fn get(&self, token: &str, path: &str) -> Response {
        let request = self.client.get(format!("http://{}/latest/meta-data/{path}", self.imds));
        request.header(TOKEN, token).send().await.unwrap()
    }

    async fn read(&self, token: &str, path: &str) -> String {
        let response = self.get(token, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.text().await.unwrap()
    }

    /// Returns the credentials of the instance, from the metadata.
    async fn credentials(&self) -> serde_json::Value {
        let token = self.token("60").await.text().await.unwrap();
        let credentials = self.read(&token, "iam/security-credentials/worker").await;
        serde_json::from_str(&credentials).unwrap()
    }

    /// Returns a request to AWS that these credentials sign.
    fn signed(&self, credentials: &serde_json::Value, body: &str) -> RequestBuilder {
        let key = credentials["AccessKeyId"].as_str().unwrap();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={key}/20261120/eu-central-1/any/aws4_request, \
             SignedHeaders=host, Signature=00"
        );
        self.client
            .request(Method::POST, format!("http://{}/", self.aws))
            .header("x-amz-date", clock::amz_date(self.cloud.now()))
            .header("x-amz-security-token", credentials["Token"].as_str().unwrap())
            .header("authorization", authorization)
            .body(body.to_owned())
    }

    /// Calls SSM with the credentials from the metadata.
    async fn ssm(&self, credentials: &serde_json::Value, body: &str) -> reqwest::Result<Response> {
        let request = self.signed(credentials, body);
        request.header("x-amz-target", "AmazonSSM.PutParameter").send().await
    }
}

#[tokio::test]
async fn metadata_is_for_token_holders() {
    let bench = Bench::start().await;
    for ttl in ["0", "21601", "soon"] {
        assert_eq!(bench.token(ttl).await.status(), StatusCode::BAD_REQUEST);
    }
    let token = bench.token("60").await;
    assert_eq!(token.headers()[TTL], "60");
    assert!(token.headers().contains_key("date"));
    let token = token.text().await.unwrap();
    assert_eq!(bench.read(&token, "instance-id").await, bench.id);
    let groups = bench.read(&token, "tags/instance/aws:autoscaling:groupName").await;
    assert_eq!(groups, "nodes");
    assert_eq!(bench.read(&token, "autoscaling/target-lifecycle-state").await, "InService");
    let missing = bench.get(&token, "spot/instance-action").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    let refused = bench.get("guessed", "instance-id").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);

    let forwarded = bench
        .client
        .put(format!("http://{}/latest/api/token", bench.imds))
        .header(TTL, "60")
        .header("x-forwarded-for", "10.0.0.1")
        .send()
        .await
        .unwrap();
    assert_eq!(forwarded.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn notices_appear_in_the_metadata_and_go() {
    let bench = Bench::of(Market::Spot).await;
    let token = bench.token("60").await.text().await.unwrap();
    bench.cloud.spot_notice(&bench.id, "terminate", Duration::from_secs(120)).unwrap();
    let notice = bench.read(&token, "spot/instance-action").await;
    assert!(notice.contains(r#""action":"terminate""#), "{notice}");
    assert!(bench.read(&token, "spot/termination-time").await.ends_with('Z'));
    bench.cloud.rebalance(&bench.id).unwrap();
    let notice = bench.read(&token, "events/recommendations/rebalance").await;
    assert!(notice.contains("noticeTime"));
    assert_eq!(bench.read(&token, "events/maintenance/scheduled").await, "[]");
    bench.cloud.schedule_maintenance(&bench.id, Maintenance::default()).unwrap();
    let events = bench.read(&token, "events/maintenance/scheduled").await;
    assert!(events.contains(r#""NotAfter":"""#) && events.contains("GMT"), "{events}");
    bench.cloud.clear_spot_notice(&bench.id).unwrap();
    let gone = bench.get(&token, "spot/instance-action").await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    bench.cloud.set_metadata_tags(&bench.id, false).unwrap();
    let gone = bench.get(&token, "tags/instance/").await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_knobs_of_one_instances_metadata_turn() {
    let bench = Bench::start().await;
    let refused = bench.cloud.spot_notice(&bench.id, "terminate", Duration::ZERO).unwrap_err();
    assert!(refused.to_string().contains("on-demand"), "{refused}");
    let token = bench.token("60").await.text().await.unwrap();
    let knobs = bench.cloud.imds_knobs(&bench.id);
    let status = async || bench.get(&token, "instance-id").await.status();
    knobs.fail_next(1);
    assert_eq!(status().await, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(status().await, StatusCode::OK);
    knobs.switch_off(true);
    assert_eq!(status().await, StatusCode::FORBIDDEN);
    assert_eq!(bench.token("60").await.status(), StatusCode::FORBIDDEN);
    knobs.switch_off(false).drop_connections(true);
    let url = format!("http://{}/latest/meta-data/instance-id", bench.imds);
    assert!(bench.client.get(&url).send().await.is_err());
    knobs.reset().invalidate_tokens();
    assert_eq!(status().await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_answer_may_be_lost_although_the_call_was_done() {
    let bench = Bench::start().await;
    let credentials = bench.credentials().await;
    let put = r#"{"Name":"/a","Value":"v","Type":"String"}"#;
    let fault = Fault { lose_answer: 1.0, times: Some(1), ..Fault::default() };
    bench.cloud.faults().set(Service::Ssm, Some("PutParameter"), fault);
    assert!(bench.ssm(&credentials, put).await.is_err());
    assert_eq!(bench.cloud.parameter_names(), ["/a"]);
    let again = bench.ssm(&credentials, put).await.unwrap();
    assert!(again.headers().contains_key("x-amzn-requestid"));
    assert!(again.text().await.unwrap().contains("ParameterAlreadyExists"));
    let calls: Vec<Request> = bench
        .cloud
        .requests()
        .into_iter()
        .filter(|request| request.service == Service::Ssm)
        .collect();
    assert_eq!(calls[0].code.as_deref(), Some("AnswerLost"));
    assert_eq!(calls[1].instance_id.as_ref(), Some(&bench.id));
    assert_eq!(calls[1].principal.as_deref(), Some("worker"));

    let deny = Deny::new(Who::Role("worker".to_owned()), Service::Ssm, "Put*").on("/a");
    bench.cloud.deny(deny);
    let denied = bench.ssm(&credentials, put).await.unwrap();
    assert!(denied.text().await.unwrap().contains("AccessDeniedException"));
    let mut stolen = credentials.clone();
    stolen["Token"] = "other".into();
    let unknown = bench.ssm(&stolen, put).await.unwrap();
    assert!(unknown.text().await.unwrap().contains("UnrecognizedClientException"));
}

#[tokio::test]
async fn time_alone_ends_a_hook_and_takes_a_spot_instance() {
    let bench = Bench::of(Market::Spot).await;
    let mut events = bench.cloud.subscribe();
    let hook = HookSpec::new("nodes", "drain", Transition::Terminating);
    bench.cloud.put_hook(hook.timeout(Duration::from_millis(50), ActionResult::Continue)).unwrap();
    bench.cloud.terminate(&bench.id, false).unwrap();
    let expired = async {
        while !matches!(events.recv().await.unwrap().kind, EventKind::HookTimedOut { .. }) {}
    };
    tokio::time::timeout(Duration::from_secs(5), expired).await.unwrap();
    let [next] = &bench.cloud.instances()[..] else { panic!("one instance, the replacement") };
    assert_ne!(next.id, bench.id);
    bench.cloud.spot_notice(&next.id, "terminate", Duration::from_millis(50)).unwrap();
    let replaced =
        async { while !matches!(events.recv().await.unwrap().kind, EventKind::Replaced { .. }) {} };
    tokio::time::timeout(Duration::from_secs(5), replaced).await.unwrap();
    assert!(bench.cloud.instance(&next.id).is_none());
}

#[tokio::test]
async fn admin_functions_are_plain_json() {
    let bench = Bench::start().await;
    let url = |path: &str| format!("http://{}/_sim/{path}", bench.aws);
    let body = r#"{"group":"nodes","desired":2}"#;
    let desired = bench.client.post(url("desired")).body(body).send().await.unwrap();
    assert_eq!(desired.status(), StatusCode::OK);
    let instances = bench.client.get(url("instances")).send().await.unwrap();
    let instances: Vec<InstanceView> = instances.json().await.unwrap();
    assert_eq!(instances.len(), 2);
    let events = bench.client.get(url("events?since=1")).send().await.unwrap();
    let events: Vec<CloudEvent> = events.json().await.unwrap();
    assert!(
        events.iter().any(|event| matches!(event.kind, EventKind::DesiredCapacity { to: 2, .. }))
    );
    let body = format!(r#"{{"instance_id":"{}","disturbance":{{"kill":"dockerd"}}}}"#, bench.id);
    let disturbed = bench.client.post(url("disturb")).body(body).send().await.unwrap();
    assert_eq!(disturbed.status(), StatusCode::BAD_REQUEST);
    let refused = disturbed.text().await.unwrap();
    let why = format!("idle machines cannot do Kill(Dockerd) to {}", bench.id);
    assert!(refused.contains(&why), "{refused}");
    let bad = bench.client.post(url("spot")).body("{}").send().await.unwrap();
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
    let unknown = r#"{"instance_id":"i-0"}"#;
    let refused = bench.client.post(url("rebalance")).body(unknown).send().await.unwrap();
    assert!(refused.text().await.unwrap().contains("No managed instance"));
}
