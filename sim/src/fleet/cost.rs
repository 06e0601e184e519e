//! Reads the resource usage of a process from the kernel.

/// Resource usage of a process.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub mib: f64,
    pub descriptors: usize,
    pub threads: usize,
}

impl Cost {
    /// Returns `None` if the process has ended.
    pub fn of(pid: i32) -> Option<Cost> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<usize>().ok()
        };
        Some(Cost {
            mib: field("VmRSS:")? as f64 / 1024.0,
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: field("Threads:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_cost() {
        let cost = Cost::of(std::process::id().cast_signed()).unwrap();
        assert!(cost.mib > 0.5 && cost.descriptors > 2 && cost.threads > 0, "{cost:?}");
        assert!(Cost::of(i32::MAX).is_none());
    }
}
