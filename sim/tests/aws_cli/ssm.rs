//! SSM: parameters and Run Command.

use serde_json::json;

use super::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_written_once_and_read() {
    let bench = Bench::start().await;
    let name = ["--name", "/skep/demo/worker-token/1"];
    let put = ["ssm", "put-parameter", "--type", "SecureString", "--value", "hush"];
    let put = [&put[..], &name].concat();
    assert_eq!(bench.aws(&put).await["Version"], 1);
    let again = bench.refused(&put).await;
    assert!(again.contains("(ParameterAlreadyExists)"), "{again}");
    let get = [&["ssm", "get-parameter", "--with-decryption"][..], &name].concat();
    let found = bench.aws(&get).await;
    assert_eq!(found["Parameter"]["Value"], "hush");
    assert_eq!(found["Parameter"]["Type"], "SecureString");
    let unknown = bench.refused(&["ssm", "get-parameter", "--name", "/none"]).await;
    assert!(unknown.contains("(ParameterNotFound)"), "{unknown}");

    let logged = bench.cloud.requests();
    assert_eq!(logged.len(), 4);
    assert_eq!(logged[0].summary, "/skep/demo/worker-token/1");
    assert_eq!(logged[1].code.as_deref(), Some("ParameterAlreadyExists"));
    assert!(!serde_json::to_string(&logged).unwrap().contains("hush"));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_on_instances_that_receive_them() {
    let bench = Bench::start().await;
    let instance = bench.oldest();
    let send = |id: &str, script: &str| {
        let input = json!({
            "DocumentName": "AWS-RunShellScript",
            "InstanceIds": [id],
            "Parameters": { "commands": [script] },
        });
        input.to_string()
    };
    let call = ["ssm", "send-command", "--cli-input-json"];
    for (id, script) in [("i-0aaaaaaaaaaaaaaaa", "true"), (&instance, "deaf")] {
        let refused = bench.refused(&[&call[..], &[&send(id, script)]].concat()).await;
        assert!(refused.contains("(InvalidInstanceId)"), "{refused}");
    }
    let sent = bench.aws(&[&call[..], &[&send(&instance, "echo hello")]].concat()).await;
    let command = sent["Command"]["CommandId"].as_str().unwrap();
    let get = ["ssm", "get-command-invocation", "--command-id", command, "--instance-id"];
    assert!(
        bench
            .refused(&[&get[..], &["i-0aaaaaaaaaaaaaaaa"]].concat())
            .await
            .contains("(InvocationDoesNotExist)")
    );
    let seen = bench.aws(&[&get[..], &[&instance]].concat()).await;
    assert_eq!((&seen["Status"], &seen["ResponseCode"]), (&json!("Failed"), &json!(3)));
    assert_eq!(seen["StandardOutputContent"], "echo hello");
}
