//! CPU, memory and other resources: what nodes offer and what tasks reserve.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::common::printable::printable;

/// Number of kinds of generic resources that are kept of a node or a task, and of characters of their names: a node
/// reports them of itself.
const MOST_KINDS: usize = 32;
const LONGEST_KIND: usize = 100;

/// An amount of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Raw")]
pub struct Resources {
    /// Thousand-millionth parts of a CPU.
    pub nano_cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Generic resources, such as GPUs, by their kind.
    pub generic: BTreeMap<String, u64>,
}

/// As Docker sends it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Raw {
    #[serde(rename = "NanoCPUs")]
    nano_cpus: Option<i64>,
    memory_bytes: Option<i64>,
    generic_resources: Option<Vec<Generic>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Generic {
    named_resource_spec: Option<Named>,
    discrete_resource_spec: Option<Discrete>,
}

/// One piece, which has a name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    #[serde(default)]
    kind: String,
}

/// A number of pieces.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Discrete {
    #[serde(default)]
    kind: String,
    value: Option<i64>,
}

impl From<Raw> for Resources {
    fn from(raw: Raw) -> Self {
        let amount = |value: Option<i64>| value.and_then(|it| u64::try_from(it).ok()).unwrap_or(0);
        let mut generic: BTreeMap<String, u64> = BTreeMap::new();
        for one in raw.generic_resources.into_iter().flatten() {
            let (kind, value) = match (one.named_resource_spec, one.discrete_resource_spec) {
                (Some(named), _) => (named.kind, 1),
                (None, Some(discrete)) => (discrete.kind, amount(discrete.value)),
                (None, None) => continue,
            };
            let kind = printable(&kind, LONGEST_KIND);
            if generic.len() < MOST_KINDS || generic.contains_key(&kind) {
                let sum = generic.entry(kind).or_default();
                *sum = sum.saturating_add(value);
            }
        }
        Self { nano_cpus: amount(raw.nano_cpus), memory_bytes: amount(raw.memory_bytes), generic }
    }
}

impl Resources {
    /// Adds an amount.
    pub fn add(&mut self, more: &Self) {
        self.nano_cpus = self.nano_cpus.saturating_add(more.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_add(more.memory_bytes);
        for (kind, value) in &more.generic {
            let sum = self.generic.entry(kind.clone()).or_default();
            *sum = sum.saturating_add(*value);
        }
    }

    /// Returns what is left after an amount was taken, which is never less than nothing.
    #[must_use]
    pub fn without(&self, taken: &Self) -> Self {
        let left = |(kind, value): (&String, &u64)| {
            let taken = taken.generic.get(kind).copied().unwrap_or_default();
            (kind.clone(), value.saturating_sub(taken))
        };
        Self {
            nano_cpus: self.nano_cpus.saturating_sub(taken.nano_cpus),
            memory_bytes: self.memory_bytes.saturating_sub(taken.memory_bytes),
            generic: self.generic.iter().map(left).collect(),
        }
    }

    /// Returns how many times `part` fits into it; [`usize::MAX`] if `part` is nothing.
    #[must_use]
    pub fn count(&self, part: &Self) -> usize {
        let of = |all: u64, part: u64| all.checked_div(part).unwrap_or(u64::MAX);
        let generic = part
            .generic
            .iter()
            .map(|(kind, value)| of(self.generic.get(kind).copied().unwrap_or_default(), *value));
        let least = generic
            .chain([of(self.nano_cpus, part.nano_cpus), of(self.memory_bytes, part.memory_bytes)])
            .min();
        usize::try_from(least.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
    }

    /// Returns so many times the amount.
    #[must_use]
    pub fn times(&self, n: usize) -> Self {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        let times = |(kind, value): (&String, &u64)| (kind.clone(), value.saturating_mul(n));
        Self {
            nano_cpus: self.nano_cpus.saturating_mul(n),
            memory_bytes: self.memory_bytes.saturating_mul(n),
            generic: self.generic.iter().map(times).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nodes_offer_and_tasks_reserve_is_understood() {
        let node = json!({
            "NanoCPUs": 2_000_000_000_i64, "MemoryBytes": 4_000_000_000_i64,
            "GenericResources": [
                { "NamedResourceSpec": { "Kind": "GPU", "Value": "UUID1" } },
                { "NamedResourceSpec": { "Kind": "GPU", "Value": "UUID2" } },
                { "DiscreteResourceSpec": { "Kind": "SSD", "Value": 3 } },
                {},
            ],
        });
        let node: Resources = serde_json::from_value(node).unwrap();
        assert_eq!((node.nano_cpus, node.memory_bytes), (2_000_000_000, 4_000_000_000));
        assert_eq!((node.generic["GPU"], node.generic["SSD"]), (2, 3));
        let odd = json!({ "NanoCPUs": -1, "MemoryBytes": null, "GenericResources": null });
        let nothing: Resources = serde_json::from_value(odd).unwrap();
        assert_eq!(nothing, Resources::default());
        assert_eq!(node.count(&nothing), usize::MAX);
    }

    #[test]
    fn a_part_fits_as_often_as_its_scarcest_resource_allows() {
        let amount = |nano_cpus, memory_bytes, gpus: u64| {
            let generic = (gpus > 0).then(|| ("GPU".to_owned(), gpus));
            Resources { nano_cpus, memory_bytes, generic: generic.into_iter().collect() }
        };
        let node = amount(8, 100, 2);
        assert_eq!(node.count(&amount(2, 10, 0)), 4);
        assert_eq!(node.count(&amount(2, 60, 0)), 1);
        assert_eq!(node.count(&amount(1, 1, 1)), 2);
        assert_eq!(amount(8, 100, 0).count(&amount(1, 1, 1)), 0, "it has none");
        let left = node.without(&amount(1, 60, 1).times(2));
        assert_eq!(left, Resources { generic: [("GPU".to_owned(), 0)].into(), ..amount(6, 0, 0) });
        let mut sum = amount(1, 1, 0);
        sum.add(&amount(u64::MAX, 1, 1));
        assert_eq!(sum, amount(u64::MAX, 2, 1));
    }
}
