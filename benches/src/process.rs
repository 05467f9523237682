//! What Linux counts of this process: memory, page faults, time in the system. Nothing elsewhere.

/// A figure of `/proc/self/status` in bytes: `"VmHWM"`, the most memory ever held, `"VmRSS"`, the memory held now.
pub fn status(name: &str) -> Option<u64> {
    sum("/proc/self/status", name)
}

/// Bytes of anonymous memory that lie in huge pages now.
pub fn huge_bytes() -> Option<u64> {
    sum("/proc/self/smaps_rollup", "AnonHugePages")
}

fn sum(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// What the system has counted of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Page faults that needed no disk.
    pub faults: u64,
    /// Seconds of all threads in their own code.
    pub user: f64,
    /// Seconds of all threads inside the system.
    pub system: f64,
}

impl Usage {
    /// Until now.
    pub fn now() -> Option<Usage> {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // proc_pid_stat(5): minflt, utime and stime are fields 10, 14 and 15; two precede these. A tick is 10 ms.
        let seconds = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? / 100.0);
        Some(Usage { faults: fields.get(7)?.parse().ok()?, user: seconds(11)?, system: seconds(12)? })
    }

    /// Since `before`.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            faults: self.faults - before.faults,
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }
}
