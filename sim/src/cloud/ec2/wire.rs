//! EC2's variant of the Query protocol: lists without `member`, `item` in answers, filters.

use std::collections::BTreeMap;

use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// Writes a list with an `item` per element.
pub(super) fn items<T>(
    xml: &mut Xml,
    name: &str,
    elements: impl IntoIterator<Item = T>,
    mut item: impl FnMut(&mut Xml, T),
) {
    xml.open(name);
    for element in elements {
        xml.open("item");
        item(xml, element);
        xml.close("item");
    }
    xml.close(name);
}

pub(super) fn tag_set(xml: &mut Xml, tags: &BTreeMap<String, String>) {
    items(xml, "tagSet", tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
}

/// Returns the answer of calls that have no result.
pub(super) fn done() -> Xml {
    let mut xml = Xml::default();
    xml.text("return", "true");
    xml
}

/// Returns the tags of a request: `<name>.1.Key` and `<name>.1.Value`.
pub(super) fn tags(form: &Params, name: &str) -> BTreeMap<String, String> {
    let pair = |tag: &Params| {
        Some((tag.get("Key")?.to_owned(), tag.get("Value").unwrap_or_default().to_owned()))
    };
    form.numbered_structures(name).iter().filter_map(pair).collect()
}

/// Returns the tags in `TagSpecification` for resources of one type.
pub(super) fn tags_for(form: &Params, resource: &str) -> BTreeMap<String, String> {
    form.numbered_structures("TagSpecification")
        .iter()
        .filter(|specification| specification.get("ResourceType") == Some(resource))
        .flat_map(|specification| tags(specification, "Tag"))
        .collect()
}

/// EC2's limit for the values of all filters of a call.
const MOST_FILTER_VALUES: usize = 200;

/// The filters of a `Describe` call: each names a property, and one of its values must match.
pub(super) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    pub(super) fn of(form: &Params) -> Filters {
        let filter =
            |filter: &Params| Some((filter.get("Name")?.to_owned(), filter.numbered("Value")));
        Filters(form.numbered_structures("Filter").iter().filter_map(filter).collect())
    }

    /// Returns the filters of a call, all on properties that are modelled.
    pub(super) fn checked(
        form: &Params,
        is_modelled: impl Fn(&str) -> bool,
    ) -> Result<Filters, ApiError> {
        let filters = Self::of(form);
        if let Some((name, _)) = filters.0.iter().find(|(name, _)| !is_modelled(name)) {
            let message = format!("The filter '{name}' is invalid");
            return Err(ApiError::new(400, "InvalidParameterValue", message));
        }
        if filters.0.iter().map(|(_, values)| values.len()).sum::<usize>() > MOST_FILTER_VALUES {
            let message = format!(
                "The maximum number of filter values specified on a single call is \
                 {MOST_FILTER_VALUES}"
            );
            return Err(ApiError::new(400, "FilterLimitExceeded", message));
        }
        Ok(filters)
    }

    /// Whether the filters select a resource. A resource without the property, such as an address, is not selected.
    pub(super) fn fit(&self, property: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|(name, values)| {
            property(name).is_some_and(|actual| values.iter().any(|value| matches(value, &actual)))
        })
    }

    /// Whether the filters select a resource with these properties. A filter on a property that is not modelled selects
    /// every resource.
    pub(super) fn want(&self, property: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|(name, values)| {
            property(name).is_none_or(|actual| values.iter().any(|value| matches(value, &actual)))
        })
    }
}

/// Whether `text` matches `pattern`; `*` matches any text.
fn matches(pattern: &str, text: &str) -> bool {
    crate::cloud::access::matches(pattern, text)
}
