//! Receives the calls to all services: identifies operation and caller, applies faults and permissions, answers, and
//! logs the call.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, Response, header};
use serde_json::Value;

use super::access::{self, Caller};
use super::dynamodb::{Metered, Used};
use super::errors::{ApiError, answer};
use super::faults::Fate;
use super::iam::{Asked, group_of};
use super::requests::Service;
use super::server::Dropped;
use super::wire::Params;
use super::xml;
use super::{
    Cloud, State, admin_http, autoscaling, clock, cloudformation, cloudwatch, dynamodb, ec2, ecr,
    elb, ids, requests, run_command, s3, ssm,
};

/// A received call.
struct Call {
    service: Service,
    action: String,
    input: Input,
    body: Bytes,
}

enum Input {
    Json(Value),
    Query(Params),
    /// CloudWatch has two protocols.
    CloudWatch(cloudwatch::Input),
    S3(s3::Input),
}

impl Call {
    fn parse(parts: &Parts, body: Bytes) -> Option<Self> {
        if access::signed_service(&parts.headers) == Some(Service::S3.name()) {
            let (action, input) = s3::Input::parse(parts);
            return Some(Self { service: Service::S3, action, input: Input::S3(input), body });
        }
        let target = parts.headers.get("x-amz-target").and_then(|v| v.to_str().ok());
        let json = |service, action: &str, body: Bytes| Self {
            service,
            action: action.to_owned(),
            input: Input::Json(serde_json::from_slice(&body).unwrap_or_default()),
            body,
        };
        if let Some(target) = target {
            return match target.split_once('.')? {
                ("DynamoDB_20120810", action) => Some(json(Service::DynamoDb, action, body)),
                ("GraniteServiceVersion20100801", action) => {
                    let (action, input) = (action.to_owned(), cloudwatch::Input::json(&body));
                    let input = Input::CloudWatch(input);
                    Some(Self { service: Service::CloudWatch, action, input, body })
                }
                ("AmazonSSM", action) => Some(json(Service::Ssm, action, body)),
                ("AmazonEC2ContainerRegistry_V20150921", action) => {
                    Some(json(Service::Ecr, action, body))
                }
                _ => None,
            };
        }
        let form = match parts.uri.query() {
            Some(query) if body.is_empty() => Params::parse(query.as_bytes()),
            _ => Params::parse(&body),
        };
        let service = match form.get("Version")? {
            "2011-01-01" => Service::AutoScaling,
            "2010-05-15" => Service::CloudFormation,
            "2016-11-15" => Service::Ec2,
            "2015-12-01" => Service::ElasticLoadBalancing,
            "2010-08-01" => Service::CloudWatch,
            _ => return None,
        };
        let action = form.get("Action")?.to_owned();
        let input = match service {
            Service::CloudWatch => Input::CloudWatch(cloudwatch::Input::query(&form)),
            _ => Input::Query(form),
        };
        Some(Self { service, action, input, body })
    }

    /// Returns the resources that a denial can name.
    fn resources(&self) -> Vec<String> {
        match (&self.input, self.service) {
            (Input::Json(input), Service::DynamoDb) => dynamodb::resources(input),
            (Input::Json(input), _) => ssm::names(input),
            (Input::CloudWatch(input), _) => {
                input.namespace().into_iter().map(str::to_owned).collect()
            }
            (Input::S3(input), _) => input.resources(),
            (Input::Query(form), _) => {
                ["AutoScalingGroupName", "StackName", "TargetGroupArn", "LoadBalancerArn"]
                    .iter()
                    .filter_map(|name| form.get(name).map(str::to_owned))
                    .collect()
            }
        }
    }

    /// Returns the actions, resources and condition values for IAM's decisions, which must all allow the call.
    fn asked(&self, state: &State, region: &str) -> Vec<Asked> {
        let scaling = &state.scaling;
        vec![match (&self.input, self.service) {
            (Input::Json(input), Service::DynamoDb) => Asked::dynamodb(&self.action, input, region),
            (Input::Json(_), Service::Ecr) => Asked::ecr(&self.action, region),
            (Input::Json(input), _) => Asked::ssm(&self.action, input, region),
            (Input::CloudWatch(input), _) => {
                Asked::cloudwatch(&self.action, input.namespace(), region)
            }
            (Input::S3(input), _) => return state.s3.asked(&self.action, input),
            (Input::Query(form), of) => {
                let instance = form.get("InstanceId").and_then(|id| scaling.instance(id));
                let of_instance = instance.map(|instance| instance.group.as_str());
                let group = group_of(&self.action, form, of_instance);
                let tags = group.and_then(|name| Some(scaling.group(name).ok()?.tags()));
                Asked {
                    resource_tags: tags.unwrap_or_default(),
                    ..Asked::query_protocol(of, &self.action, form, group, region)
                }
            }
        }]
    }

    fn summary(&self) -> String {
        match (&self.input, self.service) {
            (Input::Json(input), Service::DynamoDb) => dynamodb::summary(input),
            (Input::Json(input), _) => ssm::names(input).join(" "),
            (Input::CloudWatch(input), _) => input.summary(),
            (Input::S3(input), _) => input.summary(),
            (Input::Query(form), _) => form.summary(),
        }
    }
}

/// The answer to a call, and its error code, if any.
struct Answered {
    response: Response<Body>,
    code: Option<String>,
    used: Used,
}

impl Answered {
    fn new(response: Response<Body>, code: Option<String>) -> Self {
        Self { response, code, used: Used::default() }
    }

    fn error(error: &ApiError, call: &Call) -> Self {
        let response = match &call.input {
            Input::CloudWatch(input) => cloudwatch::refuse(input, error),
            _ => error.response(call.service),
        };
        Self::new(response, Some(error.code.clone()))
    }
}

/// Answers one request to the services or to `/_sim/`.
pub(super) async fn handle(
    cloud: Cloud,
    request: Request<Body>,
    peer: SocketAddr,
) -> Result<Response<Body>, Dropped> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    if let Some(host) = ecr::host(&parts) {
        return visit_registry(&cloud, &parts, host, body, peer).await;
    }
    let Ok(body) = axum::body::to_bytes(body, dynamodb::LARGEST_BODY).await else {
        return Err(Dropped);
    };
    if let Some(path) = parts.uri.path().strip_prefix("/_sim/").map(str::to_owned) {
        let answer = move || admin_http::handle(&cloud, &parts, &path, &body);
        return tokio::task::spawn_blocking(answer).await.map_err(|_| Dropped);
    }
    let Some(call) = Call::parse(&parts, body) else {
        let request_id = ids::request_id();
        let body = "<UnknownOperationException/>\n".to_owned();
        return Ok(answer(404, "text/xml", &request_id, body));
    };
    let at = cloud.now();
    let (caller, outcome) = serve(&cloud, &parts, &call).await;
    let used = outcome.as_ref().map(|answered| answered.used).unwrap_or_default();
    let (status, code) = match &outcome {
        Ok(answered) => (answered.response.status().as_u16(), answered.code.clone()),
        Err(why) => (0, Some((*why).to_owned())),
    };
    cloud.inner.requests.push(requests::Request {
        at,
        service: call.service,
        action: call.action.clone(),
        principal: caller.as_ref().map(Caller::name),
        instance_id: caller.and_then(|caller| caller.instance_id),
        status,
        code,
        summary: call.summary(),
        read_units: used.units.read,
        write_units: used.units.write,
        rows: used.rows,
        took_micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
    let mut response = outcome.map_err(|_| Dropped)?.response;
    // Clients correct their clocks by this header.
    if let Ok(date) = HeaderValue::from_str(&clock::http_date(cloud.now())) {
        response.headers_mut().insert(header::DATE, date);
    }
    Ok(response)
}

/// Answers a pull or a push; identifies the instance by the peer address of the connection.
async fn visit_registry(
    cloud: &Cloud,
    parts: &Parts,
    host: &str,
    body: Body,
    peer: SocketAddr,
) -> Result<Response<Body>, Dropped> {
    let (at, started) = (cloud.now(), Instant::now());
    let body = axum::body::to_bytes(body, ecr::LARGEST_BODY).await.map_err(|_| Dropped)?;
    let response = cloud.visit_registry(parts, host, body).await;
    let IpAddr::V4(address) = peer.ip() else { return Ok(response) };
    let visitor = cloud
        .change(|state, _| state.scaling.instance_at(address).map(|instance| instance.id.clone()));
    cloud.inner.requests.push(requests::Request {
        at,
        service: Service::Ecr,
        action: format!("{} {}", parts.method, parts.uri.path()),
        principal: None,
        instance_id: visitor,
        status: response.status().as_u16(),
        code: None,
        summary: host.to_owned(),
        read_units: 0.0,
        write_units: 0.0,
        rows: 0,
        took_micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
    Ok(response)
}

/// Returns the caller, if identified, and the answer or the reason for sending none.
async fn serve(
    cloud: &Cloud,
    parts: &Parts,
    call: &Call,
) -> (Option<Caller>, Result<Answered, &'static str>) {
    let now = cloud.inner.clock.elapsed();
    let (fate, latency) = cloud.inner.faults.plan(call.service, &call.action, now);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let input = match &call.input {
        Input::Json(input) => Some(input),
        Input::Query(_) | Input::CloudWatch(_) | Input::S3(_) => None,
    };
    let limits = &cloud.inner.limits;
    let fate = match fate {
        Fate::Served | Fate::AnswerLost | Fate::InPart(_)
            if !limits.admits(call.service, &call.action, input, now) =>
        {
            Fate::Throttled
        }
        fate => fate,
    };
    let injected = match fate {
        Fate::Dropped => return (None, Err("Dropped")),
        Fate::Throttled => Some(ApiError::throttled(call.service)),
        Fate::Failed => Some(ApiError::internal(call.service)),
        Fate::Served | Fate::AnswerLost | Fate::InPart(_) => None,
    };
    let (caller, refused) = cloud.admit(parts, call);
    let mut answered = match refused.or(injected) {
        Some(error) => Answered::error(&error, call),
        None => cloud.execute(parts, call, fate).await,
    };
    if let Input::S3(input) = &call.input {
        cloud.change(|state, _| state.s3.name_region(input, &mut answered.response));
    }
    if fate == Fate::AnswerLost {
        return (caller, Err("AnswerLost"));
    }
    (caller, Ok(answered))
}

impl Cloud {
    /// Returns the caller, if identified, and the error, if the call is refused.
    fn admit(&self, parts: &Parts, call: &Call) -> (Option<Caller>, Option<ApiError>) {
        let now = self.now();
        let mut state = super::lock(&self.inner.state);
        let headers = &parts.headers;
        let caller = match access::authenticate(headers, call.service, now, &state.scaling) {
            Ok(caller) => caller,
            Err(error) => return (None, Some(error)),
        };
        if let Input::S3(input) = &call.input
            && let Err(error) = state.s3.check(&call.action, input, &call.body)
        {
            return (Some(caller), Some(error));
        }
        let action = match call.service {
            Service::S3 => s3::permission(&call.action),
            _ => &call.action,
        };
        let resources = call.resources();
        let allowed = access::authorize(&state.denials, &caller, call.service, action, &resources);
        let region = &self.inner.options.region;
        let source = caller.instance_arn(region);
        let asked = call.asked(&state, region);
        let mut asked =
            asked.into_iter().map(|asked| Asked { source_instance: source.clone(), ..asked });
        let policies = caller.role.as_ref().and_then(|role| state.policies.get_mut(role));
        let judged = policies.map_or(Ok(()), |of| asked.try_for_each(|asked| of.judge(&asked)));
        let allowed =
            allowed.and(judged.map_err(|refusal| access::denied(&caller, call.service, &refusal)));
        (Some(caller), allowed.err())
    }

    async fn execute(&self, parts: &Parts, call: &Call, fate: Fate) -> Answered {
        let (clock, action) = (&self.inner.clock, call.action.as_str());
        let answered = match (call.service, &call.input) {
            (Service::DynamoDb, Input::Json(input)) => {
                return self.dynamodb(parts, call, input, fate).await;
            }
            (_, Input::CloudWatch(input)) => {
                let (length, clock) = (call.body.len(), &self.inner.clock);
                let result =
                    self.change(|state, _| cloudwatch::handle(state, clock, action, input, length));
                return match result {
                    Ok(result) => {
                        let response = cloudwatch::answer(input, action, result.as_ref());
                        Answered::new(response, None)
                    }
                    Err(error) => Answered::error(&error, call),
                };
            }
            (_, Input::S3(input)) => {
                let now = clock.now();
                let result =
                    self.change(|state, _| state.s3.handle(action, input, &call.body, now));
                return match result {
                    Ok(response) => Answered::new(response, None),
                    Err(error) => Answered::error(&error, call),
                };
            }
            (Service::Ssm, Input::Json(input)) if run_command::is_of(action) => {
                run_command::handle(self, action, input).map(|output| {
                    (ids::request_id(), "application/x-amz-json-1.1", output.to_string())
                })
            }
            (Service::Ssm, Input::Json(input)) => self.change(|state, _| {
                let place = ssm::Place::new(&self.inner.options.region, clock);
                let output = state.parameters.handle(action, input, &place)?;
                Ok((ids::request_id(), "application/x-amz-json-1.1", output.to_string()))
            }),
            (Service::Ecr, Input::Json(_)) => self.change(|state, _| {
                let region = access::signed_region(&parts.headers).unwrap_or_default();
                let output = state.ecr.handle(action, region, clock.now())?;
                Ok((ids::request_id(), "application/x-amz-json-1.1", output.to_string()))
            }),
            (Service::Ec2, Input::Query(form)) => ec2::handle(self, action, form).map(|content| {
                let request_id = ids::request_id();
                let xml = xml::ec2_response(action, &request_id, &content.finish());
                (request_id, "text/xml", xml)
            }),
            (service @ Service::ElasticLoadBalancing, Input::Query(form)) => {
                elb::handle(self, action, form).map(|result| {
                    let request_id = ids::request_id();
                    let xml = xml::response(service, action, &request_id, Some(&result));
                    (request_id, "text/xml", xml)
                })
            }
            (Service::CloudFormation, Input::Query(form)) if cloudformation::deploys(action) => {
                cloudformation::deploy(self, action, form).map(|result| {
                    let id = ids::request_id();
                    let xml =
                        xml::response(Service::CloudFormation, action, &id, result.as_deref());
                    (id, "text/xml", xml)
                })
            }
            (service, Input::Query(form)) => self.change(|state, now| {
                let result = if service == Service::CloudFormation {
                    cloudformation::handle(&mut state.stacks, clock, action, form, now)?
                } else if autoscaling::attaches(service, action) {
                    autoscaling::handle_attachments(state, clock, action, form, now)?
                } else {
                    autoscaling::handle(&mut state.scaling, clock, action, form, now)?
                };
                let request_id = ids::request_id();
                let xml = xml::response(service, action, &request_id, result.as_deref());
                Ok((request_id, "text/xml", xml))
            }),
            (service, Input::Json(_)) => Err(ApiError::unknown_action(service, action)),
        };
        match answered {
            Ok((request_id, content_type, body)) => {
                Answered::new(answer(200, content_type, &request_id, body), None)
            }
            Err(error) => Answered::error(&error, call),
        }
    }

    async fn dynamodb(&self, parts: &Parts, call: &Call, input: &Value, fate: Fate) -> Answered {
        let metered = Metered::new(&call.action, input, fate);
        let body = metered.as_ref().map_or_else(|| call.body.clone(), Metered::body);
        let charge = |used: Used| {
            let units = used.units.read + used.units.write;
            self.inner.limits.charge(&call.action, input, units, self.inner.clock.elapsed());
        };
        let response = match self.inner.dynamodb.forward(&parts.headers, body).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "DynamoDB does not answer");
                return Answered::error(&ApiError::internal(call.service), call);
            }
        };
        if !response.status().is_success() {
            let code = dynamodb::error_code(response.body());
            charge(Used::default());
            return Answered::new(response.map(Body::from), code);
        }
        let Some((body, used)) = metered.and_then(|metered| metered.answer(response.body())) else {
            return Answered::new(response.map(Body::from), None);
        };
        charge(used);
        let (mut head, _) = response.into_parts();
        // They are those of the database's own answer.
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove("x-amz-crc32");
        Answered { used, ..Answered::new(Response::from_parts(head, body.into()), None) }
    }
}
