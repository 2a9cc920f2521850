//! The command line: what was asked for, or why it makes no sense. Pure: it reads no file and prints nothing.

#[cfg(feature = "ctl")]
pub mod ctl;

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

#[cfg(feature = "ctl")]
use ctl::{Ctl, Shell, Top};

/// What `--help` prints.
pub const HELP: &str = "\
adit: a reverse proxy and load balancer for WebSocket and TCP tunnels

Usage: adit [--config FILE] [--check]
       adit [--config FILE] --plan NEW [--json]
       adit --schema
       adit ctl status | tunnels | close | drain | undrain | rebalance | plan | reload
       adit top
       adit completions bash | zsh | fish
       adit demo

  -c, --config FILE  the configuration file; ./config.toml if left out
  -t, --check        read and check the configuration, then exit
      --plan NEW     what a reload to the file NEW would change, and what becomes of open tunnels, then exit
      --json         the plan as one JSON object
      --schema       print the JSON Schema of configuration files, for editors
  -V, --version      print the version
  -h, --help         print this
  ctl                look at a running adit and steer it; adit ctl --help tells more
  top                the same, live on a terminal; adit top --help tells more
  completions SHELL  print what makes a shell complete all this: for bash, zsh or fish
  demo               an echo server, the proxy in front of it and a page to try it with

Signals: TERM, INT, QUIT  drain, then stop; a second one stops at once
         HUP              reload the configuration file
         USR1             reopen the access log's file
Exit codes: 0 stopped as asked, 1 configuration, 2 could not start, 64 usage, 70 a bug
";

/// The file that is read when none is named.
const CONFIG_DEFAULT: &str = "./config.toml";

/// What the command is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the proxy of this file.
    Run(PathBuf),
    /// Check this file.
    Check(PathBuf),
    /// Tell what a reload from one file to another would change.
    Plan {
        /// What runs.
        old: PathBuf,
        /// What would.
        new: PathBuf,
        /// How it is told.
        form: Form,
    },
    /// Run the demo.
    #[cfg(feature = "demo")]
    Demo,
    /// Print the schema of configuration files.
    #[cfg(feature = "schema")]
    Schema,
    /// Look at a running process, or steer it.
    #[cfg(feature = "ctl")]
    Ctl(Ctl),
    /// The same, live.
    #[cfg(feature = "ctl")]
    Top(Top),
    /// Print what makes a shell complete our words.
    #[cfg(feature = "ctl")]
    Completions(Shell),
    /// Print the version.
    Version,
    /// Print this help.
    Help(&'static str),
}

/// How a plan is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs: one object.
    Json,
}

/// Reads the arguments, the program's name not among them.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut file, mut check, mut new, mut json) = (None, false, None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('c') | Long("config") if file.is_none() => file = Some(PathBuf::from(parser.value()?)),
            Short('c') | Long("config") => return Err("--config is given twice".into()),
            Short('t') | Long("check") => check = true,
            Long("plan") if new.is_none() => new = Some(PathBuf::from(parser.value()?)),
            Long("plan") => return Err("--plan is given twice".into()),
            Long("json") => json = true,
            #[cfg(feature = "schema")]
            Long("schema") => return Ok(Command::Schema),
            #[cfg(not(feature = "schema"))]
            Long("schema") => return Err("this build has no schema".into()),
            Short('V') | Long("version") => return Ok(Command::Version),
            Short('h') | Long("help") => return Ok(Command::Help(HELP)),
            Value(word) if word == "ctl" || word == "top" || word == "completions" => {
                let word = word.string()?;
                if check || new.is_some() || json {
                    return Err(format!("the flags of {word} stand behind it").into());
                }
                return steer(&word, parser, file);
            }
            #[cfg(feature = "demo")]
            Value(word) if word == "demo" => {
                return demo(parser, file.is_some() || check || new.is_some() || json);
            }
            #[cfg(not(feature = "demo"))]
            Value(word) if word == "demo" => return Err("this build has no demo".into()),
            Short(_) | Long(_) | Value(_) => return Err(arg.unexpected()),
        }
    }
    let file = file.unwrap_or_else(|| CONFIG_DEFAULT.into());
    match new {
        Some(_) if check => Err("--plan checks both files already: leave --check out".into()),
        Some(new) => Ok(Command::Plan { old: file, new, form: if json { Form::Json } else { Form::Text } }),
        None if json => Err("--json is for --plan".into()),
        None if check => Ok(Command::Check(file)),
        None => Ok(Command::Run(file)),
    }
}

/// What has to do with another process than this one. The file says where that listens for an operator.
#[cfg(feature = "ctl")]
fn steer(word: &str, parser: lexopt::Parser, file: Option<PathBuf>) -> Result<Command, lexopt::Error> {
    match (word, file) {
        ("ctl", file) => ctl::ctl(parser, file),
        ("top", file) => ctl::top(parser, file),
        (_, None) => ctl::completions(parser),
        (_, Some(_)) => Err("completions reads no configuration file".into()),
    }
}

#[cfg(not(feature = "ctl"))]
fn steer(word: &str, _: lexopt::Parser, _: Option<PathBuf>) -> Result<Command, lexopt::Error> {
    Err(format!("this build has no {word}").into())
}

/// The demo brings its own configuration, so there is nothing to say about it.
#[cfg(feature = "demo")]
fn demo(mut parser: lexopt::Parser, configured: bool) -> Result<Command, lexopt::Error> {
    match parser.next()? {
        None if configured => Err("demo reads no configuration file".into()),
        None => Ok(Command::Demo),
        Some(Short('h') | Long("help")) => Ok(Command::Help(HELP)),
        Some(arg @ (Short(_) | Long(_) | Value(_))) => Err(arg.unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &str, expected: Result<Command, &str>) {
        let found = parse(args.split_whitespace().map(OsString::from));
        assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(str::to_string), "adit {args}");
    }

    #[test]
    fn arguments() {
        check("", Ok(Command::Run("./config.toml".into())));
        check("-c a.toml", Ok(Command::Run("a.toml".into())));
        check("--config=a.toml", Ok(Command::Run("a.toml".into())));
        check("--check", Ok(Command::Check("./config.toml".into())));
        check("-t -c a.toml", Ok(Command::Check("a.toml".into())));
        check("-tc a.toml", Ok(Command::Check("a.toml".into())));
        let plan = |old: &str, new: &str, form| Ok(Command::Plan { old: old.into(), new: new.into(), form });
        check("--plan b.toml", plan("./config.toml", "b.toml", Form::Text));
        check("--plan=b.toml -c a.toml", plan("a.toml", "b.toml", Form::Text));
        check("--json -c a.toml --plan b.toml", plan("a.toml", "b.toml", Form::Json));
        check("--plan a.toml --json", plan("./config.toml", "a.toml", Form::Json));
        check("--plan a.toml --help", Ok(Command::Help(HELP)));
        check("--version", Ok(Command::Version));
        check("-V", Ok(Command::Version));
        check("-c a.toml --help", Ok(Command::Help(HELP)));
        check("-h", Ok(Command::Help(HELP)));
        check("-c a -c b", Err("--config is given twice"));
        check("--plan a --plan b", Err("--plan is given twice"));
        check("--plan", Err("missing argument for option '--plan'"));
        check("--plan a --check", Err("--plan checks both files already: leave --check out"));
        check("-t --plan a --json", Err("--plan checks both files already: leave --check out"));
        check("--json", Err("--json is for --plan"));
        check("--check --json", Err("--json is for --plan"));
        check("--json=yes --plan a", Err("unexpected argument for option '--json': \"yes\""));
        check("-c", Err("missing argument for option '-c'"));
        check("--check=yes", Err("unexpected argument for option '--check': \"yes\""));
        check("--bogus", Err("invalid option '--bogus'"));
        check("-x", Err("invalid option '-x'"));
        check("config.toml", Err("unexpected argument \"config.toml\""));
    }

    #[test]
    fn the_schema_is_told_where_it_is_built_in() {
        #[cfg(feature = "schema")]
        for args in ["--schema", "-c a.toml --schema", "--schema --check"] {
            check(args, Ok(Command::Schema));
        }
        #[cfg(not(feature = "schema"))]
        check("--schema", Err("this build has no schema"));
    }

    #[cfg(not(feature = "ctl"))]
    #[test]
    fn what_is_not_built_in_is_told() {
        check("ctl status", Err("this build has no ctl"));
        check("top", Err("this build has no top"));
        check("-c a.toml completions bash", Err("this build has no completions"));
    }

    #[cfg(feature = "demo")]
    #[test]
    fn demo_stands_alone() {
        check("demo", Ok(Command::Demo));
        check("demo --help", Ok(Command::Help(HELP)));
        check("demo -c a.toml", Err("invalid option '-c'"));
        check("-c a.toml demo", Err("demo reads no configuration file"));
        check("--plan a demo", Err("demo reads no configuration file"));
        check("demo --plan a", Err("invalid option '--plan'"));
        check("-t demo", Err("demo reads no configuration file"));
        check("demo demo", Err("unexpected argument \"demo\""));
    }
}
