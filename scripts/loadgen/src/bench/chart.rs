//! Two drawings of a report: how each row stands to nginx, and the latencies by percentile.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::peers::Kind;
use super::report::{Against, Report, median, short_ratio};
use super::rows::Better;

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The figures of the first drawing, by row and name: what each says, so that less is better.
const RATIOS: &[(&str, &str, &str)] = &[
    ("echo-1", "cpu", "echo 64 B, 1 tunnel: CPU"),
    ("echo-64", "cpu", "echo 64 B, 64 tunnels: CPU"),
    ("echo-1000", "cpu", "echo 64 B, 1000 tunnels: CPU"),
    ("calls-64", "system calls", "echo 64 B: system calls"),
    ("instructions-64", "instructions", "echo 64 B: user instructions"),
    ("echo-16k", "cpu", "echo 16 KiB, 64 tunnels: CPU"),
    ("churn", "cpu", "open, echo, close: CPU"),
    ("calls-churn", "system calls", "open, echo, close: system calls"),
    ("instructions-churn", "instructions", "open, echo, close: user instructions"),
    ("bulk-up", "cpu", "bulk up: CPU"),
    ("bulk-down", "cpu", "bulk down: CPU"),
    ("bulk-both", "cpu", "bulk both ways: CPU"),
    ("bulk-both", "speed", "bulk both ways: time"),
    ("mixed", "p50", "echo beside bulk: p50"),
    ("mixed", "speed", "bulk beside echo: time"),
    ("idle", "memory", "idle tunnel: memory"),
    ("idle", "memory after 4 KiB", "idle tunnel that carried 4 KiB: memory"),
];

/// The rows of the second.
const LATENCIES: &[&str] = &["echo-64", "mixed"];

const ADIT: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const NGINX: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const HAPROXY: RGBColor = RGBColor(0x56, 0x9c, 0xd6);
const RELAY: RGBColor = RGBColor(0x9a, 0x9a, 0x9a);
const DIRECT: RGBColor = RGBColor(0x33, 0x33, 0x33);

const FONT: &str = "sans-serif";

/// Draws both into this folder.
pub fn draw(report: &Report, folder: &Path) -> Result<(), String> {
    let text = |error: Box<dyn Error>| format!("the charts: {error}");
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    ratios(report, &folder.join("bench-ratios.svg")).map_err(text)?;
    latencies(report, &folder.join("bench-latency.svg")).map_err(text)
}

/// A bar of the first drawing.
struct Bar {
    name: &'static str,
    color: RGBColor,
    ratio: fn(&Report, usize, usize) -> Option<f64>,
}

const BARS: &[Bar] = &[
    Bar { name: "adit", color: ADIT, ratio: |report, row, figure| best(report, row, figure, &[Kind::Adit]) },
    Bar {
        name: "HAProxy, with or without splice",
        color: HAPROXY,
        ratio: |report, row, figure| best(report, row, figure, &[Kind::Haproxy, Kind::HaproxySplice]),
    },
    Bar {
        name: "bare relay, copying or splicing",
        color: RELAY,
        ratio: |report, row, figure| best(report, row, figure, &[Kind::Relay, Kind::RelaySplice]),
    },
];

/// How the best of these kinds stands to nginx; below 1 it is better, whatever is counted.
fn best(report: &Report, row: usize, figure: usize, kinds: &[Kind]) -> Option<f64> {
    let nginx = report.against(Against::Nginx, row, figure).filter(|nginx| *nginx > 0.0)?;
    let best = report.best_of(row, figure, |kind| kinds.contains(&kind)).filter(|best| *best > 0.0)?;
    Some(match report.rows[row].figures()[figure].better {
        Better::Less => best / nginx,
        Better::More => nginx / best,
    })
}

fn ratios(report: &Report, path: &Path) -> Drawn {
    let figures: Vec<(&str, usize, usize)> = RATIOS
        .iter()
        .filter_map(|&(row, name, label)| {
            let row = report.rows.iter().position(|known| known.name == row)?;
            let figure = report.rows[row].figures().iter().position(|known| known.name == name)?;
            (BARS[0].ratio)(report, row, figure).map(|_| (label, row, figure))
        })
        .collect();
    if figures.is_empty() {
        return Ok(());
    }
    let (top, bar_height) = (78, 11);
    let slot = bar_height * BARS.len() as i32 + 10;
    let height = top + slot * figures.len() as i32 + 40;
    let root = SVGBackend::new(path, (900, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("Ratio to {}: left of the line is better", nginx_name(report));
    root.draw(&Text::new(title, (20, 14), (FONT, 20).into_font().color(&BLACK)))?;
    let legend = BARS.iter().map(|bar| (bar.name, bar.color, Shape::Box)).collect::<Vec<_>>();
    draw_legend(&root, &legend, (20, 46))?;

    let all =
        || figures.iter().flat_map(|&(_, r, f)| BARS.iter().filter_map(move |bar| (bar.ratio)(report, r, f)));
    // Room for the numbers beside the bars.
    let low = all().fold(0.5, f64::min) * 0.7;
    let high = all().fold(1.2, f64::max) * 1.4;
    let (left, right) = (300, 880);
    // Where a ratio stands: each factor of ten is as wide as any other.
    let x = |ratio: f64| left + ((ratio / low).ln() / (high / low).ln() * f64::from(right - left)) as i32;
    let bottom = top + slot * figures.len() as i32;
    for mark in [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0] {
        if mark < low || mark > high {
            continue;
        }
        let shade = if mark == 1.0 { BLACK.mix(0.8) } else { BLACK.mix(0.12) };
        root.draw(&PathElement::new(vec![(x(mark), top - 4), (x(mark), bottom)], shade))?;
        let style = (FONT, 13).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        root.draw(&Text::new(format!("{mark}"), (x(mark), bottom + 8), style))?;
    }
    for (place, &(label, row, figure)) in figures.iter().enumerate() {
        let y = top + slot * place as i32;
        let style = (FONT, 14).into_font().color(&BLACK).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new(label, (left - 12, y + slot / 2 - 5), style))?;
        for (line, bar) in BARS.iter().enumerate() {
            let Some(ratio) = (bar.ratio)(report, row, figure) else { continue };
            let y = y + bar_height * line as i32;
            let (near, far) = (x(ratio).min(x(1.0)), x(ratio).max(x(1.0)));
            root.draw(&Rectangle::new([(near, y), (far, y + bar_height - 1)], bar.color.filled()))?;
            let (side, beside) = if ratio < 1.0 { (HPos::Right, near - 4) } else { (HPos::Left, far + 4) };
            let style = (FONT, 11).into_font().color(&BLACK).pos(Pos::new(side, VPos::Center));
            root.draw(&Text::new(short_ratio(ratio), (beside, y + bar_height / 2), style))?;
        }
    }
    root.present()?;
    Ok(())
}

fn nginx_name(report: &Report) -> String {
    super::peers::baseline(&report.peers).map_or("nginx".into(), |place| report.peers[place].name.clone())
}

/// What stands beside a name in a legend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Box,
    Solid,
    Dashes,
}

fn draw_legend(root: &Area, entries: &[(&str, RGBColor, Shape)], (mut x, y): (i32, i32)) -> Drawn {
    for &(name, color, shape) in entries {
        let parts: &[(i32, i32)] = match shape {
            Shape::Box => &[(0, 12)],
            Shape::Solid => &[(0, 20)],
            Shape::Dashes => &[(0, 5), (8, 13), (16, 20)],
        };
        let (up, down) = if shape == Shape::Box { (0, 12) } else { (5, 8) };
        for &(from, to) in parts {
            root.draw(&Rectangle::new([(x + from, y + up), (x + to, y + down)], color.filled()))?;
        }
        let text_x = x + parts[parts.len() - 1].1 + 6;
        let style = (FONT, 14).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(name, (text_x, y + 6), style))?;
        x = text_x + 22 + name.len() as i32 * 7;
    }
    Ok(())
}

/// A line of the second drawing.
struct Line {
    name: String,
    color: RGBColor,
    is_dashed: bool,
    points: Vec<(f64, f64)>,
}

fn latencies(report: &Report, path: &Path) -> Drawn {
    let panels: Vec<(&str, Vec<Line>)> = LATENCIES
        .iter()
        .filter_map(|name| {
            let row = report.rows.iter().position(|known| known.name == *name)?;
            let lines = lines(report, row);
            (!lines.is_empty()).then_some((report.rows[row].title, lines))
        })
        .collect();
    if panels.is_empty() {
        return Ok(());
    }
    let root = SVGBackend::new(path, (900, 460)).into_drawing_area();
    root.fill(&WHITE)?;
    let style = (FONT, 20).into_font().color(&BLACK);
    root.draw(&Text::new("Latency of an echo by percentile, µs", (20, 14), style))?;
    let mut legend: Vec<(&str, RGBColor, Shape)> = Vec::new();
    for line in panels.iter().flat_map(|(_, lines)| lines) {
        if legend.iter().all(|(name, ..)| *name != line.name) {
            legend.push((&line.name, line.color, if line.is_dashed { Shape::Dashes } else { Shape::Solid }));
        }
    }
    draw_legend(&root, &legend, (20, 46))?;
    let (_, body) = root.split_vertically(66);
    for (area, (title, lines)) in body.split_evenly((1, panels.len())).iter().zip(&panels) {
        panel(area, title, lines)?;
    }
    root.present()?;
    Ok(())
}

/// One of each kind: adit, the nginx that is compared with, and the rest as they come.
fn lines(report: &Report, row: usize) -> Vec<Line> {
    let nginx = super::peers::baseline(&report.peers);
    let peers = report.peers.iter().enumerate();
    let lines = peers.filter_map(|(place, peer)| {
        let (color, is_dashed) = match peer.kind {
            Kind::Adit => (ADIT, false),
            Kind::Nginx if Some(place) == nginx => (NGINX, false),
            Kind::Haproxy => (HAPROXY, false),
            Kind::HaproxySplice => (HAPROXY, true),
            Kind::Relay => (RELAY, false),
            Kind::RelaySplice => (RELAY, true),
            Kind::Direct => (DIRECT, true),
            Kind::AditLog | Kind::AditAdmin | Kind::Nginx => return None,
        };
        let histograms: Vec<&[(f64, f64)]> =
            report.counted(row, place).iter().map(|run| &run.sample.histogram[..]).collect();
        let points = merged(&histograms);
        (!points.is_empty()).then(|| Line { name: peer.name.clone(), color, is_dashed, points })
    });
    lines.collect()
}

/// The median of the rounds at each percentile that all of them have.
fn merged(histograms: &[&[(f64, f64)]]) -> Vec<(f64, f64)> {
    let Some((first, rest)) = histograms.split_first() else { return Vec::new() };
    let at = |histogram: &[(f64, f64)], percentile: f64| {
        histogram.iter().find(|(known, _)| *known == percentile).map(|(_, value)| *value)
    };
    let points = first.iter().filter_map(|&(percentile, value)| {
        let others = rest.iter().map(|histogram| at(histogram, percentile));
        let all: Option<Vec<f64>> = others.chain([Some(value)]).collect();
        Some((percentile, median(&all?)?))
    });
    points.collect()
}

/// Where a percentile stands: 90, 99 and 99.9 are as far from each other.
fn nines(percentile: f64) -> f64 {
    100.0 / (100.0 - percentile).max(0.01)
}

fn panel(area: &Area, title: &str, lines: &[Line]) -> Drawn {
    let values = || lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| value.max(1.0)));
    let low = values().fold(f64::MAX, f64::min) * 0.8;
    let high = values().fold(1.0, f64::max) * 1.2;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(30)
        .caption(title, (FONT, 16))
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..10_000.0).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style((FONT, 13))
        .x_labels(5)
        .y_labels(12)
        .x_label_formatter(&|nines| format!("{} %", (100.0 - 100.0 / nines) as f32))
        .y_label_formatter(&|value| super::report::short(*value).trim_end_matches(".0").to_owned())
        .draw()?;
    for line in lines {
        let points = line.points.iter().map(|&(percentile, value)| (nines(percentile), value.max(1.0)));
        if line.is_dashed {
            chart.draw_series(DashedLineSeries::new(points, 6, 4, line.color.stroke_width(2)))?;
        } else {
            chart.draw_series(LineSeries::new(points, line.color.stroke_width(2)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_merged_at_the_percentiles_that_all_have() {
        let rounds: [&[(f64, f64)]; 3] = [
            &[(50.0, 3.0), (99.0, 9.0)],
            &[(50.0, 1.0), (99.0, 7.0), (99.9, 8.0)],
            &[(50.0, 2.0), (99.0, 70.0)],
        ];
        assert_eq!(merged(&rounds), [(50.0, 2.0), (99.0, 9.0)]);
        assert_eq!(merged(&[]), []);
    }

    #[test]
    fn every_nine_is_as_wide_as_the_one_before() {
        assert_eq!([0.0, 90.0, 99.0].map(|p| nines(p).round()), [1.0, 10.0, 100.0]);
        assert_eq!(nines(100.0), 10_000.0);
    }

    #[test]
    fn every_figure_that_is_drawn_exists() {
        for (row, figure, _) in RATIOS {
            let row = super::super::rows::ROWS.iter().find(|known| known.name == *row);
            let found = row.is_some_and(|row| row.figures().iter().any(|known| known.name == *figure));
            assert!(found, "{row:?} {figure}");
        }
    }
}
