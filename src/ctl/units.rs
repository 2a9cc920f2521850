//! Numbers as people read them, and text of strangers as a terminal may have it. Pure.

/// "1,234,567".
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut told = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            told.push(',');
        }
        told.push(digit);
    }
    told
}

/// "1 tunnel", "1,234 tunnels".
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// "512 B", "1.2 MiB".
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be rounded up to 1024.0 is one of the next unit.
    while amount >= 1023.95 {
        let Some(next) = units.next() else { break };
        (amount, unit) = (amount / 1024.0, next);
    }
    format!("{amount:.1} {unit}")
}

/// "1.2 MiB/s".
pub fn rate(bytes_a_second: f64) -> String {
    // Negative and NaN become 0, and what is too much the most there is.
    format!("{}/s", bytes(bytes_a_second.round() as u64))
}

/// The two largest units of a duration in seconds, rounded down: "0.5s", "12s", "4m 10s", "3h 5m", "3d 4h".
pub fn age(seconds: f64) -> String {
    let whole = seconds as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86400);
    match whole {
        0 if seconds >= 0.1 => format!("{:.1}s", (seconds * 10.0).floor() / 10.0),
        0..60 => format!("{whole}s"),
        60..3600 => format!("{minutes}m {}s", whole % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{}d {}h", count(days), hours % 24),
    }
}

/// "12.5%".
pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// Text without what moves a cursor, colours the screen or turns the direction of writing: paths and hosts are whatever
/// a client sent. What is not to be seen is spelt out, `\u{1b}`.
pub fn printable(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // These are escaped by Rust as well, and need not be.
            '"' | '\'' | '\\' => told.push(c),
            _ => told.extend(c.escape_debug()),
        }
    }
    told
}

/// As [`printable`], but lines stay lines.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// As [`printable`] for the text of a JSON document, which stays the same document: what a terminal must not have can
/// only stand within a string there, where an escape means the same.
pub fn printable_json(document: &str) -> String {
    let mut told = String::with_capacity(document.len());
    for c in document.chars() {
        let is_harmless = c == '\n' || matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1;
        match (is_harmless, c) {
            (true, _) => told.push(c),
            // Between its parts.
            (false, '\r' | '\t') => told.push(' '),
            (false, _) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    told += &format!("\\u{unit:04x}");
                }
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let check = |number, expected: &str| assert_eq!(count(number), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(12_345, "12,345");
        check(123_456, "123,456");
        check(u64::MAX, "18,446,744,073,709,551,615");
        assert_eq!(counted(0, "tunnel"), "0 tunnels");
        assert_eq!(counted(1, "tunnel"), "1 tunnel");
        assert_eq!(counted(1234, "tunnel"), "1,234 tunnels");
    }

    #[test]
    fn sizes() {
        let check = |number, expected: &str| assert_eq!(bytes(number), expected, "{number}");
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1536, "1.5 KiB");
        check(1_048_524, "1023.9 KiB");
        check(1_048_525, "1.0 MiB");
        check(1_258_291, "1.2 MiB");
        check(5 << 40, "5.0 TiB");
        check(u64::MAX, "16.0 EiB");
        assert_eq!(rate(1_258_291.2), "1.2 MiB/s");
        assert_eq!(rate(0.4), "0 B/s");
        assert_eq!(rate(f64::NAN), "0 B/s");
        assert_eq!(rate(-5.0), "0 B/s");
        assert_eq!(rate(f64::INFINITY), "16.0 EiB/s");
    }

    #[test]
    fn ages() {
        let check = |seconds, expected: &str| assert_eq!(age(seconds), expected, "{seconds}");
        check(0.0, "0s");
        check(0.09, "0s");
        check(0.1, "0.1s");
        check(0.5, "0.5s");
        check(0.999, "0.9s");
        check(1.0, "1s");
        check(59.99, "59s");
        check(60.0, "1m 0s");
        check(250.0, "4m 10s");
        check(3599.9, "59m 59s");
        check(3600.0, "1h 0m");
        check(86_399.0, "23h 59m");
        check(273_600.0, "3d 4h");
        check(86_400.0 * 1234.0, "1,234d 0h");
        check(-1.0, "0s");
        check(f64::NAN, "0s");
        assert_eq!(percent(0.125), "12.5%");
        assert_eq!(percent(1.0), "100.0%");
    }

    #[test]
    fn a_stranger_s_text_does_nothing_to_a_terminal() {
        let check = |text, expected: &str| assert_eq!(printable(text), expected);
        check("/wsapp/?a=\"b\"&c='d'\\e", "/wsapp/?a=\"b\"&c='d'\\e");
        check("grüße/日本", "grüße/日本");
        check("\x1b[2J", "\\u{1b}[2J");
        check("a\r\n\tb\0", "a\\r\\n\\tb\\0");
        check("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}");
        check("\u{202e}fdp", "\\u{202e}fdp");
        check("a\u{2028}b\u{200b}c", "a\\u{2028}b\\u{200b}c");
        assert_eq!(printable_lines("a\x07\nb\n"), "a\\u{7}\nb\n");
    }

    #[test]
    fn a_document_for_a_terminal_is_the_same_document() {
        let document = "{\n\t\"a\": \"\\u001b \\\" \u{9b}31m \u{202e} \u{7f} \u{e0001} ü 日\"\r\n}\n";
        let told = printable_json(document);
        assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
        assert!(!told.contains(['\u{202e}', '\u{e0001}']), "{told:?}");
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(parse(&told), parse(document));
    }
}
