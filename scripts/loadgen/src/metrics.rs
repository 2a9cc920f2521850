//! What adit tells Prometheus, read back: its text format, as far as adit writes it. Pure.

/// One line of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Series<'a> {
    pub name: &'a str,
    /// As they are written, without the braces.
    pub labels: &'a str,
    pub value: f64,
}

impl<'a> Series<'a> {
    /// The value of a label, as it is written.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.labels;
        while !rest.is_empty() {
            let (key, behind) = rest.split_once("=\"")?;
            let end = end_of_quoted(behind)?;
            if key == name {
                return Some(&behind[..end]);
            }
            rest = behind[end + 1..].trim_start_matches(',');
        }
        None
    }
}

/// Where a text ends that a quote ends.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.find(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    })
}

/// All series, or the first line that is none.
pub fn parse(text: &str) -> Result<Vec<Series<'_>>, String> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| series(line).ok_or_else(|| format!("this is no metric: {line:?}"))).collect()
}

fn series(line: &str) -> Option<Series<'_>> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => {
            let end = end_of_labels(rest)?;
            (&rest[..end], &rest[end + 1..])
        }
        None => ("", rest),
    };
    let value = value.strip_prefix(' ')?.parse().ok()?;
    (!name.is_empty()).then_some(Series { name, labels, value })
}

/// Where the first brace is that is not in quotes.
fn end_of_labels(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        match text[at..].find(['"', '}'])? {
            found if text[at + found..].starts_with('}') => return Some(at + found),
            found => {
                let quoted = at + found + 1;
                at = quoted + end_of_quoted(&text[quoted..])? + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_apart_by_name_and_labels() {
        let text = "# HELP a What it is.\n# TYPE a counter\na 1\nb{} 2\nc{d=\"}\\\"{\",e=\"no route, x=\\\"\"} 0.5\n\
                    f_bucket{le=\"+Inf\"} 1e3\n";
        let found = parse(text).unwrap();
        let told: Vec<(&str, f64)> = found.iter().map(|series| (series.name, series.value)).collect();
        assert_eq!(told, [("a", 1.0), ("b", 2.0), ("c", 0.5), ("f_bucket", 1000.0)]);
        assert_eq!(found[2].label("d"), Some("}\\\"{"));
        assert_eq!(found[2].label("e"), Some("no route, x=\\\""));
        assert_eq!((found[2].label("x"), found[0].label("d")), (None, None));
        assert_eq!(found[3].label("le"), Some("+Inf"));
    }

    #[test]
    fn what_is_no_metric_is_named() {
        for line in ["a", "a x", "{b=\"c\"} 1", "a{b=\"c\" 1", "a{b=\"c} 1", "a{b=\"c\"}1", " 1", "<html>"] {
            let error = parse(&format!("ok 1\n{line}\n")).unwrap_err();
            assert!(error.contains(&format!("{line:?}")), "{error}");
        }
        assert_eq!(parse(""), Ok(vec![]));
    }
}
