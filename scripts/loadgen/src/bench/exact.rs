//! The two figures without noise, system calls and user instructions, from what strace and callgrind write when the
//! program under them ends. Starting and ending it costs some of both: two lengths are run, and the difference is
//! divided by the difference in length.

use std::fs;
use std::path::Path;

/// All system calls that strace's table counts.
pub fn calls(table: &Path) -> Result<u64, String> {
    strace_total(&read(table)?).ok_or_else(|| format!("{}: strace counted nothing", table.display()))
}

/// All instructions in user space that callgrind counted.
pub fn instructions(totals: &Path) -> Result<u64, String> {
    callgrind_total(&read(totals)?).ok_or_else(|| format!("{}: callgrind counted nothing", totals.display()))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What each one more costs, given what two lengths cost.
pub fn each((short, short_cost): (u64, u64), (long, long_cost): (u64, u64)) -> f64 {
    (long_cost as f64 - short_cost as f64) / (long as f64 - short as f64)
}

/// The number of calls in the table's last line: "100.00    0.001234           2       617        12 total". The
/// column of errors is empty where there were none.
fn strace_total(table: &str) -> Option<u64> {
    let line = table.lines().rev().find(|line| line.split_whitespace().next_back() == Some("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// "totals: 123456" at the end of the file, or "summary: 123456" where there is only one part.
fn callgrind_total(file: &str) -> Option<u64> {
    let of = |name: &str| file.lines().rev().find_map(|line| line.strip_prefix(name));
    of("totals:").or_else(|| of("summary:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_a_table_are_its_total_with_and_without_errors() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 72.11    0.004321           8       512           sendto
  0.00    0.000000           0         1         1 access
------ ----------- ----------- --------- --------- ----------------
100.00    0.005993           9       617        12 total
";
        assert_eq!(strace_total(table), Some(617));
        assert_eq!(strace_total("100.00    0.005993           9       600           total\n"), Some(600));
        assert_eq!(strace_total("strace: Process 7 attached\n"), None);
    }

    #[test]
    fn the_instructions_of_a_file_are_its_totals() {
        let file = "events: Ir\nsummary: 900\n\nfn=(1) main\n12 totals\ntotals: 901234\n";
        assert_eq!(callgrind_total(file), Some(901_234));
        assert_eq!(callgrind_total("events: Ir\nsummary: 900 3\n"), Some(900));
        assert_eq!(callgrind_total("events: Ir\n"), None);
    }

    #[test]
    fn what_start_and_end_cost_is_not_divided() {
        assert_eq!(each((100, 1_403), (300, 2_209)), 4.03);
    }
}
