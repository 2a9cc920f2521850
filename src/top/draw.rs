//! The screen of `adit top`, from what is known. Nothing on it is other than ASCII, but for names that are not, so that
//! every terminal shows it.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use super::state::{App, Mode, Pane};
use crate::cli::ctl::{Order, Sort};
use crate::ctl::answers::{Server, Status, Tunnel};
use crate::ctl::show::{asked_for, phase, state};
use crate::ctl::table::Align::{self, Left, Right};
use crate::ctl::table::Table;
use crate::ctl::units::{age, bytes, count, counted, percent, printable, rate};

/// From here on there is room for bytes in both directions.
const WIDE: u16 = 120;
/// Of a bar that is a server's share.
const BAR: usize = 10;

const KEYS: &str =
    "q quit  ? help  / filter  left, right sort  r reverse  Tab servers, tunnels  c close  d drain";
const HELP: [&str; 19] = [
    "q, Ctrl-C        quit",
    "Tab              to the servers, and back to the tunnels",
    "up, down, k, j   choose a tunnel or a server; beyond the last one is the next page",
    "PgUp, PgDn       the page before, the page behind",
    "Home             the first page",
    "left, right      sort by another column",
    "r                the other way round",
    "/                filter tunnels: NAME=VALUE, and a blank between two. client=10.0.0.0/8",
    "                 listener= route= upstream= server= min-age=10m min-idle=1h min-bytes=10MiB",
    "Esc              all tunnels again",
    "Enter            on a server: only its tunnels",
    "c, Delete        close the tunnel",
    "d                drain the server: it takes nothing new, and its tunnels end by [drain]",
    "u                take that back",
    "blank            look no more, and again",
    "Ctrl-Z           to the shell; fg comes back",
    "?, h             this",
    "",
    "Closing and draining are asked about first. Any key leaves this page.",
];

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const WRONG: Style = Style::new().fg(Color::Red);
const CHANGES: Style = Style::new().fg(Color::Yellow);

pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let mut lines = about(app);
    if app.mode == Mode::Helping {
        lines.extend(HELP.map(Line::raw));
    } else {
        lines.extend(servers(app));
        lines.extend(tunnels(app, frame.area().width));
    }
    let area = frame.area();
    let Some(last) = area.height.checked_sub(1) else { return };
    for (row, line) in (0..last).zip(lines) {
        frame.render_widget(line, Rect { y: area.y + row, height: 1, ..area });
    }
    frame.render_widget(foot(app), Rect { y: area.y + last, height: 1, ..area });
}

/// What it is and does, in three lines.
fn about(app: &App) -> Vec<Line<'static>> {
    let Some(status) = &app.status else {
        let trouble = app.trouble.clone().unwrap_or_default();
        return vec![Line::styled(trouble, WRONG), Line::default(), Line::default()];
    };
    let first = match &app.trouble {
        Some(trouble) => Line::styled(trouble.clone(), WRONG),
        None => {
            let paused = if app.is_paused { ", but this is paused" } else { "" };
            let text = format!(
                "adit {}: {}, up {}{paused}",
                printable(&status.version),
                phase(status),
                age(status.uptime)
            );
            Line::styled(text, if status.phase == "serving" { HEAD } else { CHANGES })
        }
    };
    let [clients, traffic] = numbers(app, status);
    vec![first, Line::raw(clients), Line::raw(traffic)]
}

fn numbers(app: &App, status: &Status) -> [String; 2] {
    let (opened, up, down) = match app.rates {
        Some(rates) => (format!("{:.1}/s", rates.opened), rate(rates.up), rate(rates.down)),
        None => ("-".into(), "-".into(), "-".into()),
    };
    let sessions = &status.sessions;
    [
        format!(
            "tunnels {} open, {opened} opened   sessions {} of {}, {} refused",
            count(status.tunnels.open),
            count(sessions.open),
            count(sessions.limit),
            count(sessions.refused)
        ),
        format!(
            "up {up}, {} in all   down {down}, {} in all",
            bytes(status.bytes.up),
            bytes(status.bytes.down)
        ),
    ]
}

fn servers(app: &App) -> Vec<Line<'static>> {
    let all: Vec<(&str, &Server)> = app.servers().collect();
    let rows: Vec<Vec<String>> = all.iter().map(|(upstream, server)| server_row(upstream, server)).collect();
    let heads = [
        ("UPSTREAM/SERVER", Left),
        ("STATE", Left),
        ("SESSIONS", Right),
        ("TUNNELS", Right),
        ("SHARE", Left),
        ("FAILURES", Right),
    ];
    let shown = usize::from(app.rows().servers);
    let chosen = app.chosen_server();
    let first = (chosen + 1).saturating_sub(shown);
    let styles = all.iter().enumerate().map(|(at, (_, server))| match server.state.as_str() {
        _ if at == chosen && app.focus == Pane::Servers => CHOSEN,
        "out" => WRONG,
        "drains" => CHANGES,
        _ => Style::new(),
    });
    // All rows have their say in the widths, so that nothing jumps where the list is moved through.
    let (head, lines) = aligned(&heads, &rows, styles);
    [head].into_iter().chain(lines.into_iter().skip(first).take(shown)).collect()
}

fn server_row(upstream: &str, server: &Server) -> Vec<String> {
    let filled = (server.share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    vec![
        printable(&format!("{upstream}/{}", server.server)),
        state(server),
        count(server.sessions),
        count(server.tunnels),
        format!("[{:<BAR$}] {:>6}", "#".repeat(filled), percent(server.share)),
        count(server.failures),
    ]
}

fn tunnels(app: &App, width: u16) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(title(app), HEAD)];
    let columns = columns(app.sort, width);
    let heads: Vec<(String, Align)> = columns.iter().map(|column| column.head(app)).collect();
    let rows: Vec<Vec<String>> = app
        .tunnels()
        .iter()
        .map(|tunnel| columns.iter().map(|column| column.cell(tunnel)).collect())
        .collect();
    let styles = app.tunnels().iter().enumerate().map(|(at, tunnel)| match tunnel.state.as_str() {
        _ if at == app.chosen_tunnel() && app.focus == Pane::Tunnels => CHOSEN,
        "leaving" | "stalled" => CHANGES,
        _ => Style::new(),
    });
    let (head, rest) = aligned(&heads, &rows, styles);
    lines.push(head);
    lines.extend(rest.into_iter().take(app.rows().tunnels.into()));
    lines
}

/// Which tunnels these are.
fn title(app: &App) -> String {
    let filters = match app.filters.is_empty() {
        true => String::new(),
        false => format!(" with {}", printable(&app.filter_text())),
    };
    match &app.page {
        None => format!("tunnels{filters}: looking"),
        Some(page) if page.tunnels.is_empty() => format!("no tunnels{filters}"),
        Some(page) => {
            let first = app.before() + 1;
            let last = app.before() + page.tunnels.len() as u64;
            format!("{} to {} of {}{filters}", count(first), count(last), counted(page.matched, "tunnel"))
        }
    }
}

/// Lines of a table, each with its style, and the line of heads.
fn aligned<H: AsRef<str>>(
    heads: &[(H, Align)],
    rows: &[Vec<String>],
    styles: impl Iterator<Item = Style>,
) -> (Line<'static>, Vec<Line<'static>>) {
    let text = Table::new(heads).lines(rows);
    let mut lines = text.lines().map(str::to_owned);
    let head = Line::styled(lines.next().unwrap_or_default(), HEAD);
    (head, lines.zip(styles).map(|(line, style)| Line::styled(line, style)).collect())
}

#[derive(Clone, Copy)]
enum Column {
    Client,
    Server,
    State,
    AskedFor,
    /// One that is sorted by.
    Of(Sort),
}

/// What there is room for: on a narrow terminal one column of bytes, that which is sorted by.
fn columns(sort: Sort, width: u16) -> Vec<Column> {
    let mut columns = vec![Column::Client, Column::Of(Sort::Age), Column::Of(Sort::Idle)];
    match sort {
        _ if width >= WIDE => columns.extend([Sort::Bytes, Sort::BytesUp, Sort::BytesDown].map(Column::Of)),
        Sort::BytesUp | Sort::BytesDown => columns.push(Column::Of(sort)),
        Sort::Age | Sort::Idle | Sort::Bytes | Sort::Rate => columns.push(Column::Of(Sort::Bytes)),
    }
    columns.extend([Column::Of(Sort::Rate), Column::State, Column::Server, Column::AskedFor]);
    columns
}

impl Column {
    /// Its name, with the direction where it is sorted by.
    fn head(self, app: &App) -> (String, Align) {
        let (name, align) = match self {
            Column::Client => ("CLIENT", Left),
            Column::Server => ("UPSTREAM/SERVER", Left),
            Column::State => ("STATE", Left),
            Column::AskedFor => ("ASKED FOR", Left),
            Column::Of(Sort::Age) => ("AGE", Right),
            Column::Of(Sort::Idle) => ("IDLE", Right),
            Column::Of(Sort::Bytes) => ("BYTES", Right),
            Column::Of(Sort::BytesUp) => ("UP", Right),
            Column::Of(Sort::BytesDown) => ("DOWN", Right),
            Column::Of(Sort::Rate) => ("RATE", Right),
        };
        let mark = match (self, app.order) {
            (Column::Of(sort), Order::Most) if sort == app.sort => "v",
            (Column::Of(sort), Order::Least) if sort == app.sort => "^",
            _ => "",
        };
        (format!("{mark}{name}"), align)
    }

    fn cell(self, tunnel: &Tunnel) -> String {
        match self {
            Column::Client => printable(&tunnel.client),
            Column::Server => printable(&format!("{}/{}", tunnel.upstream, tunnel.server)),
            Column::State => printable(&tunnel.state),
            Column::AskedFor => asked_for(tunnel),
            Column::Of(Sort::Age) => age(tunnel.age),
            Column::Of(Sort::Idle) => age(tunnel.idle),
            Column::Of(Sort::Bytes) => bytes(tunnel.bytes_up.saturating_add(tunnel.bytes_down)),
            Column::Of(Sort::BytesUp) => bytes(tunnel.bytes_up),
            Column::Of(Sort::BytesDown) => bytes(tunnel.bytes_down),
            Column::Of(Sort::Rate) => {
                let carried = tunnel.bytes_up.saturating_add(tunnel.bytes_down);
                // Of a tunnel that was opened just now there is no telling.
                rate(if tunnel.age > 0.0 { carried as f64 / tunnel.age } else { 0.0 })
            }
        }
    }
}

/// A question, what is being written, what became of the last deed, or what keys there are.
fn foot(app: &App) -> Line<'static> {
    match (&app.mode, &app.notice) {
        (Mode::Asking(deed), _) => Line::styled(deed.question(), CHOSEN),
        (Mode::Filtering(text), None) => Line::raw(format!("filter: {}_", printable(text))),
        (_, Some(notice)) => Line::styled(notice.clone(), HEAD),
        (Mode::Watching | Mode::Helping, None) => Line::raw(KEYS),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::{Buffer, Cell};
    use ratatui::crossterm::event::KeyCode;

    use super::super::state::Event;
    use super::super::state::tests::{page, press, sample, see, status, write};
    use super::*;

    fn drawn(app: &App, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, app)).expect("drawn");
        terminal.backend().buffer().clone()
    }

    /// The screen as text, without blanks at the ends of lines.
    fn text(app: &App, width: u16, height: u16) -> String {
        let buffer = drawn(app, width, height);
        let line = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
        (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
    }

    /// Lines that are not plain: their first words, and how they are.
    fn styles(app: &App, width: u16, height: u16) -> Vec<(String, Style)> {
        let buffer = drawn(app, width, height);
        let line = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
        let first = |y| line(y).split(' ').next().unwrap_or_default().to_owned();
        let styled = (0..height).map(|y| (first(y), buffer[(0, y)].style()));
        styled.filter(|(_, style)| *style != Cell::default().style()).collect()
    }

    #[test]
    fn a_wide_screen() {
        let mut app = sample(20);
        let mut later = status();
        later.uptime += 2.0;
        later.tunnels.opened += 25;
        later.bytes.up += 4 << 20;
        see(&mut app, &later, &page(crate::ctl::show::samples::PAGE));
        assert_eq!(
            text(&app, 160, 20),
            "\
adit 0.1.0: serving, up 3d 4h
tunnels 1,234 open, 12.5/s opened   sessions 1,240 of 10,000, 3 refused
up 2.0 MiB/s, 1.2 GiB in all   down 0 B/s, 3.5 GiB in all
UPSTREAM/SERVER               STATE              SESSIONS  TUNNELS  SHARE                FAILURES
websocket/10.0.0.1:8010       in                      605      600  [#####     ]  50.0%         0
websocket/10.0.0.2:8010       drains (operator)       602      601  [#####     ]  50.0%         4
websocket/10.0.0.3:8010       out, backup               0        0  [          ]   0.0%        17
broker/unix:/run/broker.sock  in                       33       33  [##########] 100.0%         0
1 to 2 of 1,234 tunnels
CLIENT             vAGE    IDLE    BYTES       UP     DOWN        RATE  STATE        \
UPSTREAM/SERVER               ASKED FOR
192.0.2.1:50000   3d 4h    0.5s  1.2 MiB  1.2 MiB     10 B       5 B/s  open         websocket/10.0.0.1:8010       \
chat.example.com/wsapp/room\\u{1b}[2J
unix:            4m 10s  4m 10s  5.0 GiB      0 B  5.0 GiB  20.5 MiB/s  half_closed  broker/unix:/run/broker.sock







q quit  ? help  / filter  left, right sort  r reverse  Tab servers, tunnels  c close  d drain
"
        );
    }

    #[test]
    fn a_narrow_screen_has_the_bytes_that_are_sorted_by() {
        let mut app = sample(14);
        assert!(text(&app, 80, 14).contains(
            "\nCLIENT             vAGE    IDLE    BYTES        RATE  STATE        UPSTREAM/SERV\n"
        ));
        for _ in 0..3 {
            press(&mut app, KeyCode::Right);
        }
        press(&mut app, KeyCode::Char('r'));
        see(&mut app, &status(), &page(crate::ctl::show::samples::PAGE));
        assert_eq!(
            text(&app, 80, 14),
            "\
adit 0.1.0: serving, up 3d 4h
tunnels 1,234 open, - opened   sessions 1,240 of 10,000, 3 refused
up -, 1.2 GiB in all   down -, 3.5 GiB in all
UPSTREAM/SERVER               STATE              SESSIONS  TUNNELS  SHARE
websocket/10.0.0.1:8010       in                      605      600  [#####     ]
websocket/10.0.0.2:8010       drains (operator)       602      601  [#####     ]
1 to 2 of 1,234 tunnels
CLIENT              AGE    IDLE      ^UP        RATE  STATE        UPSTREAM/SERV
192.0.2.1:50000   3d 4h    0.5s  1.2 MiB       5 B/s  open         websocket/10.
unix:            4m 10s  4m 10s      0 B  20.5 MiB/s  half_closed  broker/unix:/



q quit  ? help  / filter  left, right sort  r reverse  Tab servers, tunnels  c c
"
        );
    }

    #[test]
    fn what_is_chosen_and_what_is_wrong_stands_out() {
        let mut app = sample(20);
        let word = |word: &str, style: Style| (word.to_owned(), Cell::default().style().patch(style));
        let heads = [word("adit", HEAD), word("UPSTREAM/SERVER", HEAD)];
        let states = [word("websocket/10.0.0.2:8010", CHANGES), word("websocket/10.0.0.3:8010", WRONG)];
        let titles = [word("1", HEAD), word("CLIENT", HEAD)];
        let chosen = [word("192.0.2.1:50000", CHOSEN)];
        assert_eq!(styles(&app, 80, 20), [&heads[..], &states, &titles, &chosen].concat());
        press(&mut app, KeyCode::Tab);
        let chosen = [word("websocket/10.0.0.1:8010", CHOSEN)];
        assert_eq!(styles(&app, 80, 20), [&heads[..], &chosen, &states, &titles].concat());
    }

    #[test]
    fn the_list_of_servers_moves_with_what_is_chosen() {
        let mut app = sample(14);
        press(&mut app, KeyCode::Tab);
        for _ in 0..2 {
            press(&mut app, KeyCode::Down);
        }
        let lines = text(&app, 160, 14);
        let lines: Vec<&str> = lines.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(lines[4..6], ["websocket/10.0.0.2:8010", "websocket/10.0.0.3:8010"]);
    }

    #[test]
    fn the_last_line_asks_and_tells() {
        let last = |app: &App| text(app, 160, 20).lines().last().unwrap_or_default().to_owned();
        let mut app = sample(20);
        press(&mut app, KeyCode::Char('c'));
        assert_eq!(
            last(&app),
            "close the tunnel of 192.0.2.1:50000 to websocket/10.0.0.1:8010, ba7d5af70d9b615026ee48d0875f2b07? [y/N]"
        );
        press(&mut app, KeyCode::Char('n'));
        assert_eq!(last(&app), "not done");
        press(&mut app, KeyCode::Char('/'));
        write(&mut app, "client=x");
        assert_eq!(last(&app), "filter: client=x_");
        press(&mut app, KeyCode::Enter);
        assert!(text(&app, 160, 20).contains("\ntunnels with client=x: looking\n"));
        see(&mut app, &status(), &page(r#"{"matched": 0, "tunnels": []}"#));
        assert!(text(&app, 160, 20).contains("\nno tunnels with client=x\n"));
        app.on(Event::Done(Ok("1 tunnel is closed".into())));
        assert_eq!(last(&app), "1 tunnel is closed");
    }

    #[test]
    fn help_has_all_keys() {
        let mut app = sample(24);
        press(&mut app, KeyCode::Char('?'));
        let drawn = text(&app, 100, 24);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[3..22], HELP);
        press(&mut app, KeyCode::Char('x'));
        assert!(text(&app, 100, 24).contains("UPSTREAM/SERVER"));
    }

    #[test]
    fn no_answer_is_told_in_the_first_line() {
        let first = |app: &App| text(app, 100, 20).lines().next().unwrap_or_default().to_owned();
        let mut app = sample(20);
        app.trouble = Some("unix:/s (from --admin): nobody listens there".into());
        assert_eq!(first(&app), "unix:/s (from --admin): nobody listens there");
        assert!(text(&app, 100, 20).contains("192.0.2.1:50000"), "what was seen last is still there");
        let mut app = App::new(20);
        assert!(text(&app, 100, 20).contains("tunnels: looking"));
        app.trouble = Some("nobody".into());
        assert_eq!(first(&app), "nobody");
        let mut app = sample(20);
        press(&mut app, KeyCode::Char(' '));
        assert_eq!(first(&app), "adit 0.1.0: serving, up 3d 4h, but this is paused");
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn_on() {
        for height in 0..30 {
            for width in [0, 1, 2, 5, 40, 119, 120, 300] {
                for key in ['x', '?', '/', 'c'] {
                    let mut app = sample(height);
                    press(&mut app, KeyCode::Char(key));
                    drawn(&app, width, height);
                    // Before the news of another size has come.
                    drawn(&app, width, 30 - height);
                }
            }
        }
    }

    /// Names are whatever clients and the file say; cells of the screen must not be.
    #[test]
    fn nothing_on_the_screen_controls_it() {
        let mut app = sample(20);
        let evil = "\u{1b}[31m\u{9b}2J\r\n\u{202e}\u{7f}\t";
        let mut status = status();
        status.phase = evil.into();
        status.version = evil.into();
        status.upstreams[0].upstream = evil.into();
        status.upstreams[0].servers[0].server = evil.into();
        status.upstreams[0].servers[0].state = evil.into();
        let mut page = page(crate::ctl::show::samples::PAGE);
        let tunnel = &mut page.tunnels[0];
        for text in
            [&mut tunnel.id, &mut tunnel.client, &mut tunnel.state, &mut tunnel.upstream, &mut tunnel.server]
        {
            *text = evil.into();
        }
        (tunnel.host, tunnel.path) = (Some(evil.into()), Some(evil.into()));
        for key in ['x', 'c'] {
            see(&mut app, &status, &page);
            press(&mut app, KeyCode::Char(key));
            let buffer = drawn(&app, 600, 20);
            let is_harmless = |symbol: &str| symbol.chars().all(|c| (' '..='~').contains(&c));
            assert!(buffer.content().iter().all(|cell| is_harmless(cell.symbol())));
            assert!(text(&app, 600, 20).contains("\\u{1b}[31m"), "it is spelt out");
        }
    }
}
