//! Compares every path in the source with the order of the rooms in the tables of `lib.rs`, and finds circles between
//! files. Tests are exempt: they may use the rooms above.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module as its path, such as `["lifecycle", "boot", "decide"]`.
type Module = Vec<String>;

/// The modules that the source of each module names.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Returns the rooms of a `lib.rs` from top to bottom, by the table in its header.
fn order(lib: &str) -> Vec<&str> {
    lib.lines().filter_map(|line| line.strip_prefix("//! | [`")?.split('`').next()).collect()
}

/// Reads the sources below a folder, except those of tests.
fn sources(root: &Path) -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![(root.to_owned(), Module::new())];
    while let Some((dir, module)) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if ["tests", "lib", "main", "rooms", "stub", "fuzz"].contains(&&*name)
                || name.ends_with("_tests")
            {
                continue;
            }
            let inside =
                if name == "mod" { module.clone() } else { [&module[..], &[name]].concat() };
            if path.is_dir() {
                open.push((path, inside));
            } else {
                found.insert(inside, without_tests(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

/// Returns a source without its comments and without its `#[cfg(test)]` items.
fn without_tests(source: &str) -> String {
    let mut code = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            lines
                .by_ref()
                .find(|line| line.ends_with(';') && !line.starts_with(' ') || *line == "}");
        } else {
            code.push_str(line.split("//").next().unwrap_or_default());
            code.push('\n');
        }
    }
    code
}

/// Returns every path of a source that begins with `crate::`, `super::` or `self::`, with groups written out.
fn paths(code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            // Skips a match in the middle of `super::super::` or at the end of another word.
            if !code[..at].ends_with(|c: char| is_word(c) || c == ':' || c == '$') {
                read_path(&code[at..], &Module::new(), &mut found);
            }
        }
    }
    found
}

/// Reads one path, or the members of a group, behind `prefix`. Returns the number of bytes read.
fn read_path(code: &str, prefix: &Module, found: &mut Vec<Module>) -> usize {
    let mut path = prefix.clone();
    let mut at = 0;
    loop {
        let word = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').count();
        path.push(code[at..at + word].to_owned());
        at += word;
        if !code[at..].starts_with("::") {
            break;
        }
        at += 2;
        if code[at..].starts_with('{') {
            at += 1;
            while !code[at..].starts_with('}') {
                let gap = code[at..].find(|c: char| !c.is_whitespace() && c != ',').unwrap();
                at += gap;
                if !code[at..].starts_with('}') {
                    at += read_path(&code[at..], &path, found).max(1);
                }
            }
            return at + 1;
        }
    }
    found.push(path);
    at
}

/// Returns the module that a path in `module` leads to.
fn resolve(path: &[String], module: &Module, known: &BTreeMap<Module, String>) -> Option<Module> {
    let mut absolute = module.clone();
    for word in path {
        match word.as_str() {
            "crate" => absolute.clear(),
            "self" => {}
            "super" => drop(absolute.pop()),
            word => absolute.push(word.to_owned()),
        }
    }
    while !absolute.is_empty() && !known.contains_key(&absolute) {
        absolute.pop();
    }
    (!absolute.is_empty()).then_some(absolute)
}

fn imports(root: &Path) -> Imports {
    let known = sources(root);
    let of = |(module, code): (&Module, &String)| {
        let targets = paths(code).iter().filter_map(|path| resolve(path, module, &known)).collect();
        (module.clone(), targets)
    };
    known.iter().map(of).collect()
}

/// Returns the paths that lead to a room above.
fn upward(imports: &Imports, order: &[&str]) -> Vec<String> {
    let floor = |module: &Module| order.iter().position(|room| *room == module[0]);
    let mut wrong = Vec::new();
    for (module, targets) in imports {
        for target in targets {
            if floor(module).is_none() || floor(target) < floor(module) {
                wrong.push(format!("{} uses {}", module.join("::"), target.join("::")));
            }
        }
    }
    wrong
}

/// Returns the imports that remain after the removal of every module outside a circle. A module and its own parts may
/// use each other.
fn circles(imports: &Imports) -> Vec<String> {
    let mut edges: BTreeSet<(&Module, &Module)> = imports
        .iter()
        .flat_map(|(module, targets)| targets.iter().map(move |target| (module, target)))
        .filter(|(module, target)| !module.starts_with(target) && !target.starts_with(module))
        .collect();
    loop {
        let from: BTreeSet<_> = edges.iter().map(|(from, _)| *from).collect();
        let to: BTreeSet<_> = edges.iter().map(|(_, to)| *to).collect();
        let before = edges.len();
        edges.retain(|(one, other)| to.contains(one) && from.contains(other));
        if edges.len() == before {
            break;
        }
    }
    edges.iter().map(|(one, other)| format!("{} → {}", one.join("::"), other.join("::"))).collect()
}

#[test]
fn every_room_imports_only_from_the_rooms_below_it_and_no_files_form_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for tree in ["src", "sim/src"] {
        let lib = fs::read_to_string(root.join(tree).join("lib.rs")).unwrap();
        let mut imports = imports(&root.join(tree));
        let order = order(&lib);
        // The binary of the local cloud has a module that `lib.rs` does not declare.
        imports.retain(|module, _| lib.contains(&format!("mod {};", module[0])));
        let rooms: BTreeSet<&str> = imports.keys().map(|module| &*module[0]).collect();
        assert_eq!(rooms, order.iter().copied().collect(), "the table of {tree}/lib.rs");
        assert!(imports.len() > 50, "only {} modules were read", imports.len());
        let wrong = upward(&imports, &order);
        assert!(wrong.is_empty(), "violates the order of {tree}/lib.rs:\n{}", wrong.join("\n"));
        let circles = circles(&imports);
        assert!(circles.is_empty(), "circles in {tree}:\n{}", circles.join("\n"));
    }
}

#[test]
fn paths_groups_and_circles_are_read() {
    let code = without_tests(
        "use super::{a::{self, B}, c};\nfn f() { crate::d::e(); } // crate::no\n#[cfg(test)]\nmod tests;\nself::g!();\n#[cfg(test)]\nmod inline {\n    use crate::never;\n}\n",
    );
    let mut read: Vec<String> = paths(&code).iter().map(|path| path.join("::")).collect();
    read.sort();
    assert_eq!(read, ["crate::d::e", "self::g", "super::a::B", "super::a::self", "super::c"]);

    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let arrows = |arrows: &[(&str, &str)]| {
        let mut imports = Imports::new();
        for (from, to) in arrows {
            imports.entry(module(from)).or_default().insert(module(to));
        }
        imports
    };
    let tree =
        arrows(&[("a::x", "a::y"), ("a::y", "a::x"), ("a::x", "b"), ("b", "b::c"), ("b::c", "b")]);
    assert_eq!(circles(&tree), ["a::x → a::y", "a::y → a::x"]);
    assert_eq!(upward(&tree, &["a", "b"]), [""; 0]);
    assert_eq!(upward(&tree, &["b", "a"]), ["a::x uses b"]);
}
