//! The operations on scaling policies. Only target tracking of a customized metric is supported.

use std::time::Duration;

use super::page::page;
use super::policy::{AlarmState, Policy, PolicyPace, PolicySpec};
use super::scaling::Scaling;
use crate::cloud::Cloud;
use crate::cloud::cloudwatch::{Metric, Statistic};
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// The largest page of `DescribePolicies`.
const LARGEST_PAGE: usize = 100;
const TARGET_TRACKING: &str = "TargetTrackingScaling";
const CUSTOMIZED: &str = "TargetTrackingConfiguration.CustomizedMetricSpecification";

/// Answers one call; `None`: it is none of these operations.
pub(super) fn handle(
    scaling: &mut Scaling,
    action: &str,
    params: &Params,
    now: Duration,
) -> Option<Result<Option<String>, ApiError>> {
    Some(match action {
        "PutScalingPolicy" => put(scaling, params, now).map(Some),
        "DescribePolicies" => describe(scaling, params).map(Some),
        "DeletePolicy" => params.required("PolicyName").and_then(|name| {
            scaling.delete_policy(params.get("AutoScalingGroupName"), name).map(|()| None)
        }),
        _ => return None,
    })
}

fn put(scaling: &mut Scaling, params: &Params, now: Duration) -> Result<String, ApiError> {
    let policy = scaling.put_policy(spec(params)?, now)?.clone();
    let mut xml = Xml::default();
    xml.text("PolicyARN", &policy.arn(&scaling.region));
    show_alarms(&mut xml, scaling, &policy);
    Ok(xml.finish())
}

/// Returns the policy that a call describes.
fn spec(params: &Params) -> Result<PolicySpec, ApiError> {
    let kind = params.get("PolicyType").unwrap_or("SimpleScaling");
    if kind != TARGET_TRACKING {
        return Err(unsupported(&format!("policies of the type {kind}")));
    }
    let of = |name: &str| format!("TargetTrackingConfiguration.{name}");
    if params.pairs().any(|(name, _)| name.starts_with(&of("PredefinedMetricSpecification"))) {
        return Err(unsupported("predefined metrics: no instance publishes any"));
    }
    if params.pairs().any(|(name, _)| name.starts_with(&format!("{CUSTOMIZED}.Metrics"))) {
        return Err(unsupported("metric math in policies"));
    }
    let target = params.required(&of("TargetValue")).and(params.parsed(&of("TargetValue")))?;
    let metric = metric(params)?;
    let defaults = PolicySpec::new(
        params.required("AutoScalingGroupName")?,
        params.required("PolicyName")?,
        metric,
        target.unwrap_or_default(),
    );
    let statistic = params.required(&format!("{CUSTOMIZED}.Statistic"))?;
    let statistic = Statistic::parse(statistic)
        .ok_or_else(|| ApiError::validation(format!("{statistic} is no statistic")))?;
    Ok(PolicySpec {
        statistic,
        unit: params.get(&format!("{CUSTOMIZED}.Unit")).map(str::to_owned),
        disable_scale_in: params.parsed(&of("DisableScaleIn"))?.unwrap_or(false),
        warmup: params.parsed("EstimatedInstanceWarmup")?.map(Duration::from_secs),
        enabled: params.parsed("Enabled")?.unwrap_or(true),
        ..defaults
    })
}

fn metric(params: &Params) -> Result<Metric, ApiError> {
    let text = |name: &str| params.required(&format!("{CUSTOMIZED}.{name}")).map(str::to_owned);
    let dimensions = params.structures(&format!("{CUSTOMIZED}.Dimensions"));
    let dimension =
        |of: &Params| Ok((of.required("Name")?.to_owned(), of.required("Value")?.to_owned()));
    Ok(Metric {
        namespace: text("Namespace")?,
        name: text("MetricName")?,
        dimensions: dimensions.iter().map(dimension).collect::<Result<_, ApiError>>()?,
    })
}

fn unsupported(what: &str) -> ApiError {
    ApiError::validation(format!(
        "This cloud has {TARGET_TRACKING} of a CustomizedMetricSpecification only, no {what}"
    ))
}

fn describe(scaling: &Scaling, params: &Params) -> Result<String, ApiError> {
    let group = params.get("AutoScalingGroupName");
    if let Some(group) = group {
        scaling.group(group)?;
    }
    let (names, types) = (params.list("PolicyNames"), params.list("PolicyTypes"));
    let is_wanted = |policy: &&Policy| {
        let arn = policy.arn(&scaling.region);
        group.is_none_or(|group| policy.spec.group == group)
            && (names.is_empty() || names.contains(&policy.spec.name) || names.contains(&arn))
            && (types.is_empty() || types.iter().any(|it| it == TARGET_TRACKING))
    };
    let wanted = scaling.policies().filter(is_wanted).collect();
    let (wanted, next) = page(wanted, params, LARGEST_PAGE)?;
    let mut xml = Xml::default();
    xml.list("ScalingPolicies", wanted, |xml, policy| show(xml, scaling, policy));
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

fn show(xml: &mut Xml, scaling: &Scaling, policy: &Policy) {
    let spec = &policy.spec;
    xml.text("AutoScalingGroupName", &spec.group);
    xml.text("PolicyName", &spec.name);
    xml.text("PolicyARN", &policy.arn(&scaling.region));
    xml.text("PolicyType", TARGET_TRACKING);
    if let Some(warmup) = spec.warmup {
        xml.display("EstimatedInstanceWarmup", warmup.as_secs());
    }
    show_alarms(xml, scaling, policy);
    xml.open("TargetTrackingConfiguration");
    xml.open("CustomizedMetricSpecification");
    xml.text("MetricName", &spec.metric.name);
    xml.text("Namespace", &spec.metric.namespace);
    xml.list("Dimensions", &spec.metric.dimensions, |xml, (name, value)| {
        xml.text("Name", name);
        xml.text("Value", value);
    });
    xml.text("Statistic", spec.statistic.as_str());
    xml.maybe("Unit", spec.unit.as_deref());
    xml.close("CustomizedMetricSpecification");
    xml.display("TargetValue", spec.target);
    xml.display("DisableScaleIn", spec.disable_scale_in);
    xml.close("TargetTrackingConfiguration");
    xml.display("Enabled", spec.enabled);
}

fn show_alarms(xml: &mut Xml, scaling: &Scaling, policy: &Policy) {
    xml.list("Alarms", scaling.alarms_of(policy), |xml, alarm| {
        xml.text("AlarmName", &alarm.name);
        xml.text("AlarmARN", &alarm.arn);
    });
}

impl Cloud {
    /// Adds a scaling policy, or changes the present one of this name.
    pub fn put_policy(&self, spec: PolicySpec) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.put_policy(spec, now).map(|_| ()))
    }

    pub fn delete_policy(&self, group: &str, name: &str) -> Result<(), ApiError> {
        self.change(|state, _| state.scaling.delete_policy(Some(group), name))
    }

    /// Returns the scaling policies of all groups.
    pub fn policies(&self) -> Vec<PolicySpec> {
        self.change(|state, _| state.scaling.policies().map(|it| it.spec.clone()).collect())
    }

    /// Returns the states of the alarms of a policy: above and below the target.
    pub fn alarm_states(&self, group: &str, policy: &str) -> Vec<AlarmState> {
        self.change(|state, _| {
            let alarms = state.scaling.alarms();
            let alarms = alarms.filter(|it| it.spec.group == group && it.spec.name == policy);
            alarms.map(|it| it.state).collect()
        })
    }

    /// Sets how long the alarms of scaling policies wait; without it, they are as slow as AWS's.
    pub fn set_policy_pace(&self, pace: PolicyPace) {
        self.change(|state, now| state.scaling.set_policy_pace(pace, now));
    }
}
