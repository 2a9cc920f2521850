//! The flags of `loadgen bench`. Pure: text in, a choice out.

use std::path::PathBuf;

use lexopt::prelude::*;

use super::rows::{ROWS, Row};

/// What `--help` prints.
pub const HELP: &str = "\
loadgen bench: adit beside nginx, HAProxy, a bare relay and no proxy at all

Usage: loadgen bench --adit FILE [--nginx FILE]... [--haproxy FILE]... [options]
       (scripts/bench builds and installs what this needs, and starts it)

  --adit FILE      the proxy under test, a release build
  --nginx FILE     what to compare it with; ratios are to the newest
  --haproxy FILE
  --quick          one short round: whether everything works, no more
  --rounds N       rounds of everything that is timed (5)
  --rows A,B,...   only these: echo, echo-1, echo-64, echo-1000, echo-16k, calls, calls-1, calls-64, calls-churn,
                   instructions, instructions-64, instructions-churn, churn, bulk, bulk-up, bulk-down, bulk-both,
                   mixed, idle, admin, size
  --json FILE      every run's values, and the report (target/bench/latest.json)
  --charts DIR     draw bench-ratios.svg and bench-latency.svg there

The proxy's CPU time is the kernel's account of its threads, its memory what it shares with nobody, system calls are
counted by strace and user instructions by callgrind in runs of two lengths, whose difference is divided. The proxy has
one core, the load generator and the server behind it share another. Each run starts all three anew. `relay` copies
bytes and parses nothing, `relay splice` has the kernel move them, `direct` is the client speaking to the server itself;
`adit` runs its default configuration with the access log off as the others have it, `adit +log` with it on, and
`adit +admin` with an admin listener: once a second, and at least once a run, somebody asks for its metrics and a page
of its tunnels while it is timed; nobody does where calls, instructions and memory are counted. The row `admin` has the
slowest of fifty answers of each kind beside idle tunnels, and the longest turn of the loop meanwhile, to the next bound
of its histogram.

Exit codes: 0 all was measured, 1 something was not.
";

const ROUNDS: u32 = 5;

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub adit: PathBuf,
    pub nginx: Vec<PathBuf>,
    pub haproxy: Vec<PathBuf>,
    pub quick: bool,
    pub rounds: u32,
    /// Names of rows or families; all where there is none.
    pub rows: Vec<String>,
    pub json: PathBuf,
    pub charts: Option<PathBuf>,
}

impl Options {
    pub fn wants(&self, row: &Row) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| row.answers_to(name))
    }
}

/// Reads the arguments; `None` where help is asked for.
pub fn parse(mut args: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let (mut adit, mut rounds) = (None, None);
    let mut options = Options {
        adit: PathBuf::new(),
        nginx: Vec::new(),
        haproxy: Vec::new(),
        quick: false,
        rounds: ROUNDS,
        rows: Vec::new(),
        json: PathBuf::from("target/bench/latest.json"),
        charts: None,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("adit") => adit = Some(args.value()?.into()),
            Long("nginx") => options.nginx.push(args.value()?.into()),
            Long("haproxy") => options.haproxy.push(args.value()?.into()),
            Long("quick") => options.quick = true,
            Long("rounds") => rounds = Some(args.value()?.parse()?),
            Long("rows") => options.rows.extend(args.value()?.string()?.split(',').map(str::to_owned)),
            Long("json") => options.json = args.value()?.into(),
            Long("charts") => options.charts = Some(args.value()?.into()),
            Short('h') | Long("help") => return Ok(None),
            Short(_) | Long(_) | Value(_) => return Err(arg.unexpected()),
        }
    }
    if let Some(name) = options.rows.iter().find(|name| !ROWS.iter().any(|row| row.answers_to(name))) {
        return Err(format!("--rows: there is no row {name:?}").into());
    }
    options.rounds = rounds.unwrap_or(if options.quick { 1 } else { ROUNDS });
    if options.rounds == 0 {
        return Err("--rounds: 0 rounds are nothing to do".into());
    }
    options.adit = adit.ok_or("--adit is missing: which program is measured?")?;
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Options>, String> {
        parse(lexopt::Parser::from_args(text.split_whitespace())).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_but_the_program_has_a_default() {
        let options = read("--adit a").unwrap().unwrap();
        assert_eq!((options.rounds, options.quick, options.charts.clone()), (5, false, None));
        assert!(ROWS.iter().all(|row| options.wants(row)));
        assert_eq!(read("--adit a --quick").unwrap().unwrap().rounds, 1);
        assert_eq!(read("--adit a --quick --rounds 3").unwrap().unwrap().rounds, 3);
    }

    #[test]
    fn peers_may_be_several_and_rows_few() {
        let options = read("--adit a --nginx n --nginx m --haproxy h --rows churn,echo-1").unwrap().unwrap();
        assert_eq!(options.nginx, [PathBuf::from("n"), PathBuf::from("m")]);
        let rows: Vec<&str> = ROWS.iter().filter(|row| options.wants(row)).map(|row| row.name).collect();
        assert_eq!(rows, ["echo-1", "churn"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(read("").unwrap_err().contains("--adit is missing"));
        assert!(read("--adit a --rows echo,nonsense").unwrap_err().contains("nonsense"));
        assert!(read("--adit a --rows admins").unwrap_err().contains("admins"));
        assert!(read("--adit a --rounds 0").unwrap_err().contains("0 rounds"));
        assert!(read("--adit a b").is_err());
        assert_eq!(read("--help"), Ok(None));
    }

    #[test]
    fn the_help_names_every_row() {
        for row in ROWS {
            let mut words = HELP.split([' ', ',', '\n']);
            assert!(words.any(|word| word == row.name), "{}", row.name);
        }
    }
}
