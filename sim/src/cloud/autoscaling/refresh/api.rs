//! The operations on instance refreshes, by their names on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Refresh;
use super::spec::{OfProtected, OfStandby, RefreshSpec, RefreshStrategy};
use crate::cloud::autoscaling::page::page;
use crate::cloud::autoscaling::scaling::Scaling;
use crate::cloud::clock::{self, Clock};
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

const LARGEST_PAGE: usize = 100;
/// The prefix of the preferences' names.
const PREFERENCES: &str = "Preferences";
const POLICY: &str = "DesiredConfiguration.MixedInstancesPolicy.LaunchTemplate";

/// Answers one call; `None`: it is none of these operations.
pub(in crate::cloud::autoscaling) fn handle(
    scaling: &mut Scaling,
    clock: &Clock,
    action: &str,
    params: &Params,
    now: Duration,
) -> Option<Result<String, ApiError>> {
    let id = |id: String| {
        let mut xml = Xml::default();
        xml.text("InstanceRefreshId", &id);
        xml.finish()
    };
    Some(match action {
        "StartInstanceRefresh" => start(scaling, params, now).map(id),
        "CancelInstanceRefresh" => cancel(scaling, params, now).map(id),
        "DescribeInstanceRefreshes" => describe(scaling, clock, params),
        _ => return None,
    })
}

fn start(scaling: &mut Scaling, params: &Params, now: Duration) -> Result<String, ApiError> {
    let name = params.required("AutoScalingGroupName")?;
    let spec = spec(params)?;
    scaling.start_refresh(name, spec, now)
}

fn cancel(scaling: &mut Scaling, params: &Params, now: Duration) -> Result<String, ApiError> {
    let waits = params.parsed("WaitForTransitioningInstances")?.unwrap_or(true);
    scaling.cancel_refresh(params.required("AutoScalingGroupName")?, waits, now)
}

fn spec(params: &Params) -> Result<RefreshSpec, ApiError> {
    let defaults = RefreshSpec::default();
    let number = |name: &str| params.parsed::<u32>(&format!("{PREFERENCES}.{name}"));
    let seconds = |name: &str| {
        let seconds = params.parsed::<u64>(&format!("{PREFERENCES}.{name}"))?;
        Ok::<_, ApiError>(seconds.map(Duration::from_secs))
    };
    let flag = |name: &str| params.parsed::<bool>(&format!("{PREFERENCES}.{name}"));
    let strategy = match params.get("Strategy") {
        None => RefreshStrategy::default(),
        Some(text) => word("Strategy", text, RefreshStrategy::parse)?,
    };
    let (min, max) = (number("MinHealthyPercentage")?, number("MaxHealthyPercentage")?);
    if max.is_some() && min.is_none() {
        return Err(ApiError::validation(
            "If you specify MaxHealthyPercentage, you must also specify MinHealthyPercentage",
        ));
    }
    let checkpoints = params.list(&format!("{PREFERENCES}.CheckpointPercentages"));
    let checkpoints = checkpoints.iter().map(|text| text.parse()).collect::<Result<Vec<u32>, _>>();
    let checkpoints = checkpoints
        .map_err(|_| ApiError::validation("CheckpointPercentages must be whole numbers"))?;
    let delay = seconds("CheckpointDelay")?;
    if delay.is_some() && checkpoints.is_empty() {
        return Err(ApiError::validation(
            "If you specify CheckpointDelay, you must also specify CheckpointPercentages",
        ));
    }
    let alarms = params.list(&format!("{PREFERENCES}.AlarmSpecification.Alarms"));
    if flag("AutoRollback")?.unwrap_or(false) || !alarms.is_empty() {
        return Err(ApiError::validation("This cloud has no rollback and no alarms of a refresh"));
    }
    let choice = |name: &str| params.get(&format!("{PREFERENCES}.{name}"));
    Ok(RefreshSpec {
        strategy,
        min_healthy: min.unwrap_or(defaults.min_healthy),
        max_healthy: max.unwrap_or(defaults.max_healthy),
        warmup: seconds("InstanceWarmup")?,
        checkpoints,
        checkpoint_delay: delay.unwrap_or(defaults.checkpoint_delay),
        skip_matching: flag("SkipMatching")?.unwrap_or(false),
        protected: match choice("ScaleInProtectedInstances") {
            None => OfProtected::default(),
            Some(text) => word("ScaleInProtectedInstances", text, OfProtected::parse)?,
        },
        standby: match choice("StandbyInstances") {
            None => OfStandby::default(),
            Some(text) => word("StandbyInstances", text, OfStandby::parse)?,
        },
        bake: seconds("BakeTime")?.unwrap_or_default(),
        images: images(params, strategy)?,
        patience: defaults.patience,
    })
}

fn word<T>(name: &str, text: &str, parse: fn(&str) -> Option<T>) -> Result<T, ApiError> {
    parse(text).ok_or_else(|| ApiError::validation(format!("{text} is no valid {name}")))
}

/// Reads the images of the desired configuration, by instance type. A group and its launch template are one in this
/// cloud, so the launch template of a mixed instances policy is only checked.
fn images(
    params: &Params,
    strategy: RefreshStrategy,
) -> Result<BTreeMap<String, String>, ApiError> {
    let refuse = |what: &str| Err(ApiError::validation(what));
    let template = "DesiredConfiguration.LaunchTemplate";
    let of_template = ["LaunchTemplateId", "LaunchTemplateName"];
    if of_template.iter().any(|name| params.get(&format!("{template}.{name}")).is_some()) {
        return refuse(
            "This cloud has no launch templates: name the image in the overrides of a mixed \
             instances policy",
        );
    }
    let overrides = params.structures(&format!("{POLICY}.Overrides"));
    let is_volume = strategy == RefreshStrategy::ReplaceRootVolume;
    let version = params.get(&format!("{POLICY}.LaunchTemplateSpecification.Version"));
    if is_volume && !overrides.is_empty() && matches!(version, None | Some("$Latest" | "$Default"))
    {
        return refuse(
            "You can't start an instance refresh with Replace Root Volume if the desired \
             configuration uses the $Latest or $Default launch template version.",
        );
    }
    let mut images = BTreeMap::new();
    for of in &overrides {
        match (of.get("InstanceType"), of.get("ImageId")) {
            (Some(of_type), Some(image)) => {
                images.insert(of_type.to_owned(), image.to_owned());
            }
            (Some(_), None) if !is_volume => {}
            _ => return refuse("Every override must specify an InstanceType and an ImageId"),
        }
    }
    Ok(images)
}

fn describe(scaling: &Scaling, clock: &Clock, params: &Params) -> Result<String, ApiError> {
    let group = scaling.group(params.required("AutoScalingGroupName")?)?;
    let ids = params.list("InstanceRefreshIds");
    let wanted = scaling.refreshes_of(&group.spec.name);
    let wanted = wanted.filter(|it| ids.is_empty() || ids.contains(&it.id)).collect();
    let (wanted, next) = page(wanted, params, LARGEST_PAGE)?;
    let mut xml = Xml::default();
    xml.list("InstanceRefreshes", wanted, |xml, refresh| one(xml, clock, refresh));
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

fn one(xml: &mut Xml, clock: &Clock, refresh: &Refresh) {
    let date = |moment| clock::iso_millis(clock.date(moment));
    xml.text("InstanceRefreshId", &refresh.id);
    xml.text("AutoScalingGroupName", &refresh.group);
    xml.text("Status", refresh.status.as_str());
    xml.maybe("StatusReason", refresh.reason.as_deref());
    xml.text("StartTime", &date(refresh.started));
    xml.maybe("EndTime", refresh.ended.map(date).as_deref());
    xml.display("PercentageComplete", refresh.progress.percentage);
    xml.display("InstancesToUpdate", refresh.progress.remaining);
    xml.text("Strategy", refresh.spec.strategy.as_str());
    let spec = &refresh.spec;
    xml.open(PREFERENCES);
    xml.display("MinHealthyPercentage", spec.min_healthy);
    xml.display("MaxHealthyPercentage", spec.max_healthy);
    xml.display("InstanceWarmup", refresh.warmup.as_secs());
    if !spec.checkpoints.is_empty() {
        xml.open("CheckpointPercentages");
        for percentage in &spec.checkpoints {
            xml.display("member", percentage);
        }
        xml.close("CheckpointPercentages");
        xml.display("CheckpointDelay", spec.checkpoint_delay.as_secs());
    }
    xml.display("SkipMatching", spec.skip_matching);
    xml.display("AutoRollback", false);
    xml.text("ScaleInProtectedInstances", spec.protected.as_str());
    xml.text("StandbyInstances", spec.standby.as_str());
    xml.display("BakeTime", spec.bake.as_secs());
    xml.close(PREFERENCES);
}
