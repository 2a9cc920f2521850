//! What Prometheus reads. Names and units by its conventions: base units, `_total` for what only grows.

use std::collections::BTreeMap;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::status::{self, View};
use crate::stats::{self, Stats};
use crate::sys::usage::Usage;

/// What the text is sent as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Families of metrics, in the order in which they are written.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

type Labels<'a> = &'a [(&'static str, &'a str)];

impl Families {
    /// A family without metrics is none.
    fn add(&mut self, kind: MetricType, name: &str, help: &str, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_field_type(kind);
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_metric(metrics);
        self.0.push(family);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add(MetricType::GAUGE, name, help, vec![gauge(&[], value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.add(MetricType::COUNTER, name, help, vec![counter(&[], value)]);
    }

    /// Over all workers.
    fn waits(&mut self, name: &str, help: &str, stats: &View<'_>, of: fn(&Stats) -> &stats::Histogram) {
        let histograms: Vec<_> = stats.stats.iter().map(|stats| of(stats)).collect();
        self.add(MetricType::HISTOGRAM, name, help, vec![histogram(&[], &histograms, 1e-6)]);
    }
}

fn labels(labels: Labels<'_>) -> Metric {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn gauge(of: Labels<'_>, value: f64) -> Metric {
    let (mut metric, mut gauge) = (labels(of), Gauge::default());
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

fn counter(of: Labels<'_>, value: f64) -> Metric {
    let (mut metric, mut counter) = (labels(of), Counter::default());
    counter.set_value(value);
    metric.set_counter(counter);
    metric
}

/// Several of ours as one of Prometheus's, whose buckets each have what those before it have. `unit`: ours in theirs.
fn histogram(of: Labels<'_>, histograms: &[&stats::Histogram], unit: f64) -> Metric {
    let (mut counts, mut sum) = (Vec::new(), 0);
    for histogram in histograms {
        histogram.add_to(&mut counts, &mut sum);
    }
    let bounds = histograms.first().map_or(&[][..], |histogram| histogram.bounds());
    let mut count = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, in_bucket) in bounds.iter().zip(&counts) {
        count += in_bucket;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(scaled(*bound, unit));
        bucket.set_cumulative_count(count);
        buckets.push(bucket);
    }
    let (mut metric, mut histogram) = (labels(of), Histogram::default());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(scaled(sum, unit));
    histogram.set_bucket(buckets);
    metric.set_histogram(histogram);
    metric
}

/// Microseconds in seconds by a division, which has no `0.0025000000000000001`.
fn scaled(value: u64, unit: f64) -> f64 {
    if unit < 1.0 { value as f64 / (1.0 / unit).round() } else { value as f64 * unit }
}

/// As text.
pub fn text(view: &View<'_>, usage: &Usage) -> Vec<u8> {
    let mut families = Families::default();
    sessions(view, &mut families);
    ways(view, &mut families);
    servers(view, &mut families);
    loops(view, &mut families);
    process(view, usage, &mut families);
    let mut out = Vec::with_capacity(16 * 1024);
    let written = TextEncoder::new().encode(&families.0, &mut out);
    debug_assert!(written.is_ok(), "memory takes what is written, and no family is empty");
    out
}

fn sessions(view: &View<'_>, families: &mut Families) {
    let sum = view.sum();
    let (mut refusals, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for stats in view.stats {
        stats.refusals.add_to(&mut refusals);
        stats.ends.add_to(&mut ends);
    }
    let refused = refusals.iter().map(|(rule, count)| counter(&[("rule", rule)], *count as f64)).collect();
    let ended = ends
        .iter()
        .map(|((outcome, by), count)| counter(&[("outcome", outcome), ("by", by)], *count as f64))
        .collect();
    families.counter("adit_sessions_accepted_total", "Clients that were let in.", sum.accepted as f64);
    families.gauge("adit_sessions_open", "Clients that are served now.", sum.open as f64);
    let limit = view.setup.plan.limits.max_connections;
    families.gauge("adit_sessions_max", "Clients that may be served at once.", limit as f64);
    let kind = MetricType::COUNTER;
    families.add(kind, "adit_sessions_refused_total", "Sessions that were refused, by the rule.", refused);
    families.add(
        kind,
        "adit_sessions_ended_total",
        "Sessions that ended, by how and whose doing it was.",
        ended,
    );
    families.counter("adit_tunnels_opened_total", "Tunnels that opened.", sum.tunnels_opened as f64);
    families.gauge("adit_tunnels_open", "Tunnels that are open now.", sum.tunnels_open as f64);
    let (up, down) = (sum.bytes_up as f64, sum.bytes_down as f64);
    let carried = vec![counter(&[("direction", "up")], up), counter(&[("direction", "down")], down)];
    let help = "Payload bytes that tunnels carried: up to servers, down to clients.";
    families.add(kind, "adit_tunnel_bytes_total", help, carried);
    let help = "Bytes of bulk that passed through the kernel alone.";
    families.counter("adit_spliced_bytes_total", help, sum.bytes_spliced as f64);
    families.counter("adit_panics_total", "Sessions that were ended by a bug of adit's.", sum.panics as f64);
    let help = "From accept to the open tunnel.";
    families.waits("adit_handshake_duration_seconds", help, view, |stats| &stats.handshakes);
    let help = "From dialing a server to being connected.";
    families.waits("adit_connect_duration_seconds", help, view, |stats| &stats.connects);
    let help = "For how long tunnels were open that have ended.";
    families.waits("adit_tunnel_lifetime_seconds", help, view, |stats| &stats.lifetimes);
}

/// Listeners and routes.
fn ways(view: &View<'_>, families: &mut Families) {
    let mut tunnels = Vec::new();
    for (place, listener) in view.setup.listener_names.iter().enumerate() {
        for (route, _, upstream, open) in view.routes(place) {
            let of = [("listener", listener.as_str()), ("route", route), ("upstream", upstream)];
            tunnels.push(gauge(&of, open.into()));
        }
    }
    let help = "Open tunnels of the present configuration's routes.";
    families.add(MetricType::GAUGE, "adit_route_tunnels", help, tunnels);
}

fn servers(view: &View<'_>, families: &mut Families) {
    const STATES: [&str; 3] = ["in", "out", "drains"];
    let [mut sessions, mut tunnels, mut opened, mut failures, mut states] = [const { Vec::new() }; 5];
    for (pool, rules) in view.setup.plan.pools.iter().enumerate() {
        for (id, backend, record) in view.servers(pool) {
            let of = [("upstream", rules.name.as_str()), ("server", backend.name.as_str())];
            let (open, since_start) = record.tunnels();
            sessions.push(gauge(&of, record.active().into()));
            tunnels.push(gauge(&of, open.into()));
            opened.push(counter(&of, since_start as f64));
            failures.push(counter(&of, record.failures() as f64));
            let state = status::state(view.setup, id);
            for name in STATES {
                let of = [of[0], of[1], ("state", name)];
                states.push(gauge(&of, if name == state { 1.0 } else { 0.0 }));
            }
        }
    }
    let (gauge, counter) = (MetricType::GAUGE, MetricType::COUNTER);
    families.add(gauge, "adit_server_sessions", "Sessions of a server, tunnels among them.", sessions);
    families.add(gauge, "adit_server_tunnels", "Open tunnels of a server.", tunnels);
    families.add(counter, "adit_server_tunnels_opened_total", "Tunnels that opened to a server.", opened);
    families.add(counter, "adit_server_failures_total", "Failed tries to reach a server.", failures);
    families.add(gauge, "adit_server_state", "1 for the state that a server is in.", states);
}

/// The loops themselves.
fn loops(view: &View<'_>, families: &mut Families) {
    let [mut events, mut durations, mut yields, mut open] = [const { Vec::new() }; 4];
    for (worker, stats) in view.stats.iter().enumerate() {
        let worker = worker.to_string();
        let of = [("worker", worker.as_str())];
        events.push(histogram(&of, &[&stats.turns.events], 1.0));
        durations.push(histogram(&of, &[&stats.turns.durations], 1e-6));
        yields.push(counter(&of, stats.turns.yields() as f64));
        open.push(gauge(&of, stats.snapshot().tunnels_open as f64));
    }
    families.add(MetricType::GAUGE, "adit_worker_tunnels", "Open tunnels of a worker.", open);
    families.add(MetricType::HISTOGRAM, "adit_turn_events", "Events of a turn of the loop.", events);
    let help = "How long a turn of the loop took, the wait for events left out.";
    families.add(MetricType::HISTOGRAM, "adit_turn_duration_seconds", help, durations);
    let help = "How often a session had more to do than a turn allows.";
    families.add(MetricType::COUNTER, "adit_yields_total", help, yields);
    let help = "Memory of buffers for bytes that wait, in use or kept for it.";
    families.gauge("adit_buffer_bytes", help, status::held_bytes(view) as f64);
    let help = "Pipes for bulk, in use or kept for it; each is two descriptors.";
    families.gauge("adit_pipes", help, status::pipes(view) as f64);
}

fn process(view: &View<'_>, usage: &Usage, families: &mut Families) {
    let [done, refused] = view.reloads;
    let reloads =
        vec![counter(&[("result", "done")], done as f64), counter(&[("result", "refused")], refused as f64)];
    families.add(MetricType::COUNTER, "adit_reloads_total", "Reloads of the configuration.", reloads);
    let since = view.now.since(view.configured_at);
    let configured = view.wall.checked_sub(since).unwrap_or(view.wall);
    let help = "When the present configuration became that.";
    families.gauge("adit_configuration_timestamp_seconds", help, status::unix_seconds(configured));
    let help = "Configurations that open sessions have, the present one among them.";
    families.gauge("adit_configurations", help, view.in_use as f64);
    families.counter(
        "adit_log_lines_lost_total",
        "Log lines that nobody took in time.",
        view.lost_lines as f64,
    );
    let build = vec![gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)];
    families.add(MetricType::GAUGE, "adit_build_info", "The version that runs.", build);
    let started = status::unix_seconds(status::started_at(view));
    families.gauge("process_start_time_seconds", "When the process began.", started);
    families.counter("process_cpu_seconds_total", "Processor time.", usage.processor_time.as_secs_f64());
    if let Some(bytes) = usage.resident_bytes {
        families.gauge("process_resident_memory_bytes", "Memory that is resident.", bytes as f64);
    }
    if let (Some(used), _) = view.descriptors {
        families.gauge("process_open_fds", "Descriptors in use.", used as f64);
    }
    families.gauge("process_max_fds", "Descriptors that there may be.", view.descriptors.1 as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_what_those_before_it_have() {
        let [first, second] = [Stats::default(), Stats::default()];
        [0, 1, 5, 5, 300].into_iter().for_each(|events| first.turns.events.add(events));
        [5, 1000].into_iter().for_each(|events| second.turns.events.add(events));
        let metric = histogram(&[], &[&first.turns.events, &second.turns.events], 1.0);
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        let found: Vec<_> = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect();
        assert_eq!(found[..5], [(0.0, 1), (1.0, 2), (2.0, 2), (4.0, 2), (8.0, 5)]);
        assert_eq!(found.last(), Some(&(256.0, 5)));
        assert_eq!((histogram.get_sample_count(), histogram.get_sample_sum()), (7, 1316.0));
    }

    #[test]
    fn microseconds_become_seconds_without_crumbs() {
        for (micros, seconds) in
            [(25, "0.000025"), (2_500, "0.0025"), (604_800_000_000, "604800"), (10, "0.00001")]
        {
            assert_eq!(scaled(micros, 1e-6).to_string(), seconds);
        }
        assert_eq!(scaled(256, 1.0), 256.0);
    }
}
