//! `adit completions`: what makes a shell complete our words. The files are written by hand; the test below sees to it
//! that they know what the help does.

use crate::cli::ctl::Shell;

pub fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("../scripts/completions/adit.bash"),
        Shell::Zsh => include_str!("../scripts/completions/_adit"),
        Shell::Fish => include_str!("../scripts/completions/adit.fish"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::HELP;
    use crate::cli::ctl::{CTL_HELP, Sort, TOP_HELP};

    /// Words of two or more letters, with what they begin with.
    fn words(text: &str) -> impl Iterator<Item = &str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        text.split(move |c| !is_part(c)).filter(|word| word.len() > 1)
    }

    /// The flags of a text: `--config` as "config".
    fn flags(text: &str) -> BTreeSet<&str> {
        words(text).filter_map(|word| word.strip_prefix("--")).filter(|flag| !flag.is_empty()).collect()
    }

    /// As fish has them: `-l config`.
    fn flags_of_fish(text: &str) -> BTreeSet<&str> {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.windows(2).filter(|pair| pair[0] == "-l").map(|pair| pair[1]).collect()
    }

    #[test]
    fn every_flag_of_the_help_is_completed_and_no_other() {
        let all = [HELP, CTL_HELP, TOP_HELP].concat();
        let expected = flags(&all);
        assert!(expected.len() > 20, "{expected:?}");
        assert_eq!(flags(script(Shell::Bash)), expected, "bash");
        assert_eq!(flags(script(Shell::Zsh)), expected, "zsh");
        let fish: BTreeSet<&str> = flags_of_fish(script(Shell::Fish))
            .into_iter()
            // `set -l` is a local variable.
            .filter(|flag| !script(Shell::Fish).contains(&format!("set -l {flag} ")))
            .collect();
        assert_eq!(fish, expected, "fish");
    }

    #[test]
    fn every_word_of_the_help_is_completed() {
        // What stands at the beginning of the lines that explain a word: two blanks, and more behind it.
        let explained = |help: &'static str| {
            let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
            let words = lines.filter_map(|line| line.split(' ').next());
            words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect::<Vec<_>>()
        };
        let subcommands = explained(HELP);
        assert_eq!(subcommands, ["ctl", "top", "completions", "demo"]);
        let verbs = explained(CTL_HELP);
        assert_eq!(verbs, ["status", "tunnels", "close", "drain", "undrain", "rebalance", "plan", "reload"]);
        let offered = |word: &str, beginning: &str| {
            let bash = script(Shell::Bash).lines().map(str::trim).find(|line| line.starts_with(beginning));
            assert!(bash.is_some_and(|line| words(line).any(|found| found == word)), "bash: {word}");
            assert!(script(Shell::Zsh).contains(&format!("'{word}:")), "zsh: {word}");
            assert!(script(Shell::Fish).contains(&format!("-a {word} ")), "fish: {word}");
        };
        subcommands.iter().for_each(|word| offered(word, ":) words="));
        verbs.iter().for_each(|word| offered(word, "ctl:) words="));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            for list in [Sort::ALL.map(Sort::name).join(" "), "bash zsh fish".into()] {
                assert!(script(shell).contains(&list), "{shell:?}: {list}");
            }
        }
    }
}
