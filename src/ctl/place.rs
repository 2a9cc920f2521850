//! Where the admin listener is and what token it wants: by the command line, else the environment, else the
//! configuration file.
//!
//! Of that file only `[admin]` is looked at. It may be in the middle of being edited, and what is wrong elsewhere in it
//! is for the running process to say, by `adit ctl plan`; nor are names resolved that this has no use for.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use adit::Address;
use serde::Deserialize;

use super::units::printable;
use crate::cli::ctl::Whereabouts;

/// Where configuration files are, if none is named.
const FILES: [&str; 2] = ["./config.toml", "/etc/adit/config.toml"];
/// A token is a line of a few dozen characters.
const TOKEN_BYTES_MAX: usize = 4096;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub address: Address,
    /// Where the address is from, for error messages.
    pub source: String,
    pub token: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", printable(&self.address.to_string()), self.source)
    }
}

/// Why nobody can be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// What the command line or the environment says makes no sense.
    Usage(String),
    /// There is no word of an admin listener, or not of its token.
    Nowhere(String),
}

/// What is looked at: the environment and files.
pub struct World<'a> {
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// `[admin]` of a configuration file, whatever else there is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    admin: Admin,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Admin {
    listen: String,
    token_file: String,
}

pub fn find(given: &Whereabouts, world: &World<'_>) -> Result<Place, Lost> {
    let variable = |name| (world.variable)(name).filter(|value| !value.is_empty());
    let said = match (&given.admin, variable("ADIT_ADMIN")) {
        (Some(text), _) => Some((text.clone(), "--admin")),
        (None, Some(text)) => Some((text.to_string_lossy().into_owned(), "ADIT_ADMIN")),
        (None, None) => None,
    };
    let token_file = given.token_file.clone().or_else(|| variable("ADIT_TOKEN_FILE").map(PathBuf::from));
    // The token of a file is for the address in it, or for whom it was named together with.
    let (address, source, token_file) = match said {
        Some((text, source)) => {
            let address = parse(&text).map_err(|help| Lost::Usage(format!("{source} {text:?}: {help}")))?;
            let of_file = match (&token_file, &given.config) {
                (None, Some(file)) => read(file, world)?.token_file(),
                _ => None,
            };
            (address, source.to_owned(), token_file.or(of_file))
        }
        None => {
            let (name, file) = configured(given, world)?;
            let listen = file.listen.as_str();
            if matches!(listen, "" | "off") {
                return Err(Lost::Nowhere(no_listener(&name)));
            }
            let wrong = |help| Lost::Nowhere(format!("{name}: admin.listen {listen:?}: {help}"));
            let address = parse(listen).map_err(wrong)?;
            (address, name, token_file.or(file.token_file()))
        }
    };
    let token = token_file.map(|file| token(&file, world)).transpose()?;
    Ok(Place { address, source, token })
}

impl Admin {
    fn token_file(&self) -> Option<PathBuf> {
        Some(PathBuf::from(&self.token_file)).filter(|file| !file.as_os_str().is_empty())
    }
}

/// An address as `[admin] listen` has it.
fn parse(text: &str) -> Result<Address, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("a path is missing".into()),
        Some(path) if path.contains('\0') => Err("there is a zero byte in it".into()),
        Some(path) => Ok(Address::Unix(path.into())),
        None => match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err("which port the kernel chose is not known here".into()),
            Ok(address) => Ok(Address::Tcp(address)),
            Err(_) if text.starts_with("fd:") => {
                Err("it is a socket that adit was handed: --admin ADDRESS says where it listens".into())
            }
            Err(_) => Err("an address is \"unix:/run/adit/admin.sock\" or \"127.0.0.1:8021\"".into()),
        },
    }
}

/// The configuration file that is the present one by its name or its place, and what it says.
fn configured(given: &Whereabouts, world: &World<'_>) -> Result<(String, Admin), Lost> {
    if let Some(file) = &given.config {
        return Ok((name(file), read(file, world)?));
    }
    for file in FILES.map(Path::new) {
        match (world.read)(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            text => return Ok((name(file), understood(file, text)?)),
        }
    }
    let [here, there] = FILES;
    Err(Lost::Nowhere(format!(
        "where is the admin listener? There is neither {here} nor {there} that would say so \
         (--admin ADDRESS does, ADIT_ADMIN in the environment, or --config FILE)"
    )))
}

fn read(file: &Path, world: &World<'_>) -> Result<Admin, Lost> {
    understood(file, (world.read)(file))
}

fn understood(file: &Path, text: io::Result<String>) -> Result<Admin, Lost> {
    const HELP: &str = "--admin ADDRESS does without the file";
    let name = name(file);
    let text = text.map_err(|error| Lost::Nowhere(format!("{name}: cannot be read: {error} ({HELP})")))?;
    match toml::from_str::<File>(&text) {
        Ok(file) => Ok(file.admin),
        Err(error) => {
            let why = printable(error.message());
            Err(Lost::Nowhere(format!("{name}: does not tell where the admin listener is: {why} ({HELP})")))
        }
    }
}

fn name(file: &Path) -> String {
    printable(&file.display().to_string())
}

fn no_listener(name: &str) -> String {
    format!(
        "{name} has no admin listener. These lines add one, with the next reload or start:\n\n\
         [admin]\n\
         # For the user that adit runs as, and root; the directory has to be there.\n\
         listen = \"unix:/run/adit/admin.sock\""
    )
}

/// The token in a file: its one line.
fn token(file: &Path, world: &World<'_>) -> Result<String, Lost> {
    let name = name(file);
    let lost = |why: String| Lost::Nowhere(format!("the token file {name}: {why}"));
    let text = (world.read)(file).map_err(|error| lost(format!("cannot be read: {error}")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(lost("is empty".into()));
    }
    if token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(lost("holds no token, which is one word of visible characters".into()));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds with these variables and files; of a file without text nobody may read.
    fn look(given: &Whereabouts, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Place, Lost> {
        let variable = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        };
        let read = |path: &Path| match files.iter().find(|(file, _)| Path::new(file) == path) {
            Some((_, "locked")) => Err(ErrorKind::PermissionDenied.into()),
            Some((_, text)) => Ok((*text).to_owned()),
            None => Err(ErrorKind::NotFound.into()),
        };
        find(given, &World { variable: &variable, read: &read })
    }

    #[track_caller]
    fn check(
        given: &Whereabouts,
        variables: &[(&str, &str)],
        files: &[(&str, &str)],
        expected: Result<(&str, Option<&str>), &str>,
    ) {
        match (look(given, variables, files), expected) {
            (Ok(place), Ok((text, token))) => {
                assert_eq!((place.to_string().as_str(), place.token.as_deref()), (text, token));
            }
            (Err(Lost::Usage(text) | Lost::Nowhere(text)), Err(expected)) => {
                assert!(text.contains(expected), "{text}");
            }
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    fn given(admin: &str, config: &str, token_file: &str) -> Whereabouts {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Whereabouts {
            admin: some(admin),
            config: some(config).map(PathBuf::from),
            token_file: some(token_file).map(PathBuf::from),
        }
    }

    const HERE: (&str, &str) = ("./config.toml", "[admin]\nlisten = \"unix:/here\"\ntoken_file = \"/t\"\n");
    const THERE: (&str, &str) = ("/etc/adit/config.toml", "[admin]\nlisten = \"127.0.0.1:8021\"\n");
    const TOKEN: (&str, &str) = ("/t", "secret\n");

    #[test]
    fn the_command_line_wins_over_the_environment_and_that_over_files() {
        let none = given("", "", "");
        check(&none, &[], &[HERE, THERE, TOKEN], Ok(("unix:/here (from ./config.toml)", Some("secret"))));
        check(&none, &[], &[THERE], Ok(("127.0.0.1:8021 (from /etc/adit/config.toml)", None)));
        let variables = [("ADIT_ADMIN", "[::1]:8021")];
        check(&none, &variables, &[HERE, TOKEN], Ok(("[::1]:8021 (from ADIT_ADMIN)", None)));
        let admin = given("unix:/a", "", "");
        check(&admin, &variables, &[HERE, TOKEN], Ok(("unix:/a (from --admin)", None)));
        check(&given("", "/c", ""), &[], &[("/c", THERE.1)], Ok(("127.0.0.1:8021 (from /c)", None)));
        check(
            &none,
            &[("ADIT_ADMIN", "")],
            &[THERE],
            Ok(("127.0.0.1:8021 (from /etc/adit/config.toml)", None)),
        );
    }

    #[test]
    fn so_does_the_token() {
        let files = [HERE, THERE, TOKEN, ("/u", "other"), ("/v", " third \n")];
        let variables = [("ADIT_TOKEN_FILE", "/u")];
        check(
            &given("", "", "/v"),
            &variables,
            &files,
            Ok(("unix:/here (from ./config.toml)", Some("third"))),
        );
        check(&given("", "", ""), &variables, &files, Ok(("unix:/here (from ./config.toml)", Some("other"))));
        check(&given("unix:/a", "", ""), &variables, &files, Ok(("unix:/a (from --admin)", Some("other"))));
        // The token of a file is not for whoever listens elsewhere, unless both were named.
        check(&given("unix:/a", "", ""), &[], &files, Ok(("unix:/a (from --admin)", None)));
        check(
            &given("unix:/a", "./config.toml", ""),
            &[],
            &files,
            Ok(("unix:/a (from --admin)", Some("secret"))),
        );
    }

    #[test]
    fn only_the_listener_s_part_of_a_file_has_to_be_right() {
        let wrong =
            "[[listner]]\nupstream = 7\n[admin]\nlisten = \"unix:/a\"\nnew_key = true\n[upstream.u]\n";
        check(
            &given("", "", ""),
            &[],
            &[("./config.toml", wrong)],
            Ok(("unix:/a (from ./config.toml)", None)),
        );
    }

    #[test]
    fn what_cannot_be_found_is_told_with_what_to_do() {
        let none = given("", "", "");
        check(&none, &[], &[], Err("There is neither ./config.toml nor /etc/adit/config.toml"));
        check(
            &given("", "/c", ""),
            &[],
            &[],
            Err("/c: cannot be read: entity not found (--admin ADDRESS does"),
        );
        check(&none, &[], &[("./config.toml", "locked"), THERE], Err("./config.toml: cannot be read: "));
        check(
            &none,
            &[],
            &[("./config.toml", "[admin"), THERE],
            Err("does not tell where the admin listener is"),
        );
        let number = "[admin]\nlisten = 8021\n";
        check(&none, &[], &[("./config.toml", number)], Err("does not tell where the admin listener is"));
        let lines = "\n[admin]\n# For the user that adit runs as, and root; the directory has to be there.\n\
                     listen = \"unix:/run/adit/admin.sock\"";
        check(&none, &[], &[("./config.toml", "workers = 2\n"), THERE], Err(lines));
        check(&none, &[], &[("./config.toml", "[admin]\nlisten = \"off\"")], Err("has no admin listener"));
        let handed = "[admin]\nlisten = \"fd:admin\"";
        check(
            &none,
            &[],
            &[("./config.toml", handed)],
            Err("\"fd:admin\": it is a socket that adit was handed"),
        );
        let name = "[admin]\nlisten = \"localhost:8021\"";
        check(
            &none,
            &[],
            &[("./config.toml", name)],
            Err("./config.toml: admin.listen \"localhost:8021\": an address"),
        );
        check(&given("", "", "/t"), &[], &[THERE], Err("the token file /t: cannot be read"));
        check(&given("", "", "/t"), &[], &[THERE, ("/t", " \n")], Err("the token file /t: is empty"));
        for text in ["two words", "a\r\nX-Evil: 1", "tökén"] {
            check(
                &given("", "", "/t"),
                &[],
                &[THERE, ("/t", text)],
                Err("the token file /t: holds no token"),
            );
        }
    }

    #[test]
    fn an_address_that_makes_no_sense_is_a_matter_of_usage() {
        let usage = |text: &str, variables: &[(&str, &str)], expected: &str| match look(
            &given(text, "", ""),
            variables,
            &[],
        ) {
            Err(Lost::Usage(found)) => assert!(found.starts_with(expected), "{found}"),
            other => panic!("{other:?}"),
        };
        usage("localhost:8021", &[], "--admin \"localhost:8021\": an address is \"unix:");
        usage("unix:", &[], "--admin \"unix:\": a path is missing");
        usage("127.0.0.1", &[], "--admin \"127.0.0.1\": an address is");
        usage("127.0.0.1:0", &[], "--admin \"127.0.0.1:0\": which port");
        usage("", &[("ADIT_ADMIN", "/run/adit.sock")], "ADIT_ADMIN \"/run/adit.sock\": an address is");
    }

    /// What is advised has to work.
    #[test]
    fn the_lines_that_add_a_listener_are_right() {
        let text = no_listener("config.toml");
        let (_, lines) = text.split_once("\n\n").unwrap();
        let file = "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
                    [upstream.u]\nservers = [\"127.0.0.1:1\"]\n";
        let config = adit::Config::from_toml(&format!("{file}{lines}")).expect("right");
        if cfg!(feature = "admin") {
            assert!(config.check().expect("right").admin.is_some());
        }
        assert_eq!(lines.lines().count(), 3);
    }
}
