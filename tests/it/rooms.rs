//! Do the files of `src` import each other in one direction only?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The path of a module, as `gateway`, `vendor`.
type Module = Vec<String>;

/// The code of every module, without its tests and comments.
fn modules() -> BTreeMap<Module, String> {
    fn read(folder: &Path, module: &Module, all: &mut BTreeMap<Module, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let module: Module = module.iter().cloned().chain([name.clone()]).collect();
            if path.is_dir() {
                read(&path, &module, all);
            } else if path.extension().is_some_and(|kind| kind == "rs")
                && !["lib", "main", "tests"].contains(&&*name)
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("\n#[cfg(test)]\n").next().unwrap();
                let lines = code
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                all.insert(module, lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    let mut all = BTreeMap::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&source, &Vec::new(), &mut all);
    all
}

/// Each path that a `use` tree names: `a::{b, c::D}` names two.
fn paths(tree: &str) -> Vec<Module> {
    let Some((before, within)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![
            path.split("::")
                .map(|name| name.trim().to_owned())
                .collect(),
        ];
    };
    let prefix: Module = before
        .split("::")
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let within = within.rsplit_once('}').unwrap().0;
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in within.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    parts
        .iter()
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| paths(part))
        .map(|rest| prefix.iter().cloned().chain(rest).collect())
        .collect()
}

/// The modules that the `use`s of this one lead to: the last part of a path that is a module.
fn imports(module: &Module, code: &str, all: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let statements = code.split(';').filter_map(|statement| {
        let from_here = ["\nuse ", "\npub use ", "\npub(crate) use "];
        let mut uses = from_here.iter();
        let (_, tree) = uses.find_map(|begins| statement.rsplit_once(begins))?;
        Some(tree)
    });
    let mut found = BTreeSet::new();
    for path in statements.flat_map(paths) {
        let mut names = path.iter().peekable();
        let mut at: Module = match path[0].as_str() {
            "crate" => Vec::new(),
            "self" | "super" => module.clone(),
            _ => continue,
        };
        while let Some(name) = names.next_if(|name| ["crate", "self", "super"].contains(&&***name))
        {
            if name == "super" {
                at.pop();
            }
        }
        for name in names {
            at.push(name.clone());
            if !all.contains_key(&at) {
                at.pop();
                break;
            }
        }
        if !at.is_empty() && at != *module {
            found.insert(at);
        }
    }
    found
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let all = modules();
    let mut left: BTreeMap<Module, BTreeSet<Module>> = all
        .iter()
        .map(|(module, code)| (module.clone(), imports(module, code, &all)))
        .collect();
    assert!(
        left.values().map(BTreeSet::len).sum::<usize>() > 100,
        "imports are seen"
    );
    // Whoever imports nothing that is left is in no circle.
    loop {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, imports)| imports.iter().all(|one| !left.contains_key(one)))
            .map(|(module, _)| module.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            left.remove(&module);
        }
    }
    let within = |imports: &BTreeSet<Module>| {
        let names = imports.iter().filter(|one| left.contains_key(*one));
        names
            .map(|one| one.join("/"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let circle: Vec<_> = left
        .iter()
        .map(|(module, imports)| format!("{} → {}", module.join("/"), within(imports)))
        .collect();
    assert!(
        circle.is_empty(),
        "in a circle, or above one:\n{}",
        circle.join("\n")
    );
}

#[test]
fn the_simulator_and_signing_import_nothing_of_the_gateway() {
    let all = modules();
    for (module, code) in &all {
        let room = &module[0];
        if !["simulator", "signing"].contains(&&**room) {
            continue;
        }
        for import in imports(module, code, &all) {
            let may = import[0] == *room || (room == "signing" && import[0] != "gateway");
            assert!(may, "{} imports {}", module.join("/"), import.join("/"));
        }
        let names_crate = code.contains("crate::") && room == "simulator";
        let own = code.matches("crate::").count() == code.matches("crate::simulator").count();
        assert!(!names_crate || own, "{} names the crate", module.join("/"));
    }
}
