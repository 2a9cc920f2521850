//! What the kernel says about processes: their CPU time, their memory, and how busy the machine was with others.
//! Parsers are pure and take the text of a file in `/proc`; the functions under them read it.

use std::fs;
use std::time::{Duration, Instant};

/// The unit of `/proc/stat`, the same on every architecture that matters here.
const JIFFY: Duration = Duration::from_millis(10);

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What no other process shares: clean and dirty.
    pub private: u64,
    /// All that is resident.
    pub resident: u64,
}

/// The CPU time of a process up to now: its threads' `schedstat`, which counts nanoseconds where `stat` counts ticks.
/// What the kernel does for it in soft interrupts is part of it, unless the kernel accounts for those on their own.
pub fn cpu_time(pid: u32) -> Result<Duration, String> {
    let tasks = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))?;
    let mut sum = Duration::ZERO;
    for thread in threads.flatten() {
        // A thread that has just ended has no file any more.
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        sum += schedstat(&text).ok_or_else(|| format!("{tasks}: schedstat says {text:?}"))?;
    }
    Ok(sum)
}

/// "time on the CPU in ns, time spent waiting for it in ns, time slices".
fn schedstat(text: &str) -> Option<Duration> {
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

pub fn memory(pid: u32) -> Result<Memory, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    smaps_rollup(&text).ok_or_else(|| format!("{path}: a field is missing"))
}

fn smaps_rollup(text: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Memory { private: field("Private_Clean")? + field("Private_Dirty")?, resident: field("Rss")? })
}

/// How many descriptors this process, and so what it starts, may have.
pub fn descriptors_max() -> Option<u64> {
    open_files(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(core_list).unwrap_or_default()
}

/// "0-2,5"
fn core_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cores)
}

/// What one field of `/proc/cpuinfo` says of the first core.
pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, model)| model.trim()).to_owned()
}

/// The kernel's threads that take over what soft interrupts are too many to do at once: on the loopback interface that
/// is the sockets' own work, so it counts as ours. None where a container does not show them.
pub fn soft_interrupt_threads() -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    };
    pids.filter(is_one).collect()
}

/// How much of the machine was in use at a moment, by anybody and by us.
#[derive(Debug)]
pub struct Usage {
    at: Instant,
    machine: Duration,
    ours: Duration,
}

impl Usage {
    /// `ours` are the processes that belong to the measurement; this one is among them anyway.
    pub fn now(ours: &[u32]) -> Result<Self, String> {
        let mut sum = cpu_time(std::process::id())?;
        for &pid in ours {
            sum += cpu_time(pid)?;
        }
        let text = fs::read_to_string("/proc/stat").map_err(|error| format!("/proc/stat: {error}"))?;
        let machine = busy(&text).ok_or("/proc/stat: no line for all cores")?;
        Ok(Self { at: Instant::now(), machine, ours: sum })
    }

    /// How many cores others used between then and now. The kernel samples these figures at its timer's ticks, so
    /// that a run of a second is right to a few hundredths of a core.
    pub fn others_since(&self, before: &Self) -> f64 {
        let elapsed = self.at.duration_since(before.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let machine = self.machine.saturating_sub(before.machine);
        let ours = self.ours.saturating_sub(before.ours);
        machine.saturating_sub(ours).as_secs_f64() / elapsed
    }
}

/// All that is neither idle nor waiting for a disk; what a hypervisor took away is among it.
fn busy(stat: &str) -> Option<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u32> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else { return None };
    Some(JIFFY * (user + nice + system + irq + softirq + steal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedstat_begins_with_the_nanoseconds_on_the_cpu() {
        assert_eq!(schedstat("1500000321 777 42\n"), Some(Duration::from_nanos(1_500_000_321)));
        assert_eq!(schedstat("\n"), None);
    }

    #[test]
    fn private_memory_is_clean_and_dirty_without_what_is_shared() {
        let text = "55d000-7ffd000 ---p 00000000 00:00 0    [rollup]\n\
                    Rss:                2900 kB\nPss:                1000 kB\nPss_Dirty:            90 kB\n\
                    Shared_Clean:       2000 kB\nShared_Dirty:          1 kB\n\
                    Private_Clean:       300 kB\nPrivate_Dirty:       599 kB\nPrivate_Hugetlb:       7 kB\n";
        assert_eq!(smaps_rollup(text), Some(Memory { private: 899 * 1024, resident: 2900 * 1024 }));
        assert_eq!(smaps_rollup("Rss: 2900 kB\nPrivate_Clean: 1 kB\n"), None);
    }

    #[test]
    fn the_soft_limit_of_descriptors_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             96365                96365                processes \n\
                    Max open files            1024                 20000                files     \n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files\n"),
            Some(u64::MAX)
        );
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn cores_come_singly_and_in_ranges() {
        assert_eq!(core_list("\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(core_list("3"), Some(vec![3]));
        assert_eq!(core_list(""), None);
    }

    #[test]
    fn neither_idling_nor_waiting_for_a_disk_is_being_busy() {
        let text = "cpu  100 20 30 9999 8888 4 5 6 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 3\n";
        assert_eq!(busy(text), Some(Duration::from_millis(1650)));
        assert_eq!(busy("cpu  100 20\n"), None);
    }

    #[test]
    fn others_used_what_was_not_ours() {
        let at = Instant::now();
        let usage = |seconds, machine, ours| Usage {
            at: at + Duration::from_secs(seconds),
            machine: Duration::from_millis(machine),
            ours: Duration::from_millis(ours),
        };
        assert!((usage(2, 4000, 1000).others_since(&usage(0, 1000, 500)) - 1.25).abs() < 1e-9);
        assert_eq!(usage(2, 1000, 1500).others_since(&usage(0, 1000, 500)), 0.0);
    }
}
