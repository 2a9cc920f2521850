//! What came of all runs: medians, ratios, a table for people and JSON with everything for programs. Pure but for the
//! clock of the JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::peers::{Kind, Peer, baseline};
use super::rows::{Better, Figure, Row, Sample};

/// One run of one row by one peer.
#[derive(Debug, Clone)]
pub struct Run {
    /// Places in the report's lists.
    pub row: usize,
    pub peer: usize,
    pub round: u32,
    pub sample: Sample,
    /// Whether others left the machine alone meanwhile.
    pub is_quiet: bool,
}

/// Where and how it was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct About {
    pub command: String,
    pub unix_time: u64,
    pub cpu: String,
    pub kernel: String,
    /// Of the proxy, and of the load and the server.
    pub cores: Option<(usize, usize)>,
    pub rounds: u32,
    pub seconds_per_run: f64,
    pub seconds: f64,
    pub idle_tunnels: u64,
    /// Cores in use by others, above which a run is left out.
    pub others_max: f64,
    pub notes: Vec<String>,
}

#[derive(Debug)]
pub struct Report {
    pub about: About,
    pub peers: Vec<Peer>,
    pub rows: Vec<Row>,
    pub runs: Vec<Run>,
}

/// What a peer's figure is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    Nginx,
    /// The better of the bare relays, figure by figure.
    Relay,
    Direct,
}

/// Of values in any order; the middle of the two in the middle where their number is even.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl Report {
    /// The runs that count for a peer in a row: the quiet ones; or all, for all peers alike, where one of them had none.
    /// A disturbed median beside a quiet one would say more about the neighbours than about either.
    pub fn counted(&self, row: usize, peer: usize) -> Vec<&Run> {
        let is_disturbed = self.is_disturbed(row);
        let runs = self.runs.iter().filter(|run| run.row == row && run.peer == peer);
        runs.filter(|run| run.is_quiet || is_disturbed).collect()
    }

    /// Whether some peer had no quiet run in this row.
    fn is_disturbed(&self, row: usize) -> bool {
        let quiet = |peer: usize| {
            self.runs
                .iter()
                .filter(|run| run.row == row && run.peer == peer)
                .map(|run| run.is_quiet)
                .reduce(|a, b| a || b)
        };
        (0..self.peers.len()).any(|peer| quiet(peer) == Some(false))
    }

    fn values(&self, row: usize, figure: usize, peer: usize) -> Vec<f64> {
        let runs = self.counted(row, peer).into_iter();
        runs.filter_map(|run| run.sample.values.get(figure).copied().flatten()).collect()
    }

    pub fn median(&self, row: usize, figure: usize, peer: usize) -> Option<f64> {
        median(&self.values(row, figure, peer))
    }

    /// What peers are compared with, where it took part in this row.
    pub fn against(&self, against: Against, row: usize, figure: usize) -> Option<f64> {
        match against {
            Against::Nginx => self.median(row, figure, baseline(&self.peers)?),
            Against::Relay => {
                self.best_of(row, figure, |kind| matches!(kind, Kind::Relay | Kind::RelaySplice))
            }
            Against::Direct => self.best_of(row, figure, |kind| kind == Kind::Direct),
        }
    }

    /// The best median among the peers of some kinds.
    pub fn best_of(&self, row: usize, figure: usize, is_meant: impl Fn(Kind) -> bool) -> Option<f64> {
        let meant = (0..self.peers.len()).filter(|&peer| is_meant(self.peers[peer].kind));
        let medians = meant.filter_map(|peer| self.median(row, figure, peer));
        match self.rows[row].figures()[figure].better {
            Better::Less => medians.reduce(f64::min),
            Better::More => medians.reduce(f64::max),
        }
    }

    fn ratio(&self, against: Against, row: usize, figure: usize, peer: usize) -> Option<f64> {
        let base = self.against(against, row, figure).filter(|base| *base > 0.0)?;
        Some(self.median(row, figure, peer)? / base)
    }

    /// How far apart the rounds of the peer that varied most were, as a part of its median.
    fn spread(&self, row: usize, figure: usize) -> Option<f64> {
        let spreads = (0..self.peers.len()).filter_map(|peer| {
            let values = self.values(row, figure, peer);
            let middle = median(&values).filter(|middle| *middle > 0.0)?;
            let (low, high) =
                (values.iter().copied().reduce(f64::min)?, values.iter().copied().reduce(f64::max)?);
            (values.len() > 1).then_some((high - low) / middle)
        });
        median(&spreads.collect::<Vec<_>>())
    }

    /// The line that says how busy the machine was.
    pub fn busy(&self) -> String {
        let others: Vec<f64> = self.runs.iter().filter_map(|run| run.sample.others).collect();
        let Some(middle) = median(&others) else { return "no timed runs".into() };
        let most = others.iter().copied().reduce(f64::max).unwrap_or_default();
        let left_out = self.runs.iter().filter(|run| !run.is_quiet).count();
        let mut line = format!(
            "others used {middle:.2} of a core in the median run, {most:.2} at most; {left_out} of {} timed runs are \
             left out because it was more than {:.2}",
            others.len(),
            self.about.others_max
        );
        let disturbed = (0..self.rows.len()).filter(|&row| self.is_disturbed(row)).count();
        if disturbed > 0 {
            let _ =
                write!(line, "; but {disturbed} rows (~) count them, where not every peer had one without");
        }
        line
    }

    /// Everything, for people.
    pub fn table(&self) -> String {
        let mut text = format!("{}, Linux {}", self.about.cpu, self.about.kernel);
        let _ = match self.about.cores {
            Some((proxy, load)) => writeln!(text, "; proxy on core {proxy}, load and server on core {load}"),
            None => writeln!(text, "; one core for all"),
        };
        for peer in self.peers.iter().filter(|peer| !peer.version.is_empty()) {
            let _ = writeln!(text, "  {:18} {} ({})", peer.name, peer.program.display(), peer.version);
        }
        let timed = if self.runs.iter().any(|run| run.sample.others.is_some()) {
            format!("{} rounds of {:.2} s a run", self.about.rounds, self.about.seconds_per_run)
        } else {
            "no rounds".into()
        };
        let _ = writeln!(text, "{timed}, {:.0} s in all; {}", self.about.seconds, self.busy());
        for note in &self.about.notes {
            let _ = writeln!(text, "note: {note}");
        }
        self.section(&mut text, "MEDIANS (and the spread of the rounds)", |row, figure, peer| {
            let mark = if self.is_disturbed(row) { "~" } else { "" };
            self.median(row, figure, peer).map(|value| format!("{mark}{}", short(value)))
        });
        for (against, name) in
            [(Against::Nginx, "NGINX"), (Against::Relay, "THE BARE RELAY"), (Against::Direct, "NO PROXY")]
        {
            self.section(&mut text, &format!("RATIO TO {name}"), |row, figure, peer| {
                self.ratio(against, row, figure, peer).map(short_ratio)
            });
        }
        text
    }

    /// A line for each figure of which any peer has something to say, a column for each peer.
    fn section(&self, text: &mut String, title: &str, cell: impl Fn(usize, usize, usize) -> Option<String>) {
        let with_spread = title.starts_with("MEDIANS");
        let figures =
            (0..self.rows.len()).flat_map(|row| (0..self.rows[row].figures().len()).map(move |f| (row, f)));
        let mut body = String::new();
        for (row, figure) in figures {
            let cells: Vec<Option<String>> =
                (0..self.peers.len()).map(|peer| cell(row, figure, peer)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let Figure { name, unit, .. } = self.rows[row].figures()[figure];
            let _ = write!(body, "{:54}", format!("{}: {name}, {unit}", self.rows[row].title));
            for cell in cells {
                let _ = write!(body, "{:>9}", cell.unwrap_or_else(|| "-".into()));
            }
            if let Some(spread) = self.spread(row, figure).filter(|_| with_spread) {
                let _ = write!(body, "  ±{:.0} %", spread * 50.0);
            }
            body.push('\n');
        }
        if body.is_empty() {
            return;
        }
        let _ = writeln!(text, "\n{title}");
        // "haproxy 2.6 splice" stands on three lines.
        let lines = self.peers.iter().map(|peer| peer.name.split(' ').count()).max().unwrap_or(1);
        for line in 0..lines {
            let _ = write!(text, "{:54}", "");
            for peer in &self.peers {
                let _ = write!(text, "{:>9}", peer.name.split(' ').nth(line).unwrap_or_default());
            }
            text.push('\n');
        }
        text.push_str(&body);
    }

    /// Everything, for programs.
    pub fn json(&self) -> Result<String, String> {
        let figures =
            (0..self.rows.len()).flat_map(|row| (0..self.rows[row].figures().len()).map(move |f| (row, f)));
        let by_peer = |value: &dyn Fn(usize) -> Option<f64>| -> BTreeMap<String, f64> {
            let peers = self.peers.iter().enumerate();
            peers.filter_map(|(place, peer)| Some((peer.name.clone(), value(place)?))).collect()
        };
        let figures: Vec<FigureRecord> = figures
            .map(|(row, figure)| FigureRecord {
                row: self.rows[row].name,
                title: self.rows[row].title,
                figure: self.rows[row].figures()[figure].name,
                unit: self.rows[row].figures()[figure].unit,
                better: self.rows[row].figures()[figure].better,
                medians: by_peer(&|peer| self.median(row, figure, peer)),
                to_nginx: by_peer(&|peer| self.ratio(Against::Nginx, row, figure, peer)),
                to_relay: by_peer(&|peer| self.ratio(Against::Relay, row, figure, peer)),
                to_direct: by_peer(&|peer| self.ratio(Against::Direct, row, figure, peer)),
            })
            .collect();
        let runs: Vec<RunRecord> = self
            .runs
            .iter()
            .map(|run| RunRecord {
                row: self.rows[run.row].name,
                peer: &self.peers[run.peer].name,
                round: run.round,
                values: self.rows[run.row]
                    .figures()
                    .iter()
                    .map(|f| f.name)
                    .zip(run.sample.values.clone())
                    .collect(),
                others: run.sample.others,
                is_quiet: run.is_quiet,
                histogram: &run.sample.histogram,
            })
            .collect();
        let all = Record { about: &self.about, busy: self.busy(), peers: &self.peers, figures, runs };
        serde_json::to_string_pretty(&all).map_err(|error| error.to_string())
    }
}

#[derive(Serialize)]
struct Record<'a> {
    about: &'a About,
    busy: String,
    peers: &'a [Peer],
    figures: Vec<FigureRecord>,
    runs: Vec<RunRecord<'a>>,
}

#[derive(Serialize)]
struct FigureRecord {
    row: &'static str,
    title: &'static str,
    figure: &'static str,
    unit: &'static str,
    better: Better,
    medians: BTreeMap<String, f64>,
    to_nginx: BTreeMap<String, f64>,
    to_relay: BTreeMap<String, f64>,
    to_direct: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct RunRecord<'a> {
    row: &'static str,
    peer: &'a str,
    round: u32,
    values: BTreeMap<&'static str, Option<f64>>,
    others: Option<f64>,
    is_quiet: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    histogram: &'a [(f64, f64)],
}

/// Three digits that mean something, or all before the point.
pub fn short(value: f64) -> String {
    match value.abs() {
        big if big >= 99.95 => grouped(value.round()),
        middle if middle >= 9.995 => format!("{value:.1}"),
        small if small >= 0.0995 || small == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// "32,318"
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn short_ratio(ratio: f64) -> String {
    if ratio.abs() < 0.0995 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn row(name: &str) -> Row {
        *ROWS.iter().find(|row| row.name == name).unwrap()
    }

    fn run(peer: usize, value: f64, is_quiet: bool) -> Run {
        let sample = Sample { values: vec![Some(value)], others: Some(0.25), histogram: Vec::new() };
        Run { row: 0, peer, round: 0, sample, is_quiet }
    }

    fn report(row_name: &str, peers: &[(&str, Kind)], runs: Vec<Run>) -> Report {
        let peer = |&(name, kind): &(&str, Kind)| Peer {
            name: name.into(),
            kind,
            program: "".into(),
            version: String::new(),
        };
        Report {
            about: About::default(),
            peers: peers.iter().map(peer).collect(),
            rows: vec![row(row_name)],
            runs,
        }
    }

    #[test]
    fn a_median_is_the_middle_of_what_was_sorted() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn disturbed_runs_are_left_out_where_every_peer_had_a_quiet_one() {
        let peers = [("adit", Kind::Adit), ("relay", Kind::Relay)];
        let mut runs = vec![run(0, 10.0, true), run(0, 90.0, false), run(0, 12.0, true), run(1, 7.0, true)];
        let quiet = report("calls-64", &peers, runs.clone());
        assert_eq!((quiet.median(0, 0, 0), quiet.median(0, 0, 1)), (Some(11.0), Some(7.0)));
        assert!(
            quiet.busy().ends_with("; 1 of 4 timed runs are left out because it was more than 0.00"),
            "{}",
            quiet.busy()
        );

        runs[3].is_quiet = false;
        let disturbed = report("calls-64", &peers, runs);
        assert_eq!((disturbed.median(0, 0, 0), disturbed.median(0, 0, 1)), (Some(12.0), Some(7.0)));
        assert!(disturbed.busy().contains("; but 1 rows (~) count them"), "{}", disturbed.busy());
        assert!(disturbed.table().contains("~7.00"), "{}", disturbed.table());
    }

    #[test]
    fn ratios_are_to_the_newest_nginx_and_to_the_better_relay() {
        let peers = [
            ("adit", Kind::Adit),
            ("nginx 1.22", Kind::Nginx),
            ("nginx 1.31", Kind::Nginx),
            ("relay", Kind::Relay),
            ("relay splice", Kind::RelaySplice),
        ];
        let runs = [30.0, 20.0, 60.0, 15.0, 10.0].into_iter().enumerate();
        let runs: Vec<Run> = runs.map(|(peer, value)| run(peer, value, true)).collect();
        let less = report("calls-64", &peers, runs.clone());
        assert_eq!(less.ratio(Against::Nginx, 0, 0, 0), Some(0.5));
        assert_eq!(less.ratio(Against::Relay, 0, 0, 0), Some(3.0));
        assert_eq!(less.ratio(Against::Direct, 0, 0, 0), None);

        let speeds = runs.into_iter().map(|mut run| {
            run.sample.values.insert(0, None);
            run
        });
        let more = report("bulk-up", &peers, speeds.collect());
        assert_eq!(more.ratio(Against::Relay, 0, 1, 0), Some(2.0));
        assert_eq!(more.ratio(Against::Relay, 0, 0, 0), None);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let peers = [("adit", Kind::Adit), ("nginx 1.22", Kind::Nginx)];
        let report = report("calls-64", &peers, vec![run(0, 0.0, true), run(1, 0.0, true)]);
        assert_eq!(report.ratio(Against::Nginx, 0, 0, 0), None);
    }

    #[test]
    fn the_json_has_every_run_and_every_median() {
        let peers = [("adit", Kind::Adit), ("nginx 1.22", Kind::Nginx)];
        let report = report("calls-64", &peers, vec![run(0, 4.0, true), run(1, 8.0, true)]);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["figures"][0]["to_nginx"]["adit"], 0.5);
        assert_eq!(json["figures"][0]["better"], "less");
        assert_eq!(json["runs"][1]["values"]["system calls"], 8.0);
        assert_eq!(json["peers"][1]["kind"], "nginx");
    }

    #[test]
    fn numbers_are_as_long_as_they_are_meaningful() {
        let cases = [
            (0.0, "0.00"),
            (0.0123, "0.012"),
            (4.031, "4.03"),
            (24.66, "24.7"),
            (99.96, "100"),
            (32_318.4, "32,318"),
            (1_234_567.0, "1,234,567"),
            (-1500.0, "-1,500"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
        assert_eq!((short_ratio(0.034).as_str(), short_ratio(1.051).as_str()), ("0.034", "1.05"));
    }
}
