//! Tests each parser: the values that it accepts, and its errors for others.

use ipnet::Ipv4Net;

use super::*;

/// A value as in a file.
fn quoted(text: &str) -> Raw {
    Raw::Text(text.into())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(parsed: Parsed<T>, hint: &str) {
    let problem = parsed.unwrap_err();
    assert!(problem.contains(hint), "{problem:?} should contain {hint:?}");
    assert!(!problem.contains('\n'), "{problem:?} is more than a line");
}

#[test]
fn a_choice_is_one_of_its_words() {
    assert_eq!(role(&quoted("manager")), Ok(Role::Manager));
    assert_eq!(token_store(&quoted("dynamodb")), Ok(TokenStore::Dynamodb));
    assert_eq!(log_format(&quoted("journal")), Ok(LogFormat::Journal));
    refused(role(&quoted("Manager")), "\"Manager\" is not one of manager, worker");
}

#[test]
fn shippers_and_conditions_are_lists() {
    let bare = |text: &str| Raw::bare(text);
    let both = vec![Shipper::Vector, Shipper::FluentBit];
    assert_eq!(shippers(&bare("vector, fluent-bit, vector")), Ok(both));
    refused(shippers(&bare("fluentd")), "\"fluentd\" is not one of journal-upload, filebeat");
    // The comma in it does not split it.
    let one = "http://127.0.0.1:9/ a{b=\"c\",d=\"e\"} == 0";
    assert_eq!(conditions(&bare(one)).map(|found| found.len()), Ok(1));
    assert_eq!(conditions(&bare(&format!("['{one}', '{one}']"))).map(|found| found.len()), Ok(2));
    refused(conditions(&quoted("nothing")), "expected a list");
    refused(http_url(&quoted("https://127.0.0.1/")), "no https");
}

#[test]
fn a_cluster_name_is_safe_in_keys_and_paths() {
    for name in ["prod", "a", "Prod_2.eu-1", &"x".repeat(100)] {
        assert_eq!(cluster(&quoted(name)).as_deref(), Ok(name));
    }
    for name in ["prod#managers", "a/b", "a b", "ü", &"x".repeat(101)] {
        refused(cluster(&quoted(name)), "1 to 100 letters, digits and ._-");
    }
    refused(cluster(&quoted("")), "empty");
}

#[test]
fn names_have_the_limits_of_their_service() {
    assert!(table(&quoted("skep")).is_ok());
    refused(table(&quoted("ab")), "3 to 255");
    assert!(hook(&quoted("drain/it_now-2")).is_ok());
    refused(hook(&quoted("drain it")), "lifecycle hook");
    assert_eq!(text(&quoted("My group")).as_deref(), Ok("My group"));
    refused(text(&quoted("a\nb")), "control");
    refused(text(&quoted(&"x".repeat(256))), "255");
    assert!(word(&quoted("arn:aws:kms:eu-central-1:1:key/2")).is_ok());
    refused(word(&quoted("my key")), "white space");
}

#[test]
fn a_region_looks_like_one() {
    assert!(region(&quoted("us-gov-west-1")).is_ok());
    refused(region(&quoted("Frankfurt")), "eu-central-1");
    refused(region(&quoted("frankfurt")), "eu-central-1");
}

#[test]
fn a_parameter_path_is_absolute_and_not_of_aws() {
    assert!(parameter_path(&quoted("/skep/of-mine")).is_ok());
    for path in ["skep", "/skep/", "/", "", "//skep", "/sk ep", &"/x".repeat(13)] {
        refused(parameter_path(&quoted(path)), "parameter path");
    }
    refused(parameter_path(&quoted("/AwsThings")), "reserved for AWS");
    refused(parameter_path(&quoted("/ssm")), "reserved for AWS");
}

#[test]
fn a_duration_has_a_unit_and_an_end() {
    assert_eq!(duration(&quoted("1h 30m")), Ok(Duration::from_secs(5400)));
    assert_eq!(duration(&quoted("48h")), Ok(LONGEST));
    refused(duration(&Raw::Number("10".into())), "\"10s\"");
    refused(duration(&quoted("10")), "write \"90s\"");
    refused(duration(&quoted("0s")), "more than 0s");
    refused(duration(&quoted("3days")), "at most 48h");
    assert_eq!(rotation(&quoted("30d")), Ok(Duration::from_secs(30 * 86_400)));
    refused(rotation(&quoted("59s")), "from 1m to 3650d");
    refused(rotation(&quoted("3651d")), "from 1m to 3650d");
    refused(rotation(&quoted("monthly")), "write \"30d\"");
    assert_eq!(interval(&quoted("500ms")), Ok(SHORTEST_INTERVAL));
    refused(interval(&quoted("499ms")), "499ms is too short: at least 500ms");
    assert_eq!(patience(&quoted("75s")), Ok(SHORTEST_PATIENCE));
    refused(patience(&quoted("1m")), "1m is too short: at least 1m 15s");
}

#[test]
fn numbers_stay_in_their_range() {
    assert_eq!(share(&Raw::Number("0.5".into())), Ok(0.5));
    assert_eq!(share(&Raw::Number("0".into())), Ok(0.0));
    refused(share(&Raw::Number("0.51".into())), "from 0 to 0.5");
    refused(share(&Raw::Number("nan".into())), "out of range");
    refused(share(&Raw::bare("half")), "\"half\"");
    assert_eq!(subnet_size(&Raw::Number("29".into())), Ok(29));
    refused(subnet_size(&Raw::Number("30".into())), "1 to 29");
    refused(subnet_size(&Raw::Number("0".into())), "1 to 29");
    refused(subnet_size(&Raw::Number("24.5".into())), "24.5");
}

#[test]
fn docker_is_on_this_host() {
    let host = docker_host(&quoted("unix:///run/docker.sock")).unwrap();
    assert_eq!(host.socket(), std::path::Path::new("/run/docker.sock"));
    assert_eq!(host.to_string(), "unix:///run/docker.sock");
    refused(docker_host(&quoted("tcp://10.0.0.1:2375")), "unix:///var/run/docker.sock");
    refused(docker_host(&quoted("unix://docker.sock")), "has no socket path");
    refused(docker_host(&quoted("unix:///")), "has no socket path");
    refused(directory(&quoted("var/lib")), "absolute");
}

#[test]
fn only_a_private_address_is_advertised() {
    for address in ["10.1.2.3", "172.31.0.1", "192.168.9.9", "100.127.0.1", "fd00::1"] {
        assert_eq!(private_address(&quoted(address)), Ok(address.parse().unwrap()));
    }
    for address in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "127.0.0.1", "fe80::1", "2600::1"] {
        refused(private_address(&quoted(address)), "not a private address");
    }
    refused(private_address(&quoted("eth0")), "not an IP address");
}

#[test]
fn a_pool_is_of_ranges_that_do_not_overlap() {
    let pool = address_pool(&Raw::bare("10.20.0.0/16, 10.30.0.0/16")).unwrap();
    assert_eq!(
        pool.iter().map(Ipv4Net::to_string).collect::<Vec<_>>(),
        ["10.20.0.0/16", "10.30.0.0/16"]
    );
    refused(
        address_pool(&Raw::bare("10.0.0.0/8,10.30.0.0/16")),
        "10.0.0.0/8 and 10.30.0.0/16 overlap",
    );
    refused(address_pool(&Raw::bare("10.1.2.3/8")), "write 10.0.0.0/8");
    for range in ["10.0.0.0", "10.0.0.0/33", "fd00::/8", ""] {
        refused(address_pool(&Raw::List(vec![quoted(range)])), "not an IPv4 range");
    }
}

#[test]
fn a_label_has_a_key_and_a_value() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let two = labels(&Raw::bare("disk=ssd, com.example.tier=a=b"));
    assert_eq!(two, Ok(vec![pair("disk", "ssd"), pair("com.example.tier", "a=b")]));
    let entry = |key: &str, value| labels(&Raw::Entry(key.into(), Box::new(value)));
    assert_eq!(entry("disk", quoted("a, b")), Ok(vec![pair("disk", "a, b")]));
    refused(entry("disk", Raw::Number("1".into())), "\"disk\": expected text, found a number");
    refused(entry("a b", quoted("x")), "letters, digits and ._-");
    refused(entry("com.docker.x", quoted("x")), "reserved for Docker");
    refused(labels(&Raw::bare("disk")), "expected key=value, found \"disk\"");
    refused(labels(&Raw::bare("=x")), "letters, digits and ._-");
    assert_eq!(join_availability(&quoted("pause")), Ok(JoinAvailability::Pause));
    refused(join_availability(&quoted("drain")), "not one of active, pause");
    assert_eq!(rebalance(&quoted("leave")), Ok(Rebalance::Leave));
    refused(rebalance(&quoted("drain")), "not one of ignore, pause, leave");
}

#[test]
fn the_port_has_an_address() {
    assert!(socket_address(&quoted("[::]:44554")).is_ok());
    refused(socket_address(&quoted("44554")), "0.0.0.0:44554");
}

#[test]
fn hosts_are_names_without_a_port() {
    let names = vec!["swarm.example.com".to_owned(), "skep".to_owned()];
    assert_eq!(host_names(&Raw::bare("Swarm.Example.com., skep")), Ok(names));
    for wrong in ["swarm.example.com:44554", "https://swarm.example.com", "*.example.com", "a,,b"] {
        refused(host_names(&Raw::bare(wrong)), "a host name has 1 to 253 letters, digits and .-");
    }
}

#[test]
fn a_misspelt_level_is_not_a_target() {
    let filter = log_filter(&quoted("debug, hyper=trace")).unwrap();
    assert_eq!(
        filter.0,
        [("skep".into(), LevelFilter::DEBUG), ("hyper".into(), LevelFilter::TRACE)]
    );
    assert_eq!(filter.to_string(), "debug,hyper=trace");
    refused(log_filter(&quoted("inof")), "\"inof\" is not one of");
    refused(log_filter(&quoted("debg")), "did you mean debug?");
    refused(log_filter(&quoted("skep=2")), "not one of");
    refused(log_filter(&quoted("=debug")), "has no target");
    refused(log_filter(&quoted("")), "not one of");
}
