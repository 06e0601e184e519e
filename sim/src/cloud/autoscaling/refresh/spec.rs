//! The preferences of an instance refresh, and what the API shows of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Refresh;
use crate::cloud::autoscaling::group::Group;
use crate::cloud::errors::ApiError;

/// The longest delay at a checkpoint, and the longest bake time.
const LONGEST_DELAY: Duration = Duration::from_secs(172_800);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshStrategy {
    #[default]
    Rolling,
    ReplaceRootVolume,
}

/// What a refresh does with instances that are protected from scale-in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfProtected {
    Refresh,
    Ignore,
    /// Waits for the end of the protection, and fails after an hour.
    #[default]
    Wait,
}

/// What a refresh does with instances on standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfStandby {
    Terminate,
    Ignore,
    /// Waits for their return, and fails after an hour.
    #[default]
    Wait,
}

/// The words of an enumeration on the wire.
macro_rules! words {
    ($($name:ident { $($word:ident),+ })+) => {$(
        impl $name {
            pub(super) fn as_str(self) -> &'static str {
                match self { $(Self::$word => stringify!($word)),+ }
            }

            pub(super) fn parse(text: &str) -> Option<Self> {
                [$(Self::$word),+].into_iter().find(|it| it.as_str() == text)
            }
        }
    )+};
}

words! {
    RefreshStrategy { Rolling, ReplaceRootVolume }
    OfProtected { Refresh, Ignore, Wait }
    OfStandby { Terminate, Ignore, Wait }
}

/// AWS's states without `Pending`, in which a refresh has not started, and without those of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshStatus {
    InProgress,
    Successful,
    Failed,
    Cancelling,
    Cancelled,
    Baking,
}

impl RefreshStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::Successful => "Successful",
            Self::Failed => "Failed",
            Self::Cancelling => "Cancelling",
            Self::Cancelled => "Cancelled",
            Self::Baking => "Baking",
        }
    }
}

/// An instance refresh, with AWS's defaults:
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/understand-instance-refresh-default-values.html>
#[derive(Clone, Debug)]
pub struct RefreshSpec {
    pub strategy: RefreshStrategy,
    /// Percentages of the desired capacity: those in service and ready, and those in service or on their way.
    pub min_healthy: u32,
    pub max_healthy: u32,
    /// The time in service until a new instance is ready; `None`: the group's health check grace period.
    pub warmup: Option<Duration>,
    /// Percentages of replaced instances at which the refresh pauses; it ends at the last one.
    pub checkpoints: Vec<u32>,
    pub checkpoint_delay: Duration,
    /// Instances that already are as the refresh would make them stay.
    pub skip_matching: bool,
    pub protected: OfProtected,
    pub standby: OfStandby,
    /// The time between the last replacement and the end.
    pub bake: Duration,
    /// The desired configuration: the image for each instance type; empty: that of the group.
    pub images: BTreeMap<String, String>,
    /// The time for which a refresh retries or waits before it fails: an hour on AWS.
    pub patience: Duration,
}

impl Default for RefreshSpec {
    fn default() -> Self {
        Self {
            strategy: RefreshStrategy::default(),
            min_healthy: 90,
            max_healthy: 100,
            warmup: None,
            checkpoints: Vec::new(),
            checkpoint_delay: Duration::from_secs(3600),
            skip_matching: false,
            protected: OfProtected::default(),
            standby: OfStandby::default(),
            bake: Duration::ZERO,
            images: BTreeMap::new(),
            patience: Duration::from_secs(3600),
        }
    }
}

impl RefreshSpec {
    /// Returns a refresh that replaces the root volumes of instances of this type.
    pub fn root_volumes(instance_type: &str, image_id: &str) -> Self {
        Self {
            strategy: RefreshStrategy::ReplaceRootVolume,
            images: BTreeMap::from([(instance_type.to_owned(), image_id.to_owned())]),
            ..Self::default()
        }
    }

    /// Checks the ranges in
    /// <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RefreshPreferences.html>.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let (min, max) = (self.min_healthy, self.max_healthy);
        let refuse = |what: String| Err(ApiError::validation(what));
        if min > 100 {
            return refuse(format!("MinHealthyPercentage must be between 0 and 100, not {min}"));
        }
        if !(100..=200).contains(&max) {
            return refuse(format!("MaxHealthyPercentage must be between 100 and 200, not {max}"));
        }
        if max - min > 100 {
            return refuse(
                "The difference between MinHealthyPercentage and MaxHealthyPercentage cannot be \
                 greater than 100"
                    .to_owned(),
            );
        }
        let rises = self.checkpoints.windows(2).all(|pair| pair[0] < pair[1]);
        if !rises || self.checkpoints.iter().any(|it| !(1..=100).contains(it)) {
            return refuse(
                "CheckpointPercentages must be unique numbers from 1 to 100 in ascending order"
                    .to_owned(),
            );
        }
        if self.checkpoint_delay > LONGEST_DELAY || self.bake > LONGEST_DELAY {
            return refuse("CheckpointDelay and BakeTime must be 172800 or less".to_owned());
        }
        Ok(())
    }

    /// Checks that this group can be refreshed, whose instances have these types.
    pub(super) fn check_group(
        &self,
        group: &Group,
        mut types: impl Iterator<Item = String>,
    ) -> Result<(), ApiError> {
        let refuse = |what: &str| Err(ApiError::validation(what));
        let own = &group.spec.instance_type;
        if self.strategy == RefreshStrategy::Rolling {
            if !self.images.is_empty() && !self.images.contains_key(own) {
                return refuse("This cloud launches instances of the group's type only");
            }
            return Ok(());
        }
        if group.warm_pool.is_some() {
            return refuse(
                "You can't start an instance refresh with Replace Root Volume on an Auto Scaling \
                 group that has a warm pool.",
            );
        }
        if self.images.is_empty() {
            return refuse(
                "An instance refresh with Replace Root Volume needs a desired configuration with a \
                 mixed instances policy whose overrides specify an ImageId.",
            );
        }
        let is_known = |of_type: &String| self.images.contains_key(of_type);
        if !is_known(own) || !types.all(|it| is_known(&it)) {
            return refuse(
                "You can't start an instance refresh with Replace Root Volume if the group contains \
                 instances whose instance type is not present in the mixed instances policy.",
            );
        }
        Ok(())
    }
}

/// An instance refresh, as tests see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefreshView {
    pub id: String,
    pub strategy: RefreshStrategy,
    pub status: RefreshStatus,
    pub reason: Option<String>,
    /// The percentage of the group that is replaced and ready.
    pub percentage: u32,
    /// The number of instances that are not replaced, or not ready.
    pub remaining: usize,
}

impl Refresh {
    pub(super) fn view(&self) -> RefreshView {
        RefreshView {
            id: self.id.clone(),
            strategy: self.spec.strategy,
            status: self.status,
            reason: self.reason.clone(),
            percentage: self.progress.percentage,
            remaining: self.progress.remaining,
        }
    }
}
