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

/// Page faults that needed no disk, and seconds of all threads inside the system.
pub fn faults_and_system_time() -> Option<(u64, f64)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // proc_pid_stat(5): minflt is field 10 and stime field 15 of all; two precede these. A tick is a hundredth of a second.
    Some((fields.get(7)?.parse().ok()?, fields.get(12)?.parse::<f64>().ok()? / 100.0))
}
