//! Checks the machine's identity: metadata, region, clock, tags.

use std::time::Duration;

use tokio::time::Instant;

use super::Finding;
use crate::clients::aws::Aws;
use crate::clients::docker::Swarm;
use crate::clients::imds::{Imds, ImdsError};
use crate::common::errors::{Explained, evidence_chain};
use crate::common::instance::Instance;
use crate::common::state::StateHandle;
use crate::config::{Settings, identity::Identity};
use crate::lifecycle::boot;
use crate::node::Node;
use crate::node::assemble;
use crate::telemetry::notifications::Events;

/// Time limit for the metadata, which answer in milliseconds on an instance.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// NTP keeps a clock within milliseconds; a clock that differs by more than this is not synchronized.
const CLOCK_DRIFT_SECONDS: u64 = 5;
const METADATA: &str = "metadata";
const CLOCK: &str = "clock";
const START_CHRONY: &str =
    "start chrony or systemd-timesyncd; AWS serves the time at 169.254.169.123";

/// The subject of the other checks, as far as it is known.
#[derive(Default)]
pub struct Subject {
    pub metadata: Option<(Imds, Instance)>,
    pub aws: Option<Aws>,
    pub node: Option<Node>,
}

pub async fn examine(settings: &Settings, docker: &Swarm) -> (Vec<Finding>, Subject) {
    let read = async {
        let imds = Imds::from_env()?;
        let instance = imds.fetch_instance(Instant::now() + ANSWER_WITHIN).await?;
        Ok::<_, ImdsError>((imds, instance))
    };
    let (imds, instance) = match read.await {
        Ok(read) => read,
        Err(error) => {
            return (vec![of_metadata(&error)], Subject::default());
        }
    };
    let mut findings = vec![
        Finding::ok(
            METADATA,
            format!("{} {} in {}", instance.id, instance.instance_type, instance.zone),
        ),
        hop_limit(&instance),
        region(settings, &instance),
        clock(imds.clock_offset()),
    ];
    findings.extend(identity(settings, &instance));
    let aws = Aws::load(settings.region.as_deref(), &instance.region).await;
    let (known, state) = ((imds.clone(), instance.clone()), StateHandle::default());
    let events = Events::silent(&state);
    let node = assemble(settings, instance, imds, docker.clone(), &aws, &state, &events).ok();
    (findings, Subject { metadata: Some(known), aws: Some(aws), node })
}

fn of_metadata(error: &ImdsError) -> Finding {
    let usual = "check that this is an EC2 instance, and that nothing blocks the metadata address";
    let remedy = error.remedy().unwrap_or_else(|| usual.to_owned());
    Finding::failed(METADATA, evidence_chain(error), remedy)
}

/// Reports the hop limit as unknown: the metadata do not contain it, and on the host itself every limit works.
fn hop_limit(instance: &Instance) -> Finding {
    let Instance { id, region, .. } = instance;
    Finding::skipped(
        "hop limit",
        "the metadata does not report its own hop limit; 1 keeps containers from the node's role",
        format!(
            "aws ec2 describe-instances --region {region} --instance-ids {id} --query \
             'Reservations[].Instances[].MetadataOptions.HttpPutResponseHopLimit'"
        ),
    )
}

fn region(settings: &Settings, instance: &Instance) -> Finding {
    const REGION: &str = "region";
    let own = &instance.region;
    match &settings.region {
        Some(set) if set != own => Finding::warning(
            REGION,
            format!("the settings name {set}, and the instance is in {own}"),
            "unset `region`, unless the ledger's table and the tokens are in that region",
        ),
        _ => Finding::ok(REGION, own),
    }
}

fn clock(offset: Option<time::Duration>) -> Finding {
    let Some(known) = offset else {
        let why = "the metadata's answers have no date";
        return Finding::skipped(CLOCK, why, "chronyc tracking");
    };
    let seconds = known.whole_seconds();
    let direction = if seconds < 0 { "behind" } else { "ahead of" };
    let evidence = format!("{} s {direction} the metadata's", seconds.unsigned_abs());
    if boot::check_clock(offset).is_err() {
        let evidence = format!("{evidence}; AWS refuses requests that are 300 s off");
        return Finding::failed(CLOCK, evidence, START_CHRONY);
    }
    if seconds.unsigned_abs() > CLOCK_DRIFT_SECONDS {
        return Finding::warning(CLOCK, evidence, START_CHRONY);
    }
    Finding::ok(CLOCK, evidence)
}

/// Checks the cluster and the role, and the tags that name them.
fn identity(settings: &Settings, instance: &Instance) -> Vec<Finding> {
    const IDENTITY: &str = "cluster and role";
    let names: Vec<&str> = instance.tags.keys().map(String::as_str).collect();
    let tags = if names.is_empty() {
        Finding::warning(
            "tags",
            "the metadata has no tags of this instance",
            "enable tags in the metadata (InstanceMetadataTags: enabled): cluster, role and labels come from them",
        )
    } else {
        Finding::ok("tags", names.join(", "))
    };
    let identity = match Identity::resolve(settings, instance) {
        Ok(Identity { cluster, role }) => Finding::ok(IDENTITY, format!("{cluster}, {role}")),
        Err(mistakes) => {
            let mistakes: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
            let remedy =
                "tag the instance with skep:cluster and skep:role, or set `cluster` and `role`";
            Finding::failed(IDENTITY, mistakes.join("; "), remedy)
        }
    };
    vec![tags, identity]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::common::instance::Market;

    fn instance(tags: &[(&str, &str)]) -> Instance {
        Instance {
            id: "i-0abc".into(),
            arn: String::new(),
            instance_type: "t3.small".into(),
            zone: "eu-central-1a".into(),
            region: "eu-central-1".into(),
            private_address: [10, 0, 0, 7].into(),
            market: Market::OnDemand,
            group: None,
            stack: None,
            tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        }
    }

    #[test]
    fn metadata_that_do_not_answer_have_their_own_remedy_or_the_usual_one() {
        let (operation, path) = ("read the token", "token".to_owned());
        let uri = || "http://169.254.169.254".to_owned();
        let off = ImdsError::SwitchedOff { operation, path: path.clone(), uri: uri() };
        let finding = of_metadata(&off);
        assert!(finding.evidence.ends_with("(403 from http://169.254.169.254)"), "{finding:?}");
        assert!(finding.remedy.unwrap().starts_with("switch it on with `aws ec2"));
        let busy = ImdsError::Busy { operation, path, uri: uri(), status: 503 };
        assert!(of_metadata(&busy).remedy.unwrap().contains("nothing blocks the metadata"));
    }

    #[test]
    fn a_clock_is_kept_or_drifts_or_is_refused() {
        let verdict = |seconds| {
            let finding = clock(Some(time::Duration::seconds(seconds)));
            (finding.verdict, finding.evidence)
        };
        assert_eq!(verdict(-1), (Verdict::Ok, "1 s behind the metadata's".into()));
        assert_eq!(verdict(6), (Verdict::Warning, "6 s ahead of the metadata's".into()));
        assert_eq!(verdict(-3600).0, Verdict::Failed);
        assert_eq!(clock(None).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_region_that_is_not_the_instances_own_is_doubted() {
        let mut settings = Settings::default();
        assert_eq!(region(&settings, &instance(&[])).verdict, Verdict::Ok);
        settings.region = Some("us-east-1".into());
        let finding = region(&settings, &instance(&[]));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(
            finding.evidence.contains("us-east-1") && finding.evidence.contains("eu-central-1")
        );
    }

    #[test]
    fn tags_that_are_off_and_an_identity_that_nobody_tells_are_named() {
        let verdicts = |findings: &[Finding]| [findings[0].verdict, findings[1].verdict];
        let mut settings = Settings::default();
        let findings = identity(&settings, &instance(&[]));
        assert_eq!(verdicts(&findings), [Verdict::Warning, Verdict::Failed]);
        let tags = [("skep:cluster", "prod"), ("skep:role", "worker")];
        let findings = identity(&settings, &instance(&tags));
        assert_eq!(verdicts(&findings), [Verdict::Ok, Verdict::Ok]);
        assert_eq!(findings[1].evidence, "prod, worker");
        (settings.cluster, settings.role) =
            (Some("a".into()), Some(crate::common::instance::Role::Manager));
        let findings = identity(&settings, &instance(&[]));
        assert_eq!(verdicts(&findings), [Verdict::Warning, Verdict::Ok], "settings suffice");
    }
}
