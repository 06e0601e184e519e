//! Finds the shortest part of a round that still fails, for a developer to read first.

use super::plan::{Plan, Step};
use super::{Arguments, campaign};
use crate::stage;

/// Rounds without a failure after which a part of the plan counts as good: a failure may happen only by chance.
const TRIES: usize = 2;

/// Removes steps as long as the rest still fails, and writes the remaining plan.
///
/// # Errors
/// When the complete round does not fail, or cannot be played.
pub async fn run(arguments: &Arguments, plan: Plan) -> anyhow::Result<()> {
    println!("{} has {} steps; it is played whole first", plan.name, plan.steps.len());
    if !fails(arguments, &plan).await? {
        anyhow::bail!("{} holds: there is nothing to shrink", plan.name);
    }
    let part = |suffix: &str, steps: Vec<Step>| Plan {
        name: format!("{}-{suffix}", plan.name),
        steps,
        ..plan.clone()
    };
    let mut steps = plan.steps.clone();
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < steps.len() && steps.len() > 1 {
            let rest = without(&steps, from, size);
            println!("{} steps: without {} of them", rest.len(), steps.len() - rest.len());
            let shorter = part("shrunk", rest);
            if !shorter.steps.is_empty() && fails(arguments, &shorter).await? {
                steps = shorter.steps;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    let shortest = part("shortest", steps);
    let file = arguments.out.join(format!("{}.json", shortest.name));
    stage::write_json(&file, &shortest)?;
    println!("the shortest that fails has {} steps:", shortest.steps.len());
    for step in &shortest.steps {
        println!("  {}", serde_json::to_string(step)?);
    }
    println!("play it with `--replay {}`", file.display());
    Ok(())
}

async fn fails(arguments: &Arguments, plan: &Plan) -> anyhow::Result<bool> {
    for _ in 0..TRIES {
        if !campaign(arguments, std::slice::from_ref(plan)).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn without(steps: &[Step], from: usize, count: usize) -> Vec<Step> {
    let to = (from + count).min(steps.len());
    [&steps[..from], &steps[to..]].concat()
}

#[cfg(test)]
mod tests {
    use super::super::plan::Profile;
    use super::*;

    #[test]
    fn a_part_is_left_out() {
        let steps = Plan::draw(Profile::Hard, 1, 1).steps;
        let rest = without(&steps, 1, 2);
        assert_eq!(rest.len(), steps.len() - 2);
        assert_eq!((rest[0], rest[1]), (steps[0], steps[3]));
        assert_eq!(without(&steps, steps.len() - 1, 9), steps[..steps.len() - 1]);
    }
}
