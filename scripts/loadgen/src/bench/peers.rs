//! What is compared, and how each is started so that it is a fair fight: one worker, the same backend, no access log
//! but where that is the question, time limits so long that none ends a measurement, and room for all tunnels.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use super::process::Process;

/// How long a start may take; under valgrind one takes a second or two.
const START_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The default configuration, but without the access log, which the others do not write either.
    Adit,
    /// The default configuration to the letter: session lines go to stderr, which is a file here.
    AditLog,
    /// As the first, and operators look: beside a load they do so once a second, where all is counted they do not.
    AditAdmin,
    Nginx,
    Haproxy,
    /// With splice for everything: `option splice-auto` never finds a tunnel worth it.
    HaproxySplice,
    /// The bare relay that parses nothing: what the kernel allows.
    Relay,
    /// The same with splice for everything.
    RelaySplice,
    /// The client speaks to the server itself.
    Direct,
}

impl Kind {
    /// Whether this differs from another one only where much is carried.
    pub fn is_for_bulk(self) -> bool {
        match self {
            Kind::HaproxySplice | Kind::RelaySplice => true,
            Kind::Adit | Kind::AditLog | Kind::AditAdmin => false,
            Kind::Nginx | Kind::Haproxy | Kind::Relay | Kind::Direct => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    pub name: String,
    pub kind: Kind,
    /// Empty where there is none.
    pub program: PathBuf,
    pub version: String,
}

/// What a peer is started under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under<'a> {
    Nothing,
    /// `strace -c`, its table in this file.
    Strace(&'a Path),
    /// `valgrind --tool=callgrind`, its totals in this file.
    Callgrind(&'a Path),
}

/// What there is to compare adit with: programs by path, the versions of nginx and HAProxy asked for.
pub fn find(adit: &Path, nginx: &[PathBuf], haproxy: &[PathBuf], me: &Path) -> Result<Vec<Peer>, String> {
    let peer = |name: &str, kind, program: &Path, version: &str| Peer {
        name: name.into(),
        kind,
        program: program.into(),
        version: version.into(),
    };
    let said = version_of(adit, "--version")?;
    let mut peers = vec![
        peer("adit", Kind::Adit, adit, &said),
        peer("adit +log", Kind::AditLog, adit, &said),
        peer("adit +admin", Kind::AditAdmin, adit, &said),
    ];
    for path in nginx {
        let said = version_of(path, "-v")?;
        peers.push(peer(&format!("nginx {}", short(&said)), Kind::Nginx, path, &said));
    }
    for path in haproxy {
        let said = version_of(path, "-v")?;
        let name = format!("haproxy {}", short(&said));
        peers.push(peer(&name, Kind::Haproxy, path, &said));
        peers.push(peer(&format!("{name} splice"), Kind::HaproxySplice, path, &said));
    }
    peers.push(peer("relay", Kind::Relay, me, ""));
    peers.push(peer("relay splice", Kind::RelaySplice, me, ""));
    peers.push(peer("direct", Kind::Direct, Path::new(""), ""));
    Ok(peers)
}

/// The first line of what a program says of itself, on stdout or stderr.
fn version_of(program: &Path, flag: &str) -> Result<String, String> {
    let said = Command::new(program)
        .arg(flag)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let text = if said.stdout.is_empty() { said.stderr } else { said.stdout };
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}

/// "2.6" of "HAProxy version 2.6.12-1+deb12u4 2026/10/17", "1.22" of "nginx version: nginx/1.22.1".
fn short(version: &str) -> String {
    let mut words = version.split([' ', '/', '-']);
    let number = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or("?");
    number.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

/// The place of nginx among those asked for that the others are compared with: the newest.
pub fn baseline(peers: &[Peer]) -> Option<usize> {
    let number = |peer: &Peer| -> Vec<u32> {
        peer.name.split([' ', '.']).filter_map(|part| part.parse().ok()).collect()
    };
    let nginx = peers.iter().enumerate().filter(|(_, peer)| peer.kind == Kind::Nginx);
    nginx.max_by_key(|(place, peer)| (number(peer), std::cmp::Reverse(*place))).map(|(place, _)| place)
}

impl Peer {
    /// Starts it in front of `backend`; what it writes goes into `folder`. `None` where nothing stands between.
    pub fn start(
        &self,
        backend: SocketAddr,
        tunnels: u64,
        under: Under,
        core: Option<usize>,
        folder: &Path,
    ) -> Result<(Option<Process>, SocketAddr), String> {
        if self.kind == Kind::Direct {
            return Ok((None, backend));
        }
        let address = free_address()?;
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
        let mut command = match under {
            Under::Nothing => Vec::new(),
            Under::Strace(out) => words(&["strace", "-f", "-c", "-o", &out.display().to_string()]),
            Under::Callgrind(out) => {
                let out = format!("--callgrind-out-file={}", out.display());
                words(&["valgrind", "--quiet", "--tool=callgrind", &out])
            }
        };
        command.push(self.program.display().to_string());
        command.extend(self.arguments(address, backend, tunnels, folder)?);
        let log = folder.join("proxy.log");
        let mut process = Process::start(&self.name, &command, core, &log, false)?;
        process.accepts(address, START_TIMEOUT)?;
        if let Under::Strace(_) = under {
            process.look_inside()?;
        }
        Ok((Some(process), address))
    }

    /// Its arguments, after its configuration was written.
    fn arguments(
        &self,
        address: SocketAddr,
        backend: SocketAddr,
        tunnels: u64,
        folder: &Path,
    ) -> Result<Vec<String>, String> {
        let file = folder.join("proxy.conf");
        let conf = file.display().to_string();
        let (text, arguments) = match self.kind {
            Kind::Adit => (adit(address, backend, SILENT), vec!["--config".into(), conf]),
            Kind::AditLog => (adit(address, backend, ""), vec!["--config".into(), conf]),
            Kind::AditAdmin => {
                let socket = admin_socket(folder);
                let more = format!("{SILENT}[admin]\nlisten = \"unix:{}\"\n", socket.display());
                (adit(address, backend, &more), vec!["--config".into(), conf])
            }
            Kind::Nginx => (nginx(address, backend, tunnels, folder), nginx_arguments(folder, conf)),
            Kind::Haproxy => (haproxy(address, backend, tunnels, ""), vec!["-db".into(), "-f".into(), conf]),
            Kind::HaproxySplice => (
                haproxy(address, backend, tunnels, "    option splice-request\n    option splice-response\n"),
                vec!["-db".into(), "-f".into(), conf],
            ),
            Kind::Relay => (String::new(), relay(address, backend)),
            Kind::RelaySplice => {
                let mut arguments = relay(address, backend);
                arguments.push("--splice".into());
                (String::new(), arguments)
            }
            Kind::Direct => unreachable!("nothing is started where nothing stands between"),
        };
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(arguments)
    }
}

/// A port of the kernel's choice, free a moment ago.
fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

/// Where operators of [`Kind::AditAdmin`] come in.
pub fn admin_socket(folder: &Path) -> PathBuf {
    folder.join("admin.sock")
}

/// The access log off, as the others have it.
const SILENT: &str = "[log]\naccess = \"off\"\n";

fn adit(address: SocketAddr, backend: SocketAddr, more: &str) -> String {
    format!(
        "{more}[[listener]]\nlisten = \"{address}\"\nupstream = \"websocket\"\n\n\
         [upstream.websocket]\nservers = [\"{backend}\"]\n"
    )
}

fn relay(address: SocketAddr, backend: SocketAddr) -> Vec<String> {
    ["relay", "--listen", &address.to_string(), "--to", &backend.to_string()].map(str::to_owned).into()
}

/// The recipe of nginx's article on WebSockets, in one process. Whatever would go to a folder of the system's goes
/// into `folder`.
fn nginx(address: SocketAddr, backend: SocketAddr, tunnels: u64, folder: &Path) -> String {
    let folder = folder.display();
    // With less than a sixteenth free, nginx closes connections that have not been used for a while.
    let connections = tunnels * 2 * 9 / 8 + 64;
    format!(
        "daemon off;
master_process off;
error_log stderr crit;
pid {folder}/nginx.pid;
events {{
    worker_connections {connections};
    accept_mutex off;
}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        '' close;
    }}
    upstream websocket {{
        server {backend};
    }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://websocket;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_buffering off;
            proxy_connect_timeout 5s;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"
    )
}

fn nginx_arguments(folder: &Path, conf: String) -> Vec<String> {
    let folder = format!("{}/", folder.display());
    vec!["-p".into(), folder, "-e".into(), "stderr".into(), "-c".into(), conf]
}

fn haproxy(address: SocketAddr, backend: SocketAddr, tunnels: u64, option: &str) -> String {
    let connections = tunnels + 64;
    format!(
        "global
    nbthread 1
    maxconn {connections}
defaults
    mode http
    maxconn {connections}
    timeout connect 5s
    timeout http-request 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
{option}frontend websocket
    bind {address} backlog 4096
    default_backend servers
backend servers
    server one {backend}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_cut_to_what_tells_two_apart() {
        assert_eq!(short("nginx version: nginx/1.22.1"), "1.22");
        assert_eq!(short("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"), "2.6");
        assert_eq!(short("HAProxy version 3.5-dev2-abc 2026/01/02"), "3.5");
        assert_eq!(short("something else"), "?");
    }

    #[test]
    fn the_newest_nginx_is_what_is_compared_with() {
        let peer = |name: &str, kind| Peer {
            name: name.into(),
            kind,
            program: PathBuf::new(),
            version: String::new(),
        };
        let of = |names: [&str; 3]| baseline(&names.map(|name| peer(name, Kind::Nginx)));
        assert_eq!(of(["nginx 1.22", "nginx 1.31", "nginx 1.9"]), Some(1));
        assert_eq!(of(["nginx 1.31", "nginx 1.31", "nginx 1.9"]), Some(0));
        assert_eq!(baseline(&[peer("adit", Kind::Adit), peer("haproxy 3.5", Kind::Haproxy)]), None);
    }

    #[test]
    fn only_one_of_each_pair_runs_where_little_is_carried() {
        let adit = [Kind::Adit, Kind::AditLog, Kind::AditAdmin];
        let others = [Kind::Nginx, Kind::Haproxy, Kind::Relay, Kind::Direct];
        assert!(adit.into_iter().chain(others).all(|kind| !kind.is_for_bulk()));
        assert!(Kind::HaproxySplice.is_for_bulk() && Kind::RelaySplice.is_for_bulk());
    }
}
