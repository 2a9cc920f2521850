//! The flags of `loadgen soak`. Pure: text in, a choice out.

use std::path::PathBuf;

use lexopt::prelude::*;

/// What `--help` prints.
pub const HELP: &str = "\
loadgen soak: adit under tunnels that come, stay and go, while its world and its configuration change

Usage: loadgen soak --adit FILE [options]
       (scripts/soak builds what this needs, and starts it)

  --adit FILE   the proxy under test
  --seconds N   how long the load lasts (60); a few more go before and behind it
  --seed N      what is done, said and changed follows from it (random; it is printed)
  --workers N   adit's event loops (2)

Tunnels echo bytes that are all compared; some stay for the whole run. Meanwhile the configuration is exchanged every
second, at times for a wrong one, servers die and come back, clients vanish, and for a while there are no descriptors
left. Operators look all the time, let servers drain, and close tunnels; others hold connections, flood, stall and send
what is no request. Then: whether all that was to stay stayed, whoever was to be answered was, nothing is left over, and
adit ends as asked.

Exit codes: 0 all was as it must be, 1 something was not.
";

const SECONDS: u64 = 60;
/// Below this there is no time for what a run consists of.
const SECONDS_MIN: u64 = 10;
const WORKERS: u16 = 2;

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub adit: PathBuf,
    pub seconds: u64,
    pub seed: u64,
    pub workers: u16,
}

/// Reads the arguments; `None` where help is asked for. `any` is the seed where none is given.
pub fn parse(mut args: lexopt::Parser, any: u64) -> Result<Option<Options>, lexopt::Error> {
    let mut adit = None;
    let mut options = Options { adit: PathBuf::new(), seconds: SECONDS, seed: any, workers: WORKERS };
    while let Some(arg) = args.next()? {
        match arg {
            Long("adit") => adit = Some(args.value()?.into()),
            Long("seconds") => options.seconds = args.value()?.parse()?,
            Long("seed") => options.seed = args.value()?.parse()?,
            Long("workers") => options.workers = args.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            Short(_) | Long(_) | Value(_) => return Err(arg.unexpected()),
        }
    }
    if options.seconds < SECONDS_MIN {
        return Err(format!("--seconds {}: at least {SECONDS_MIN} are needed", options.seconds).into());
    }
    if options.workers == 0 {
        return Err("--workers: 0 workers would do nothing".into());
    }
    options.adit = adit.ok_or("--adit is missing: which program is tried?")?;
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Options>, String> {
        parse(lexopt::Parser::from_args(text.split_whitespace()), 42).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_but_the_program_has_a_default() {
        let options = Options { adit: "a".into(), seconds: 60, seed: 42, workers: 2 };
        assert_eq!(read("--adit a"), Ok(Some(options)));
        let options = Options { adit: "a".into(), seconds: 7200, seed: 7, workers: 3 };
        assert_eq!(read("--seconds 7200 --adit a --seed 7 --workers 3"), Ok(Some(options)));
        assert_eq!(read("--help"), Ok(None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |text: &str, words: &str| {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        };
        check("", "--adit is missing");
        check("--adit a --seconds 3", "at least 10");
        check("--adit a --seconds many", "many");
        check("--adit a --workers 0", "0 workers");
        check("--adit a --seed -1", "-1");
        check("--adit a b", "unexpected argument");
        check("--adit a --loud", "--loud");
    }
}
