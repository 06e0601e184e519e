//! Finds the names that are nearest to a misspelt one.

/// Returns the names of which `typed` is probably a misspelling: those at the least distance; none if no name is near.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = names
        .into_iter()
        .map(|name| (distance(typed, name), name))
        .filter(|(distance, name)| *distance <= most(name))
        .collect();
    near.sort();
    let best = near.first().map_or(0, |(distance, _)| *distance);
    near.into_iter().take_while(|(distance, _)| *distance == best).map(|(_, name)| name).collect()
}

/// Returns the number of mistakes in `typed`. A missing last word, as in `webhook.url` for `webhook.url_file`, is one.
fn distance(typed: &str, name: &str) -> usize {
    let rest = name.strip_prefix(typed).and_then(|rest| rest.strip_prefix('_'));
    match rest {
        Some(word) if !word.contains('_') => 1,
        _ => strsim::levenshtein(typed, name),
    }
}

/// Returns the largest distance of a misspelling. With more mistakes than a third of its letters it is another word.
fn most(name: &str) -> usize {
    (name.chars().count() / 3).clamp(1, 3)
}

/// Returns `; did you mean …?` for the end of a problem; empty without names.
pub fn did_you_mean(names: &[&str]) -> String {
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_found_and_far_ones_are_not() {
        let names = ["boot.deadline", "boot.lease", "leave.deadline", "role"];
        assert_eq!(nearest("boot.deadlin", names), ["boot.deadline"]);
        assert_eq!(nearest("rôle", names), ["role"]);
        assert_eq!(nearest("colour", names), [""; 0]);
        assert_eq!(nearest("leave.dead", names), [""; 0], "a distance of four is another word");
        let names = ["webhook.url_file", "webhook.urls", "webhook.url_of_a_file"];
        assert_eq!(nearest("webhook.url", names), ["webhook.url_file", "webhook.urls"]);
        assert_eq!(nearest("ab", ["aa", "bb"]), ["aa", "bb"]);
    }
}
