//! What a run was: what happened how often, and what there was from second to second. Pure.

use super::chart::sparkline;
use super::crowd::Counts;
use super::helm;
use super::ledger::Ledger;
use super::verdict::judge_memory;

const CHART_COLUMNS: usize = 60;

#[derive(Default)]
pub struct Report {
    /// How many tunnels there are to be at once, how many of them are to stay, and how many descriptors adit may have.
    pub tunnels: usize,
    pub kept: usize,
    pub descriptors: usize,
    pub reloads: u64,
    pub refused_reloads: u64,
    pub deaths: u64,
    pub exhaustions: u64,
    descriptors_max: usize,
    /// A sample a second.
    open: Vec<u64>,
    pub resident: Vec<u64>,
    echoes: Vec<u64>,
    echoes_before: u64,
}

impl Report {
    pub fn new(tunnels: usize, kept: usize, descriptors: usize) -> Report {
        Report { tunnels, kept, descriptors, ..Report::default() }
    }

    /// Notes a second: tunnels, memory, and all echoes up to now.
    pub fn sample(&mut self, open: usize, resident: u64, echoes: u64) {
        self.open.push(open as u64);
        self.resident.push(resident);
        self.echoes.push(echoes - self.echoes_before);
        self.echoes_before = echoes;
    }

    pub fn see_descriptors(&mut self, count: usize) {
        self.descriptors_max = self.descriptors_max.max(count);
    }

    pub fn text(&self, counts: &Counts, helm: &helm::Counts, ledger: &Ledger) -> String {
        let memory = judge_memory(&self.resident);
        let lost = if ledger.lost > 0 { format!("; {} lines were lost", ledger.lost) } else { String::new() };
        let mut text = String::new();
        for (name, told) in [
            (
                "tunnels",
                format!(
                    "{} opened, and {} of the prober; {} at once, {} of them to stay",
                    counts.opened, counts.probes, self.tunnels, self.kept
                ),
            ),
            ("echoes", format!("{}, {} MB each way", counts.echoes, counts.bytes / 1_000_000)),
            (
                "clients",
                format!(
                    "{} left, {} vanished; {} refused and {} closed where that may be",
                    counts.left, counts.vanished, counts.refused, counts.closed
                ),
            ),
            ("reloads", format!("{} taken, {} refused", self.reloads, self.refused_reloads)),
            ("servers", format!("died {} times", self.deaths)),
            (
                "descriptors",
                format!(
                    "ran out {} times; {} at most, of {}",
                    self.exhaustions, self.descriptors_max, self.descriptors
                ),
            ),
            (
                "operators",
                format!(
                    "{} answered, the slowest in {} ms, {} unlucky; {} strangers",
                    helm.answers,
                    helm.slowest.as_millis(),
                    helm.unlucky,
                    helm.strangers
                ),
            ),
            (
                "",
                format!(
                    "let drain or not {} times, closed {} tunnels by {} ids and {} filters, asked {} times",
                    helm.drained, helm.closed, helm.closed_one, helm.closed_some, helm.asked
                ),
            ),
            ("resident", format!("{} KiB early, {} KiB late", memory.early >> 10, memory.late >> 10)),
            (
                "sessions",
                format!("{}, {} tunnels among them{lost}; by outcome:", ledger.sessions, ledger.opened),
            ),
        ] {
            text += &format!("{name:>12} {told}\n");
        }
        for (outcome, count) in &ledger.outcomes {
            text += &format!("{count:>21} {outcome}\n");
        }
        text += &format!("\nper second, over {} s; behind it the most there was\n", self.open.len());
        for (name, values, unit) in [
            ("tunnels", &self.open, 1),
            ("resident KiB", &self.resident, 1 << 10),
            ("echoes", &self.echoes, 1),
        ] {
            let most = values.iter().max().copied().unwrap_or_default() / unit;
            text += &format!("{name:>12} {} {most}\n", sparkline(values, CHART_COLUMNS));
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_counts_its_own_echoes_and_outcomes_are_told_by_name() {
        let mut report =
            Report { tunnels: 300, kept: 37, descriptors: 1430, reloads: 3, ..Report::default() };
        report.sample(100, 8 << 20, 10);
        report.sample(300, 8 << 20, 30);
        report.see_descriptors(700);
        report.see_descriptors(600);
        let mut ledger = Ledger::default();
        ledger.note("id=a event=close status=404 outcome=\"no route\"");
        let text =
            report.text(&Counts { echoes: 30, ..Counts::default() }, &helm::Counts::default(), &ledger);
        for words in [
            " tunnels 0 opened, and 0 of the prober; 300 at once, 37 of them to stay\n",
            " descriptors ran out 0 times; 700 at most, of 1430\n",
            " reloads 3 taken, 0 refused\n",
            "1 no route\n",
            "\n     tunnels ▃█ 300\n",
            "\nresident KiB ██ 8192\n",
            "\n      echoes ▄█ 20\n",
        ] {
            assert!(text.contains(words), "{words:?} in\n{text}");
        }
    }
}
