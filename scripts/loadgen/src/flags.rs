//! The flags of one command, taken one by one; those that nobody took are too many.

use std::error::Error;
use std::str::FromStr;

use lexopt::prelude::*;

/// Flags without a value.
const SWITCHES: &[&str] = &["wait", "splice", "polite", "until-eof"];

/// What was given on the command line, by name.
pub struct Flags(Vec<(String, String)>);

impl Flags {
    pub fn read(mut args: lexopt::Parser) -> Result<Flags, Box<dyn Error>> {
        let mut flags: Vec<(String, String)> = Vec::new();
        while let Some(arg) = args.next()? {
            let Long(name) = arg else { return Err(arg.unexpected().into()) };
            let name = name.to_owned();
            if flags.iter().any(|(known, _)| *known == name) {
                return Err(format!("--{name} is given twice").into());
            }
            let is_switch = SWITCHES.contains(&name.as_str());
            let value = if is_switch { String::new() } else { args.value()?.string()? };
            flags.push((name, value));
        }
        Ok(Flags(flags))
    }

    /// The value of a flag that may be left out.
    pub fn maybe<T: FromStr<Err: Error>>(&mut self, name: &str) -> Result<Option<T>, Box<dyn Error>> {
        let Some(at) = self.0.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        value.parse().map(Some).map_err(|error| format!("--{name} {value}: {error}").into())
    }

    /// The value of a flag that must be there.
    pub fn must<T: FromStr<Err: Error>>(&mut self, name: &str) -> Result<T, Box<dyn Error>> {
        self.maybe(name)?.ok_or_else(|| format!("--{name} is missing").into())
    }

    /// A number of which there must be at least one.
    pub fn count(&mut self, name: &str) -> Result<usize, Box<dyn Error>> {
        match self.must(name)? {
            0 => Err(format!("--{name} is 0, which is nothing to do").into()),
            count => Ok(count),
        }
    }

    pub fn switch(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|(known, _)| known == name);
        found.map(|at| self.0.swap_remove(at)).is_some()
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), Box<dyn Error>> {
        match self.0.first() {
            Some((name, _)) => Err(format!("--{name} is no flag of this command").into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Result<Flags, Box<dyn Error>> {
        Flags::read(lexopt::Parser::from_args(text.split_whitespace()))
    }

    #[test]
    fn flags_are_taken_once_and_none_is_left() {
        let mut flags = flags("--tunnels 3 --wait --seconds=0.5").unwrap();
        assert_eq!(flags.must::<usize>("tunnels").unwrap(), 3);
        assert!(flags.maybe::<usize>("tunnels").unwrap().is_none());
        assert!(flags.switch("wait") && !flags.switch("wait"));
        assert_eq!(flags.maybe::<f64>("seconds").unwrap(), Some(0.5));
        flags.finish().unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let told = |result: Result<(), Box<dyn Error>>| result.unwrap_err().to_string();
        assert_eq!(told(flags("--bytes 1 --bytes 2").map(drop)), "--bytes is given twice");
        assert_eq!(told(flags("--bytes").map(drop)), "missing argument for option '--bytes'");
        assert_eq!(told(flags("echo").map(drop)), "unexpected argument \"echo\"");
        assert_eq!(told(flags("--rate 1").unwrap().finish()), "--rate is no flag of this command");
        assert_eq!(told(flags("").unwrap().must::<usize>("bytes").map(drop)), "--bytes is missing");
        let found = flags("--bytes x").unwrap().must::<usize>("bytes").map(drop);
        assert_eq!(told(found), "--bytes x: invalid digit found in string");
        assert!(told(flags("--tunnels 0").unwrap().count("tunnels").map(drop)).starts_with("--tunnels is 0"));
    }
}
