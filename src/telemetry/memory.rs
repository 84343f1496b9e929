//! How much memory may the process take, before the system ends it?

use std::fs::read_to_string;
use std::path::Path;

/// Where a control group says so: what its line in `/proc/self/cgroup` has before the path, where
/// its folders are, and the file; for both versions of control groups.
const GROUPS: [(&str, &str, &str); 2] = [
    ("0::", "sys/fs/cgroup", "memory.max"),
    (":memory:", "sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// The least of the limits of its control groups and of what the machine has. None where the system
/// tells neither.
pub fn limit() -> Option<u64> {
    limit_under(Path::new("/"))
}

fn limit_under(root: &Path) -> Option<u64> {
    let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = GROUPS.iter().flat_map(|(before, folders, file)| {
        let path = groups
            .lines()
            .find_map(|line| line.split_once(before))
            .map(|(_, path)| Path::new(path.trim_start_matches('/')));
        let folders = root.join(folders);
        // In a container its own group is the root that it sees.
        let groups = path.into_iter().flat_map(Path::ancestors);
        groups
            .filter_map(move |group| number(&read_to_string(folders.join(group).join(file)).ok()?))
            .collect::<Vec<_>>()
    });
    limits.chain(machine(root)).min()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok() // "max" is none
}

fn machine(root: &Path) -> Option<u64> {
    let text = read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(number(line.trim().strip_suffix("kB")?)? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Files = &'static [(&'static str, &'static str)];

    #[test]
    fn the_least_limit_counts() {
        const MACHINE: &str = "MemTotal:        1000 kB\nMemFree: 1 kB\n";
        let rows: [(Files, Option<u64>); 5] = [
            (&[], None),
            (&[("proc/meminfo", MACHINE)], Some(1_024_000)),
            (
                &[
                    ("proc/meminfo", MACHINE),
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "65536\n"),
                ],
                Some(65536),
            ),
            (
                &[
                    ("proc/meminfo", MACHINE),
                    ("proc/self/cgroup", "0::/system.slice/gateway.service\n"),
                    ("sys/fs/cgroup/system.slice/memory.max", "4096\n"),
                    (
                        "sys/fs/cgroup/system.slice/gateway.service/memory.max",
                        "max\n",
                    ),
                ],
                Some(4096),
            ),
            (
                &[
                    ("proc/self/cgroup", "5:cpu:/a\n4:memory:/docker/a\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n"),
                ],
                Some(8192),
            ),
        ];
        for (files, expected) in rows {
            let root = tempfile::tempdir().unwrap();
            for (path, content) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            assert_eq!(limit_under(root.path()), expected, "{files:?}");
        }
    }

    #[test]
    fn this_machine_has_a_limit() {
        assert!(limit().is_some_and(|limit| limit > 1 << 20));
    }
}
