//! Counts the requests to AWS, in the same way for every client.

use aws_sdk_ssm::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_ssm::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use super::result_of;
use crate::telemetry::metrics::metrics;

/// An interceptor of the SDK that only reads.
#[derive(Clone, Copy, Debug)]
pub struct CallCounter(pub &'static str);

#[dyn_dispatch_hint]
impl Intercept for CallCounter {
    fn name(&self) -> &'static str {
        "CallCounter"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = cfg.load::<Metadata>().map_or("", Metadata::name);
        let is_ok = context.output_or_error().is_some_and(|result| result.is_ok());
        let result = if is_ok { "ok" } else { result_of(context.response()).as_str() };
        metrics().aws_call(self.0, operation, result);
        Ok(())
    }
}
