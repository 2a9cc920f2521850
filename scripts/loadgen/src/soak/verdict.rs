//! What a run must show, and what was found against it. Pure.

/// One promise each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    Bytes,
    Tunnels,
    Openings,
    Reloads,
    Descriptors,
    Sessions,
    Memory,
    Rest,
    Operators,
    Exit,
}

const PROMISES: [(Promise, &str); 10] = [
    (Promise::Bytes, "no byte is lost, changed or made up"),
    (Promise::Tunnels, "no tunnel ends that nothing was to end"),
    (Promise::Openings, "nobody is turned away from what is there and well"),
    (Promise::Reloads, "a configuration is taken whole or not at all"),
    (Promise::Descriptors, "descriptors run out without harm, and none is left over"),
    (Promise::Sessions, "every session of the access log is closed, and none by a panic"),
    (Promise::Memory, "memory does not grow"),
    (Promise::Rest, "nobody there, nothing done"),
    (Promise::Operators, "operators are answered, and what they say is done"),
    (Promise::Exit, "asked to end, it does, in time and with 0"),
];

/// Of one promise so many breaches are told in full, the rest only counted.
const TOLD_MAX: usize = 5;

/// What was found.
#[derive(Default)]
pub struct Verdict {
    breaches: Vec<(Promise, String)>,
}

impl Verdict {
    pub fn breach(&mut self, promise: Promise, what: impl Into<String>) {
        self.breaches.push((promise, what.into()));
    }

    pub fn expect(&mut self, promise: Promise, is_kept: bool, what: impl FnOnce() -> String) {
        if !is_kept {
            self.breach(promise, what());
        }
    }

    pub fn is_good(&self) -> bool {
        self.breaches.is_empty()
    }

    /// A line for each promise, under it what broke it, and a last line in the form in which tests are counted.
    pub fn text(&self, seed: u64) -> String {
        let mut text = String::new();
        let mut broken = 0;
        for (promise, words) in PROMISES {
            let told: Vec<&str> = self
                .breaches
                .iter()
                .filter(|(of, _)| *of == promise)
                .map(|(_, what)| what.as_str())
                .collect();
            broken += usize::from(!told.is_empty());
            let mark = if told.is_empty() { "ok    " } else { "FAILED" };
            text += &format!("{mark} {words}\n");
            told.iter().take(TOLD_MAX).for_each(|what| text += &format!("       {what}\n"));
            if told.len() > TOLD_MAX {
                text += &format!("       and {} more\n", told.len() - TOLD_MAX);
            }
        }
        let result = if broken == 0 { "ok" } else { "FAILED" };
        let kept = PROMISES.len() - broken;
        text + &format!("test result: {result}. {kept} passed; {broken} failed; seed {seed}\n")
    }
}

/// A process has all its buffers and its allocator's habits by then.
const SETTLED_SECONDS: u64 = 10;
/// A run that is longer than this has a beginning and an end to compare.
const JUDGED_SECONDS: u64 = 20;
/// What may come on top without being growth: an allocator's pages, a table that has doubled. A short run has hardly
/// more than its beginning.
const ALLOWED_BYTES: u64 = 1 << 20;
const ALLOWED_BYTES_SHORT: u64 = 8 << 20;

/// What resident memory did, a sample a second.
#[derive(Debug, PartialEq, Eq)]
pub struct Memory {
    /// Medians of the beginning and of the end.
    pub early: u64,
    pub late: u64,
    pub has_grown: bool,
}

/// Compares the end of a run with its beginning. What is short can only be told from doubling.
pub fn judge_memory(samples: &[u64]) -> Memory {
    let seconds = samples.len() as u64;
    let is_judged = seconds >= JUDGED_SECONDS;
    let settled = if is_judged { SETTLED_SECONDS as usize } else { samples.len() / 4 };
    let part = ((samples.len() - settled) / 4).max(1);
    let median = |samples: &[u64]| {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    let early = median(&samples[settled..(settled + part).min(samples.len())]);
    let late = median(&samples[samples.len().saturating_sub(part)..]);
    let (share, bytes) = if is_judged { (early / 5, ALLOWED_BYTES) } else { (early, ALLOWED_BYTES_SHORT) };
    Memory { early, late, has_grown: late > early + share.max(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_is_a_test_with_a_line() {
        let mut verdict = Verdict::default();
        let text = verdict.text(7);
        assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), PROMISES.len());
        assert!(text.ends_with("\ntest result: ok. 10 passed; 0 failed; seed 7\n"), "{text}");

        for number in 0..8 {
            verdict.breach(Promise::Bytes, format!("byte {number}"));
        }
        verdict.expect(Promise::Exit, false, || "it hangs".into());
        verdict.expect(Promise::Rest, true, || unreachable!());
        let text = verdict.text(7);
        assert!(!verdict.is_good() && text.contains("\nFAILED asked to end"), "{text}");
        assert!(text.contains("       byte 4\n       and 3 more\n") && !text.contains("byte 5"), "{text}");
        assert!(text.ends_with("\ntest result: FAILED. 8 passed; 2 failed; seed 7\n"), "{text}");
    }

    #[test]
    fn memory_that_grows_is_told_from_memory_that_sways() {
        const MIB: u64 = 1 << 20;
        let check = |name: &str, seconds: u64, at: fn(u64) -> u64, expected: bool| {
            let samples: Vec<u64> = (0..seconds).map(|second| at(second) * MIB).collect();
            let memory = judge_memory(&samples);
            assert_eq!(memory.has_grown, expected, "{name}: {memory:?}");
        };
        check("nothing", 0, |_| 0, false);
        check("one", 1, |_| 5, false);
        check("even", 60, |_| 50, false);
        check("rising at first", 60, |second| 10 + second.min(10) * 10, false);
        check("a MiB a second", 60, |second| 50 + second, true);
        check("the same, from much", 60, |second| 1000 + second, false);
        check("20 % of much", 3600, |second| 1000 + second / 10, true);
        check("some pages more", 60, |second| if second < 30 { 4 } else { 5 }, false);
        check("what each reload leaves", 60, |second| 5 + second / 12, true);
        check("doubled, but little and short", 15, |second| if second < 8 { 5 } else { 10 }, false);
        check("peaks", 60, |second| if second % 3 == 0 { 500 } else { 50 }, false);
        check("one peak at the end", 60, |second| if second > 56 { 500 } else { 50 }, false);
        check("falling", 60, |second| 100 - second, false);
        check("short, half more", 15, |second| 40 + second * 2, false);
        check("short, trebled", 15, |second| 20 + second * 5, true);
    }
}
